"""Operations on hosts, in the writer's thread: connections come and go, and only the newest one counts."""

from typing import Final

import msgspec

from manager.core import tasks
from manager.errors import NotFound
from manager.ports import HostRow, Taken
from manager.storage.claims import on_host
from manager.storage.ledger import Ledger
from manager.storage.rows import HOST_COLUMNS, decode_host
from manager.storage.tasks import change_one
from shared_types.hosts import AgentInfo, HostCapabilities

_encode = msgspec.json.Encoder().encode

_PUT_HOST: Final = (
    "INSERT INTO host (id, capabilities, agents, generation, protocol, version, boot_id, last_seen_at, connected_at)"  # noqa: S608 - our own names
    " VALUES (:id, :capabilities, :agents, 1, :protocol, :version, :boot_id, :now, :now)"
    " ON CONFLICT (id) DO UPDATE SET capabilities = :capabilities, agents = :agents, generation = generation + 1,"
    " protocol = :protocol, version = :version, boot_id = :boot_id, last_seen_at = :now, connected_at = :now,"
    f" disconnected_at = NULL RETURNING {HOST_COLUMNS}"
)
_TOKENS: Final = (
    "SELECT count(*), count(*) FILTER (WHERE revoked_at IS NULL) FROM token WHERE host_id = ? AND kind = 'host'"
)


def connected(
    ledger: Ledger,
    host_id: str,
    capabilities: HostCapabilities,
    agents: tuple[AgentInfo, ...],
    protocol: int,
    version: str | None,
    boot_id: str | None,
    now: int,
) -> HostRow:
    values = {
        "id": host_id,
        "capabilities": _encode(capabilities).decode(),
        "agents": _encode(agents).decode(),
        "protocol": protocol,
        "version": version,
        "boot_id": boot_id,
        "now": now,
    }
    (row,) = ledger.write(_PUT_HOST, values).fetchall()
    ledger.resting.pop(host_id, None)
    return ledger.put_host(decode_host(row))


def _current(ledger: Ledger, host_id: str, generation: int) -> HostRow | None:
    host = ledger.hosts.get(host_id)
    return host if host is not None and host.generation == generation and host.is_connected else None


def seen(ledger: Ledger, host_id: str, generation: int, now: int) -> bool:
    host = _current(ledger, host_id, generation)
    if host is None:
        return False
    tokens, valid = ledger.db.execute(_TOKENS, (host_id,)).fetchone()
    if tokens and not valid:
        return False
    ledger.write(
        "UPDATE host SET last_seen_at = ?, last_assigned_at = ? WHERE id = ?", (now, host.last_assigned_at, host_id)
    )
    ledger.put_host(msgspec.structs.replace(host, last_seen_at=now))
    return True


def gone(ledger: Ledger, host_id: str, generation: int, now: int) -> list[Taken]:
    host = _current(ledger, host_id, generation)
    if host is None:
        return []
    ledger.write(
        "UPDATE host SET disconnected_at = ?, last_assigned_at = ? WHERE id = ?", (now, host.last_assigned_at, host_id)
    )
    ledger.put_host(msgspec.structs.replace(host, disconnected_at=now))
    return [change_one(ledger, tasks.host_gone(hot.record, now)) for hot in on_host(ledger, host_id)]


def nobody_connected(ledger: Ledger, now: int) -> None:
    """A manager starts: whoever was connected to the one before is not connected to this one."""
    for host in list(ledger.hosts.values()):
        gone(ledger, host.host_id, host.generation, now)


def set_draining(ledger: Ledger, host_id: str, draining: bool) -> HostRow:
    host = ledger.hosts.get(host_id)
    if host is None:
        raise NotFound(f"there is no host {host_id}", code="NO_SUCH_HOST", hint="GET /api/hosts lists them.")
    if host.draining is draining:
        return host
    ledger.write("UPDATE host SET draining = ? WHERE id = ?", (int(draining), host_id))
    return ledger.put_host(msgspec.structs.replace(host, draining=draining))


def relabel(ledger: Ledger, host_id: str, labels: dict[str, str]) -> None:
    """Labels given by the manager; a host that never connected keeps them for when it does."""
    ledger.write(
        "INSERT INTO host (id, labels) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET labels = excluded.labels",
        (host_id, _encode(labels).decode()),
    )
    host = ledger.hosts.get(host_id)
    if host is not None:
        ledger.put_host(msgspec.structs.replace(host, labels=labels))
