"""Writes about who may come in and what they have read: rare, so they go straight to their tables."""

import sqlite3
from typing import Final

import msgspec

from manager.errors import Conflict, Forbidden, NotFound
from manager.ports import Token
from manager.storage import hosts
from manager.storage.ledger import Ledger
from manager.storage.rows import TOKEN_COLUMNS, decode_token
from shared_types.api import TokenInfo

_encode = msgspec.json.Encoder().encode
_labels: Final = msgspec.json.Decoder(dict[str, str])


def add_token(ledger: Ledger, token: Token) -> None:
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
    ledger.write("INSERT INTO token VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    ledger.put_token(token)


def revoke_token(ledger: Ledger, token_id: str, now: int) -> TokenInfo:
    """Said again it keeps the time of the first."""
    token = _token(ledger.db, token_id)
    if token is None:
        raise NotFound(f"there is no token {token_id}", code="NO_SUCH_TOKEN")
    if token.info.revoked_at is None:
        ledger.write("UPDATE token SET revoked_at = ? WHERE id = ?", (now, token_id))
        token = msgspec.structs.replace(token, info=msgspec.structs.replace(token.info, revoked_at=now))
        ledger.put_token(token)
    return token.info


def touch_token(ledger: Ledger, token_id: str, now: int) -> None:
    token = _token(ledger.db, token_id)
    if token is not None:
        ledger.write("UPDATE token SET last_used_at = ? WHERE id = ?", (now, token_id))
        ledger.put_token(msgspec.structs.replace(token, info=msgspec.structs.replace(token.info, last_used_at=now)))


def _token(db: sqlite3.Connection, token_id: str) -> Token | None:
    row = db.execute(f"SELECT {TOKEN_COLUMNS} FROM token WHERE id = ?", (token_id,)).fetchone()  # noqa: S608 - ours
    return None if row is None else decode_token(row)


def add_join_code(ledger: Ledger, hash: str, expires_at: int, labels: dict[str, str]) -> None:
    ledger.write(
        "INSERT INTO join_code (hash, expires_at, labels) VALUES (?, ?, ?)",
        (hash, expires_at, _encode(labels).decode()),
    )


def redeem_join_code(ledger: Ledger, hash: str, host_id: str, token: Token, now: int) -> dict[str, str]:
    """A code that cannot be used says no more than that. A name that is taken leaves the code usable."""
    row = ledger.db.execute(
        "SELECT labels FROM join_code WHERE hash = ? AND used_at IS NULL AND expires_at > ?", (hash, now)
    ).fetchone()
    if row is None:
        raise Forbidden(
            "this join code is unknown, used or expired",
            code="BAD_JOIN_CODE",
            hint="make a new one with `fleetgate invite`",
        )
    taken = ledger.db.execute(
        "SELECT 1 FROM token WHERE host_id = ? AND kind = 'host' AND revoked_at IS NULL", (host_id,)
    ).fetchone()
    if taken is not None:
        raise Conflict(
            f"a host called {host_id} has joined already",
            code="HOST_EXISTS",
            hint="give another id, or revoke its token first",
        )
    ledger.write("UPDATE join_code SET used_at = ? WHERE hash = ?", (now, hash))
    labels = _labels.decode(row[0])
    hosts.relabel(ledger, host_id, labels)
    add_token(ledger, token)
    return labels


def mark(ledger: Ledger, principal: str, device: str, session_id: str, event_id: int) -> None:
    """Only forward."""
    ledger.write(
        "INSERT INTO mark VALUES (?, ?, ?, ?) ON CONFLICT (principal, device, session_id) DO UPDATE SET"
        " event_id = max(event_id, excluded.event_id)",
        (principal, device, session_id, event_id),
    )
