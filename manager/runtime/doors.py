"""Every open stream and socket of people: counted, woken now and then, told to leave at the end, put out when its
token is revoked, cut when its reader takes nothing.

It does not know what flows. A visitor subscribes to its `topic` beside its own and looks at `leaving` whenever it
wakes; it leaves by itself, politely. One sweep serves all: timers of their own would cost each stream more than
what it sends. Invariant: who is inside is exactly who has not left `enter`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import anyio

from manager.ports import Bus

DRAIN: Final = "drain"
REVOKED: Final = "revoked"
SWEEP_S: Final = 5.0  # how often each visitor is woken: a wake-up may be lost
SEND_TIMEOUT_S: Final = 20.0  # for one send that the reader does not take
SHARDS: Final = 16  # not everybody at the same moment


class Visit:
    """One open stream. `leaving` says why it must end; None while it may stay."""

    __slots__ = ("_since", "cut", "is_cut", "kind", "leaving", "swept", "token_id", "topic")

    def __init__(self, token_id: str, kind: str, topic: str, cut: Callable[[], None]) -> None:
        self.token_id = token_id
        self.kind = kind
        self.topic = topic
        self.cut = cut
        self.leaving: str | None = None
        self.swept = 0  # grows with every sweep
        self.is_cut = False
        self._since: float | None = None

    def __enter__(self) -> None:
        """Around a send: the clock runs."""
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._since = None

    def is_stuck(self, now: float, timeout_s: float) -> bool:
        return self._since is not None and now - self._since > timeout_s


class Doors:
    """Who is inside, and whether new ones are let in."""

    def __init__(self, bus: Bus, *, sweep_s: float = SWEEP_S, send_timeout_s: float = SEND_TIMEOUT_S) -> None:
        self._bus = bus
        self._sweep_s = sweep_s
        self._send_timeout_s = send_timeout_s
        self._shards: list[set[Visit]] = [set() for _ in range(SHARDS)]
        self._entered = 0
        self._empty = anyio.Event()
        self.is_draining = False
        self.cut_total = 0

    @contextmanager
    def enter(self, token_id: str, kind: str, cut: Callable[[], None]) -> Iterator[Visit]:
        """While a stream is open. `cut` ends its connection at once."""
        number = self._entered % SHARDS
        self._entered += 1
        visit = Visit(token_id, kind, f"doors:{number}", cut)
        if self.is_draining:
            visit.leaving = DRAIN
        shard = self._shards[number]
        shard.add(visit)
        try:
            yield visit
        finally:
            shard.discard(visit)
            if not any(self._shards):
                self._empty.set()

    def inside(self, kind: str) -> int:
        return sum(visit.kind == kind for shard in self._shards for visit in shard)

    def put_out(self, token_id: str) -> None:
        """The token is revoked: what was opened with it ends."""
        self._tell(lambda visit: visit.token_id == token_id, REVOKED)

    def drain(self) -> None:
        """From now on everybody is asked to leave."""
        self.is_draining = True
        self._tell(lambda visit: True, DRAIN)

    async def wait_empty(self) -> None:
        while any(self._shards):
            self._empty = anyio.Event()
            await self._empty.wait()

    async def run(self) -> None:
        """Sweep for as long as the manager lives. Cancelling is safe."""
        while True:
            for number in range(SHARDS):
                await anyio.sleep(self._sweep_s / SHARDS)
                self._sweep(number)

    def _sweep(self, number: int) -> None:
        now = time.monotonic()
        for visit in list(self._shards[number]):
            visit.swept += 1
            if not visit.is_cut and visit.is_stuck(now, self._send_timeout_s):
                visit.is_cut = True
                self.cut_total += 1
                visit.cut()
        self._bus.publish(f"doors:{number}")

    def _tell(self, whom: Callable[[Visit], bool], why: str) -> None:
        for number, shard in enumerate(self._shards):
            for visit in shard:
                if visit.leaving is None and whom(visit):
                    visit.leaving = why
            self._bus.publish(f"doors:{number}")
