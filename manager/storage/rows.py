"""How things look as rows. Both sides of the store, the one that writes and those that read, read them alike."""

import sqlite3
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any, Final

import msgspec

from manager.ports import HostRow, Token
from shared_types.api import TokenInfo, TokenKind
from shared_types.events import StoredEvent
from shared_types.hosts import AgentInfo, HostCapabilities

LAST_ID: Final = (1 << 32) - 1  # the largest public id of an event

_capabilities: Final = msgspec.json.Decoder(HostCapabilities)
_agents: Final = msgspec.json.Decoder(tuple[AgentInfo, ...])
_labels: Final = msgspec.json.Decoder(dict[str, str])


def event_no(session_no: int, last_id: int) -> int:
    """The key of a run of events that ends with `last_id`.

    >>> event_no(1, 2) - event_no(1, 1), event_no(2, 0) > event_no(1, LAST_ID)
    (1, True)
    """
    return session_no << 32 | last_id


def latest_event(db: sqlite3.Connection, session_no: int, first_kept: int) -> int:
    """The newest id of a session; one before the first when its log is empty."""
    row = db.execute(
        "SELECT no FROM event WHERE no BETWEEN ? AND ? ORDER BY no DESC LIMIT 1",
        (event_no(session_no, 0), event_no(session_no, LAST_ID)),
    ).fetchone()
    return first_kept - 1 if row is None else int(row[0]) & LAST_ID


def one_line_each(bodies: Sequence[bytes]) -> tuple[Sequence[bytes], bytes]:
    """The bodies, each on one line, and all of them as lines.

    JSON allows line breaks between its tokens (never inside its strings), and others write it so.
    """
    joined = b"\n".join(bodies)
    if joined.count(b"\n") != len(bodies) - 1 or b"\r" in joined:
        bodies = [body.replace(b"\n", b" ").replace(b"\r", b" ") for body in bodies]
        joined = b"\n".join(bodies)
    return bodies, joined


def public_events(first_id: int, task_id: str, attempt: int, lines: Sequence[bytes]) -> list[StoredEvent]:
    return [
        StoredEvent(id=id, task_id=task_id, attempt=attempt, body=msgspec.Raw(line))
        for id, line in enumerate(lines, first_id)
    ]


_AT_ONCE: Final = 32


def put_rows(db: sqlite3.Connection, insert: str, rows: Sequence[Sequence[Any]], otherwise: str = "") -> None:
    """Many rows with few statements. Each statement lets the interpreter go and has to get it back from a busy event
    loop, which for one row at a time would take longer than all the rest.
    """
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        db.execute(_statement(insert, len(some[0]), len(some), otherwise), list(chain.from_iterable(some)))


@cache
def _statement(insert: str, columns: int, rows: int, otherwise: str) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"{insert} {', '.join([row] * rows)} {otherwise}"


HOST_COLUMNS: Final = (
    "id, labels, capabilities, agents, generation, protocol, version, boot_id, last_seen_at, connected_at,"
    " disconnected_at, draining, last_assigned_at, keeps_leases"
)


def hosts_in(db: sqlite3.Connection) -> Iterator[HostRow]:
    """Every host that connected at least once."""
    for row in db.execute(f"SELECT {HOST_COLUMNS} FROM host WHERE capabilities IS NOT NULL"):  # noqa: S608 - our own
        yield decode_host(row)


def decode_host(row: Sequence[Any]) -> HostRow:
    """A row of HOST_COLUMNS."""
    return HostRow(
        host_id=row[0],
        labels=_labels.decode(row[1]),
        capabilities=_capabilities.decode(row[2]),
        agents=_agents.decode(row[3]),
        generation=row[4],
        protocol=row[5],
        version=row[6],
        boot_id=row[7],
        last_seen_at=row[8],
        connected_at=row[9],
        disconnected_at=row[10],
        draining=bool(row[11]),
        last_assigned_at=row[12],
        keeps_leases=bool(row[13]),
    )


TOKEN_COLUMNS: Final = "id, hash, name, kind, host_id, created_at, last_used_at, revoked_at"  # noqa: S105 - columns


def decode_token(row: Sequence[Any]) -> Token:
    """A row of TOKEN_COLUMNS."""
    return Token(
        hash=row[1],
        info=TokenInfo(
            id=row[0],
            name=row[2],
            kind=TokenKind(row[3]),
            host_id=row[4],
            created_at=row[5],
            last_used_at=row[6],
            revoked_at=row[7],
        ),
    )
