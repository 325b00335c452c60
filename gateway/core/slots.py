"""Whether this host takes a task. Enforced here whatever the manager believes."""

from dataclasses import dataclass
from typing import Final

from gateway.errors import CannotRun
from shared_types.hosts import AgentInfo
from shared_types.tasks import Reason

MIN_FREE_BYTES: Final = 256 * 1024 * 1024
MIB: Final = 1024 * 1024
MOST_BYTES: Final = 10 * 1024 * MIB  # of a share, however big the disk is
FULL: Final = 0.8  # of the quota: what runs may fill the rest


@dataclass(frozen=True, slots=True)
class Quota:
    """How much of their file system the journals of all attempts may take: a share of it, or so many bytes."""

    share: float = 0.1
    size: int | None = None

    def of(self, disk_bytes: int) -> int:
        """In bytes."""
        return min(int(disk_bytes * self.share), MOST_BYTES) if self.size is None else self.size


@dataclass(frozen=True, slots=True)
class Room:
    """How this host stands: attempts that hold a slot, how many may, whether it takes work at all."""

    used: int
    slots: int
    draining: bool
    free_bytes: int | None = None  # of the disk that holds the journals; None: could not tell
    journal_bytes: int | None = None  # what journals take of `quota_bytes`; None: could not tell
    quota_bytes: int = 0


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
        raise CannotRun(Reason.DISK_FULL, f"only {room.free_bytes // MIB} MiB of disk are free")
    if room.journal_bytes is not None and room.journal_bytes > room.quota_bytes * FULL:
        detail = f"the journals here take {room.journal_bytes // MIB} of the {room.quota_bytes // MIB} MiB they may"
        raise CannotRun(Reason.DISK_FULL, detail)
    if room.used >= room.slots:
        raise CannotRun(Reason.NO_FREE_SLOT, f"all {room.slots} slots of this host are taken")
