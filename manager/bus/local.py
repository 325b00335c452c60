"""A bus inside one process: topics are names, a wake-up is a flag.

It carries nothing but "look again", keeps no history and knows no reader. For one event loop; not for threads.
Invariant: what is published after `subscribe` was entered wakes the next `wait`, also when nobody waits just then;
so whoever subscribes, looks, and then waits misses nothing.
"""

from types import TracebackType

import anyio
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

    __slots__ = ("_bus", "_event", "_is_woken", "topics")

    def __init__(self, bus: LocalBus, topics: tuple[str, ...]) -> None:
        self.topics = frozenset(topics)
        self._bus = bus
        self._is_woken = False
        self._event: anyio.Event | None = None

    async def __aenter__(self) -> "LocalWakeups":
        self._bus.enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bus.leave(self)

    def wake(self) -> None:
        self._is_woken = True
        if self._event is not None:
            self._event.set()

    async def wait(self, timeout_s: float) -> bool:
        """Cancelling is safe: a wake-up that came meanwhile is there for the next call."""
        if self._is_woken:
            await checkpoint()  # a reader that is always woken must not keep the loop for itself
        else:
            event = self._event = anyio.Event()
            with anyio.move_on_after(timeout_s):
                await event.wait()
            self._event = None
        woken, self._is_woken = self._is_woken, False
        return woken
