"""Keeps the event loop and the store's writer on one processor.

They share one interpreter, so they take turns anyway. On two processors each turn begins with a sleeping processor to
wake and with the other's data in the wrong cache; and the disk's answer comes to one processor, and has to wake another
one there. What that costs: docs/plans/0003-one-processor.md. Threads that read for long go where they like (`free`).

The kernel moves other work away from a processor that is kept busy; where it does not, `look` takes another seat.
Knows Linux (sched_setaffinity(2), proc_pid_schedstat(5), proc_stat(5)); where that cannot be had, nobody is kept.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Collection
from itertools import cycle, islice
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import structlog

LOOK_EVERY_S: Final = 1.0
CROWDED: Final = 0.1  # of the time we were ready to run and did not: somebody is in our way, or we in each other's
OTHERS: Final = 0.25  # of our processor's time that others had
ROOM: Final = 0.5  # of another processor's time that nobody wanted: it is worth moving there
TICKS_A_S: Final = os.sysconf("SC_CLK_TCK")
CANDIDATES: Final = 8  # processors that are tried, and how often, and for how long in all
TRIES: Final = 15
TRYING_S: Final = 0.2
BLOCK: Final = bytes(8 * 4096)  # a small commit

log = structlog.get_logger(__name__)


class Spent(NamedTuple):
    """What our threads had by now, in seconds."""

    running: float
    waiting: float  # ready to run, on no processor


class Load(NamedTuple):
    """What a processor did by now, in seconds."""

    busy: float
    idle: float


class Seat:
    """One for each process; `take` once, then `run`."""

    def __init__(
        self,
        *,
        allowed: Collection[int] | None = None,
        proc: Path = Path("/proc"),
        choose: Callable[[Collection[int], Path], int] | None = None,
        put: Callable[[int, Collection[int]], None] = os.sched_setaffinity,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._allowed = frozenset(os.sched_getaffinity(0) if allowed is None else allowed)
        self._proc = proc
        self._choose = choose or quickest
        self._put = put
        self._now = now
        self._threads: tuple[int, ...] = ()
        self._processor = -1
        self._looked: tuple[float, Spent] = (0.0, Spent(0, 0))
        self._suspected: tuple[float, Spent, dict[int, Load]] | None = None
        self._freed = threading.local()

    def __repr__(self) -> str:
        return f"<Seat processor={self._processor} threads={self._threads}>"

    def take(self, threads: Collection[int], directory: Path) -> None:
        """Put these threads (native ids) on the processor to which the disk of `directory` answers soonest. Takes a few
        milliseconds, TRYING_S at most.
        """
        if len(self._allowed) < 2:
            return
        self._threads = tuple(threads)
        try:
            self._looked = (self._now(), self._spent())
            self._sit(self._choose(self._allowed, directory))
        except (OSError, ValueError, IndexError) as error:
            self._give_up(error)

    def free(self) -> None:
        """The calling thread, which was started by one of ours and so sits with us, may go anywhere."""
        if self._processor < 0 or getattr(self._freed, "is_done", False):
            return
        self._freed.is_done = True
        try:
            self._put(0, self._allowed)
        except OSError as error:
            log.info("a thread stays on the manager's processor", error=str(error))

    async def run(self) -> None:
        """For as long as the manager lives. Cancelling is safe."""
        while self._threads:
            await anyio.sleep(LOOK_EVERY_S)
            self.look()

    def look(self) -> None:
        """Take another seat when others crowd ours and there is room elsewhere."""
        if not self._threads:
            return
        try:
            self._look()
        except (OSError, ValueError, IndexError, KeyError) as error:
            self._give_up(error)

    def _look(self) -> None:
        (before, had), (now, spent) = self._looked, (self._now(), self._spent())
        self._looked = (now, spent)
        if spent.waiting - had.waiting < CROWDED * (now - before):
            self._suspected = None
            return
        suspected, loads = self._suspected, self._loads()
        self._suspected = (now, spent, loads)
        if suspected is None:
            return  # the next look knows what everybody did in between
        since, had, loads_before = suspected
        passed = now - since
        others = loads[self._processor].busy - loads_before[self._processor].busy - (spent.running - had.running)
        room = {processor: loads[processor].idle - loads_before[processor].idle for processor in self._allowed}
        roomiest = max(room, key=room.__getitem__)
        if others > OTHERS * passed and room[roomiest] > ROOM * passed and roomiest != self._processor:
            log.info("took another processor", before=self._processor, now=roomiest)
            self._sit(roomiest)
            self._suspected = None

    def _sit(self, processor: int) -> None:
        for thread in self._threads:
            self._put(thread, {processor})
        self._processor = processor

    def _give_up(self, error: Exception) -> None:
        """Better anywhere than on a processor that we cannot watch, or that is gone."""
        log.info("not kept on one processor", error=str(error))
        threads, self._threads, self._processor = self._threads, (), -1
        for thread in threads:
            try:
                self._put(thread, self._allowed)
            except OSError as worse:
                log.warning("a thread cannot be let go of its processor", error=str(worse))

    # --- what the kernel says -------------------------------------------------------------------------

    def _read(self, *parts: str) -> str:
        return self._proc.joinpath(*parts).read_text(encoding="ascii", errors="replace")

    def _spent(self) -> Spent:
        of_each = [self._read("self", "task", str(thread), "schedstat").split() for thread in self._threads]
        return Spent(sum(int(one[0]) for one in of_each) / 1e9, sum(int(one[1]) for one in of_each) / 1e9)

    def _loads(self) -> dict[int, Load]:
        loads = {}
        for line in self._read("stat").splitlines():
            name, *ticks = line.split()
            if name.startswith("cpu") and name != "cpu":
                user, nice, system, idle, iowait, irq, softirq, steal = map(int, ticks[:8])
                busy = user + nice + system + irq + softirq + steal
                loads[int(name[3:])] = Load(busy / TICKS_A_S, (idle + iowait) / TICKS_A_S)
        return loads


def quickest(processors: Collection[int], directory: Path) -> int:
    """The one of these to which the disk of `directory` answers soonest: mostly that which takes its interrupts. The
    shortest answer counts, for others only make it longer. The calling thread may use all of them afterwards.

    Raises OSError.
    """
    every = -(-len(processors) // CANDIDATES)
    took: dict[int, list[float]] = {processor: [] for processor in sorted(processors)[::every]}
    until = time.monotonic() + TRYING_S
    try:
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            file.write(BLOCK)
            os.fsync(file.fileno())
            for processor, times in islice(cycle(took.items()), TRIES * len(took)):
                os.sched_setaffinity(0, {processor})
                began = time.monotonic()
                os.pwrite(file.fileno(), BLOCK, 0)
                os.fdatasync(file.fileno())
                times.append(time.monotonic() - began)
                if time.monotonic() > until:
                    break
    finally:
        os.sched_setaffinity(0, processors)
    return min(filter(took.__getitem__, took), key=lambda processor: min(took[processor]))
