"""Looks after deadlines: every live state has one, and when it passes somebody must act. And after silent hosts.

What to do about a task is decided by core/tasks.overdue; this loads, commits, and tells the hosts. A manager that was
down finds everything that became due meanwhile at its first look. Two loops, once a second each, so that a slow store
makes no host look alive; there are no timers per task or connection.
"""

from typing import Final

import anyio
import structlog

from manager.core.lifecycle import Cause
from manager.core.tasks import DEFAULT_LIMITS, Limits, Record, overdue
from manager.errors import StoreUnavailable
from manager.ports import Announcements, Clock, Store, Verdict
from manager.runtime.fleet import Fleet
from shared_types.tasks import TaskState

LOOK_EVERY_S: Final = 1.0
AT_ONCE: Final = 500
AWAY_S: Final = 5.0  # no look for so long: it is we who were not here

log = structlog.get_logger(__name__)


class Watchdog:
    """`trouble` says why deadlines are not looked after just now; None when all is well."""

    def __init__(
        self,
        *,
        store: Store,
        fleet: Fleet,
        announcer: Announcements,
        clock: Clock,
        limits: Limits = DEFAULT_LIMITS,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self.trouble: str | None = None
        self._store = store
        self._fleet = fleet
        self._announcer = announcer
        self._clock = clock
        self._limits = limits
        self._look_every_s = look_every_s

    async def run(self) -> None:
        """For as long as the manager lives. Cancelling is safe at any point."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.watch_tasks)
            group.start_soon(self.watch_hosts)

    async def watch_hosts(self) -> None:
        """When we did nothing ourselves for a while (stopped, starved), what hosts said meanwhile waits to be read, and
        is read before the next look.
        """
        looked = self._clock.monotonic()
        while True:
            now = self._clock.monotonic()
            if now - looked < AWAY_S:
                self._fleet.look()
            looked = now
            await anyio.sleep(self._look_every_s)

    async def watch_tasks(self) -> None:
        while True:
            try:
                while await self.look() == AT_ONCE:
                    pass
                self.trouble = None
            except StoreUnavailable as error:
                if self.trouble is None:
                    log.error("deadlines are not looked after", error=str(error))
                self.trouble = str(error)
            await anyio.sleep(self._look_every_s)

    async def look(self) -> int:
        """Act on the tasks whose deadline has passed; how many there were. Raises StoreUnavailable."""
        now = self._clock.now()
        due = await self._store.due(now, AT_ONCE)
        pairs = [(record, change) for record in due if (change := overdue(record, now, self._limits)) is not None]
        if not pairs:
            return 0
        taken = await self._store.change([change for _, change in pairs])
        self._announcer.taken(taken)
        for (before, change), became in zip(pairs, taken, strict=True):
            if became.verdict is Verdict.TAKEN and became.record is not None:
                self._tell(before, change.cause, became.record)
        return len(due)

    def _tell(self, before: Record, cause: Cause | None, after: Record) -> None:
        """Its host is to stop, or to stop trying. The second time it is told without grace."""
        if before.status is TaskState.QUEUED:
            return
        if after.status is TaskState.STOPPING:
            self._fleet.abort(after, kill=before.status is TaskState.STOPPING)
        elif cause in (Cause.NEVER_STARTED, Cause.HOST_LOST):
            self._fleet.abort(before, kill=True, reason="stale")
