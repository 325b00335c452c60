"""Whether this host takes a task. Enforced here whatever the manager believes."""

from dataclasses import dataclass
from typing import Final

from gateway.errors import CannotRun
from shared_types.hosts import AgentInfo
from shared_types.tasks import Reason

MIN_FREE_BYTES: Final = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Room:
    """How this host stands: attempts that hold a slot, how many may, whether it takes work at all."""

    used: int
    slots: int
    draining: bool
    free_bytes: int | None = None  # of the disk that holds the journals; None: could not tell


def admit(room: Room, *, agent: str, found: AgentInfo | None, mode_problem: str | None) -> None:
    """Raises CannotRun with the first reason against it. `mode_problem` is why the mode cannot be honoured."""
    if room.draining:
        raise CannotRun(Reason.DRAINING, "this host takes no new work")
    if found is None:
        raise CannotRun(Reason.UNKNOWN_AGENT, f"there is no agent {agent!r} on this host")
    if found.path is None:
        raise CannotRun(Reason.MISSING_EXECUTABLE, found.hint or f"{agent} is not installed on this host")
    if found.auth_ok is False:
        raise CannotRun(Reason.LOGGED_OUT, found.hint or f"{agent} is not logged in on this host")
    if mode_problem is not None:
        raise CannotRun(Reason.MODE_NOT_ALLOWED, mode_problem)
    if room.free_bytes is not None and room.free_bytes < MIN_FREE_BYTES:
        raise CannotRun(Reason.DISK_FULL, f"only {room.free_bytes // 1024 // 1024} MiB of disk are free")
    if room.used >= room.slots:
        raise CannotRun(Reason.NO_FREE_SLOT, f"all {room.slots} slots of this host are taken")
