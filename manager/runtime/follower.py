"""Reading a log as it grows. A reader is a cursor, not a queue: read behind my id, send, wait, again.

Reads the hot tail first and the store where the tail has nothing, so what a reader gets is the same wherever it
comes from. It does not know who reads or how the lines travel. Invariants: a cursor gives every line once, in
order, without holes; it holds one slab; a slow reader slows nobody.
"""

from typing import Final

import anyio

from manager.ports import LogBounds, Store
from manager.runtime.announcer import FleetLog
from manager.runtime.tail import MAX_SLAB_BYTES, MAX_SLAB_LINES, EventLine, Slab, Standing, Tail


class Place:
    """Where a reader wants to begin. `epoch` None: it did not say, and is believed."""

    __slots__ = ("after", "epoch")

    def __init__(self, after: int | None = None, epoch: str | None = None) -> None:
        self.after = after
        self.epoch = epoch

    @property
    def is_fresh(self) -> bool:
        return self.after is None

    def resolve(self, epoch: str, first_id: int, latest_id: int) -> tuple[str, int]:
        """(verdict, id to read behind). `gap`: what the reader knows does not join what is kept; it gets all there is.

        >>> Place(5).resolve("e", 1, 9), Place(5, "other").resolve("e", 1, 9), Place(2).resolve("e", 4, 9)
        (('ok', 5), ('gap', 0), ('gap', 3))
        """
        if self.after is None:
            return ("ok" if first_id <= 1 else "gap"), first_id - 1
        if (self.epoch is not None and self.epoch != epoch) or not first_id - 1 <= self.after <= latest_id:
            return "gap", first_id - 1
        return "ok", self.after


class Cursor:
    """A reader's place in a session's log, or in the part of it that is one task's."""

    __slots__ = ("_store", "_tail", "after", "session_id", "task_id")

    def __init__(self, store: Store, tail: Tail, session_id: str, task_id: str | None, after: int) -> None:
        self._store = store
        self._tail = tail
        self.session_id = session_id
        self.task_id = task_id
        self.after = after

    def __repr__(self) -> str:
        return f"<Cursor {self.task_id or self.session_id} after={self.after}>"

    @property
    def topic(self) -> str:
        return f"task:{self.task_id}" if self.task_id else f"session:{self.session_id}"

    async def next(self, *, trust_tail: bool = True) -> Slab:
        """The next lines, none if there are none. The cursor stands behind them when it returns.

        Cancelling is safe: the next call gives the same lines. With `trust_tail` false the store is asked also
        when the tail says that nothing is new.
        """
        slab = self._tail.after(self.session_id, self.after, self.task_id)
        if slab is None or (not trust_tail and slab.last == self.after):
            slab = await self._read()
        self.after = slab.last
        return slab

    async def _read(self) -> Slab:
        events = await self._store.events(
            self.session_id, self.after, task_id=self.task_id, limit=MAX_SLAB_LINES, max_bytes=MAX_SLAB_BYTES
        )
        # Whatever came from the store may have more behind it: the reader looks again at once.
        return Slab(self.after, [EventLine(event) for event in events], is_full=bool(events))


class FleetCursor:
    """A reader's place in the fleet's log. Falling behind what is kept shows as `is_lost`."""

    topic: Final = "fleet:log"

    def __init__(self, log: FleetLog, after: int) -> None:
        self._log = log
        self.after = after

    @property
    def is_lost(self) -> bool:
        return self.after + 1 < self._log.ring.first

    def next_nowait(self) -> Slab:
        """The next lines; none when there are none or when the place is lost."""
        slab = self._log.ring.after(self.after)
        if slab is None:
            return Slab(self.after, ())
        self.after = slab.last
        return slab


class Follower:
    """Opens cursors and answers how tasks stand."""

    def __init__(self, *, store: Store, tail: Tail, fleet: FleetLog) -> None:
        self.fleet = fleet
        self._store = store
        self._tail = tail
        self._asking: dict[str, anyio.Lock] = {}

    @property
    def epoch(self) -> str:
        return self._store.epoch

    @property
    def events_total(self) -> int:
        """Events seen since the start."""
        return self._tail.events_total

    async def bounds(self, *, task_id: str | None = None, session_id: str | None = None) -> LogBounds:
        """Raises NotFound."""
        return await self._store.bounds(task_id=task_id, session_id=session_id)

    def cursor(self, bounds: LogBounds, task_id: str | None, after: int) -> Cursor:
        return Cursor(self._store, self._tail, bounds.session_id, task_id, after)

    def fleet_cursor(self, after: int) -> FleetCursor:
        return FleetCursor(self.fleet, after)

    async def standing(self, task_id: str, *, look: bool = False) -> Standing:
        """How a task stands; many who ask at once ask the store once. `look`: do not trust what was announced.

        Raises NotFound.
        """
        standings = self._tail.standings
        if not look and (known := standings.newest(task_id)) is not None:
            return known
        lock = self._asking.get(task_id)
        if lock is None:
            lock = self._asking[task_id] = anyio.Lock()
        try:
            async with lock:
                if not look and (known := standings.newest(task_id)) is not None:
                    return known
                return standings.saw_task(await self._store.task(task_id))
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._asking.pop(task_id, None)
