"""Who may come in and what they have read: rare, so it goes straight to its tables.

Called with the writer's connection inside its transaction; whoever raises has changed nothing.
"""

import sqlite3
from typing import Final

import msgspec

from manager.errors import Conflict, Forbidden, NotFound
from manager.ports import Token
from manager.storage.rows import TOKEN_COLUMNS, decode_token

_encode = msgspec.json.Encoder().encode
_labels: Final = msgspec.json.Decoder(dict[str, str])


def add_token(db: sqlite3.Connection, token: Token) -> Token:
    info = token.info
    row = (
        info.id,
        token.hash,
        info.name,
        info.kind.value,
        info.host_id,
        info.created_at,
        info.last_used_at,
        info.revoked_at,
    )
    db.execute("INSERT INTO token VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    return token


def revoke_token(db: sqlite3.Connection, token_id: str, now: int) -> Token:
    """Said again it keeps the time of the first."""
    db.execute("UPDATE token SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL", (now, token_id))
    token = _token(db, token_id)
    if token is None:
        raise NotFound(f"there is no token {token_id}", code="NO_SUCH_TOKEN")
    return token


def touch_token(db: sqlite3.Connection, token_id: str, now: int) -> Token | None:
    db.execute("UPDATE token SET last_used_at = ? WHERE id = ?", (now, token_id))
    return _token(db, token_id)


def _token(db: sqlite3.Connection, token_id: str) -> Token | None:
    row = db.execute(f"SELECT {TOKEN_COLUMNS} FROM token WHERE id = ?", (token_id,)).fetchone()  # noqa: S608 - ours
    return None if row is None else decode_token(row)


def add_join_code(db: sqlite3.Connection, hash: str, expires_at: int, labels: dict[str, str]) -> None:
    db.execute(
        "INSERT INTO join_code (hash, expires_at, labels) VALUES (?, ?, ?)",
        (hash, expires_at, _encode(labels).decode()),
    )


def redeem_join_code(db: sqlite3.Connection, hash: str, host_id: str, token: Token, now: int) -> dict[str, str]:
    """A code that cannot be used says no more than that. A name that is taken leaves the code usable."""
    row = db.execute(
        "SELECT labels FROM join_code WHERE hash = ? AND used_at IS NULL AND expires_at > ?", (hash, now)
    ).fetchone()
    if row is None:
        raise Forbidden(
            "this join code is unknown, used or expired",
            code="BAD_JOIN_CODE",
            hint="make a new one with `fleetgate invite`",
        )
    taken = db.execute(
        "SELECT 1 FROM token WHERE host_id = ? AND kind = 'host' AND revoked_at IS NULL", (host_id,)
    ).fetchone()
    if taken is not None:
        raise Conflict(
            f"a host called {host_id} has joined already",
            code="HOST_EXISTS",
            hint="give another id, or revoke its token first",
        )
    db.execute("UPDATE join_code SET used_at = ? WHERE hash = ?", (now, hash))
    db.execute(
        "INSERT INTO host (id, labels) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET labels = excluded.labels",
        (host_id, row[0]),
    )
    add_token(db, token)
    return _labels.decode(row[0])


def mark(db: sqlite3.Connection, principal: str, device: str, session_id: str, event_id: int) -> None:
    """Only forward."""
    db.execute(
        "INSERT INTO mark VALUES (?, ?, ?, ?) ON CONFLICT (principal, device, session_id) DO UPDATE SET"
        " event_id = max(event_id, excluded.event_id)",
        (principal, device, session_id, event_id),
    )
