"""A bus inside one process: topics are names, a wake-up is a flag.

It carries nothing but "look again", keeps no history and knows no reader. For one event loop; not for threads.
Invariant: what is published after `subscribe` was entered wakes the next `wait`, also when nobody waits just then;
so whoever subscribes, looks, and then waits misses nothing.
"""

import asyncio
import math
from types import TracebackType

from anyio.lowlevel import checkpoint


class LocalBus:
    """Implements `Bus`."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[LocalWakeups]] = {}

    def __repr__(self) -> str:
        return f"<LocalBus topics={len(self._waiting)}>"

    def publish(self, topic: str) -> bool:
        """Costs a look into a dictionary when nobody cares."""
        readers = self._waiting.get(topic)
        if readers is None:
            return False
        for wakeups in readers:
            wakeups.wake()
        return True

    def subscribe(self, *topics: str) -> "LocalWakeups":
        return LocalWakeups(self, topics)

    def enter(self, wakeups: "LocalWakeups") -> None:
        for topic in wakeups.topics:
            self._waiting.setdefault(topic, set()).add(wakeups)

    def leave(self, wakeups: "LocalWakeups") -> None:
        for topic in wakeups.topics:
            readers = self._waiting[topic]
            readers.discard(wakeups)
            if not readers:
                del self._waiting[topic]


class LocalWakeups:
    """One subscriber's flag. One party waits on it at a time."""

    __slots__ = ("_bus", "_is_woken", "_waiter", "topics")

    def __init__(self, bus: LocalBus, topics: tuple[str, ...]) -> None:
        self.topics = frozenset(topics)
        self._bus = bus
        self._is_woken = False
        self._waiter: asyncio.Future[None] | None = None

    async def __aenter__(self) -> "LocalWakeups":
        self._bus.enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bus.leave(self)

    def wake(self) -> None:
        self._is_woken = True
        if self._waiter is not None:
            _settle(self._waiter)

    async def wait(self, timeout_s: float) -> bool:
        """Cancelling is safe: a wake-up that came meanwhile is there for the next call."""
        if self._is_woken:
            await checkpoint()  # a reader that is always woken must not keep the loop for itself
        else:
            # Under load this is done thousands of times a second; an event in a cancel scope costs four times as much.
            loop = asyncio.get_running_loop()
            waiter = self._waiter = loop.create_future()
            timer = None if timeout_s == math.inf else loop.call_later(timeout_s, _settle, waiter)
            try:
                await waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        woken, self._is_woken = self._is_woken, False
        return woken


def _settle(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
