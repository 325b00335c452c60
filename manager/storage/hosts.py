"""Operations on hosts, decided on the ledger: connections come and go, and only the newest one counts."""

from typing import Final

import msgspec

from manager.core import tasks
from manager.errors import NotFound
from manager.ports import HostRow, Standing, Taken
from manager.storage.ledger import Ledger
from manager.storage.tasks import change_one
from shared_types.hosts import AgentInfo, HostCapabilities

_encode = msgspec.json.Encoder().encode

_PUT_HOST: Final = (
    "INSERT INTO host"
    " (id, capabilities, agents, generation, protocol, version, boot_id, keeps_leases, last_seen_at, connected_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (id) DO UPDATE SET capabilities = excluded.capabilities, agents = excluded.agents,"
    " generation = excluded.generation, protocol = excluded.protocol, version = excluded.version,"
    " boot_id = excluded.boot_id, keeps_leases = excluded.keeps_leases, last_seen_at = excluded.last_seen_at,"
    " connected_at = excluded.connected_at, disconnected_at = NULL"
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
    keeps_leases: bool = False,
) -> HostRow:
    before = ledger.hosts.get(host_id)
    host = HostRow(
        host_id=host_id,
        capabilities=capabilities,
        agents=agents,
        generation=1 if before is None else before.generation + 1,
        protocol=protocol,
        version=version,
        boot_id=boot_id,
        last_seen_at=now,
        connected_at=now,
        disconnected_at=None,
        draining=before is not None and before.draining,
        labels=ledger.labels.get(host_id, {}),
        last_assigned_at=0 if before is None else before.last_assigned_at,
        keeps_leases=keeps_leases,
    )
    said = (_encode(capabilities).decode(), _encode(agents).decode())
    ledger.write(_PUT_HOST, (host_id, *said, host.generation, protocol, version, boot_id, keeps_leases, now, now))
    ledger.resting.pop(host_id, None)
    return ledger.put_host(host)


def _current(ledger: Ledger, host_id: str, generation: int) -> HostRow | None:
    host = ledger.hosts.get(host_id)
    return host if host is not None and host.generation == generation and host.is_connected else None


def seen(ledger: Ledger, host_id: str, generation: int, now: int, *, is_barred: bool) -> Standing:
    host = _current(ledger, host_id, generation)
    if host is None:
        return Standing.SUPERSEDED
    if is_barred:
        return Standing.REVOKED
    now = max(now, host.last_seen_at or 0)
    ledger.write(
        "UPDATE host SET last_seen_at = ?, last_assigned_at = ? WHERE id = ?", (now, host.last_assigned_at, host_id)
    )
    ledger.put_host(msgspec.structs.replace(host, last_seen_at=now))
    return Standing.GOOD


def gone(ledger: Ledger, host_id: str, generation: int, now: int) -> list[Taken]:
    """All tasks on it are in the ledger."""
    host = _current(ledger, host_id, generation)
    if host is None:
        return []
    ledger.write(
        "UPDATE host SET disconnected_at = ?, last_assigned_at = ? WHERE id = ?", (now, host.last_assigned_at, host_id)
    )
    ledger.put_host(msgspec.structs.replace(host, disconnected_at=now))
    return _out_of_reach(ledger, host, now, host.last_seen_at)


def not_back(ledger: Ledger, host_id: str, now: int) -> None:
    """A manager starts, and none of its hosts is connected. It does not know how far what the last sign of life is
    dated by agrees with its clock, so it counts from now. All tasks on the host are in the ledger.
    """
    host = ledger.hosts[host_id]
    if host.is_connected:
        gone(ledger, host_id, host.generation, now)
    _out_of_reach(ledger, host, now, now)


def _out_of_reach(ledger: Ledger, host: HostRow, now: int, seen_at: int | None) -> list[Taken]:
    records = [ledger.must_find(task_id).record for task_id in ledger.on_host(host.host_id)]
    return [change_one(ledger, tasks.host_gone(record, now, seen_at)) for record in records]


def set_draining(ledger: Ledger, host_id: str, draining: bool) -> HostRow:
    host = ledger.hosts.get(host_id)
    if host is None:
        raise NotFound(f"there is no host {host_id}", code="NO_SUCH_HOST", hint="GET /api/hosts lists them.")
    if host.draining is draining:
        return host
    ledger.write("UPDATE host SET draining = ? WHERE id = ?", (int(draining), host_id))
    return ledger.put_host(msgspec.structs.replace(host, draining=draining))


def relabelled(ledger: Ledger, host_id: str, labels: dict[str, str]) -> None:
    """The manager gave it these labels, and that is stored. A host that never connected keeps them for when it does."""
    ledger.labels[host_id] = labels
    host = ledger.hosts.get(host_id)
    if host is not None:
        ledger.put_host(msgspec.structs.replace(host, labels=labels))
