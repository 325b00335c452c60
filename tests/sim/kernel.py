"""Virtual time: machines with clocks of their own, and event loops that run on them, one step after the other.

The real runtimes (manager/runtime, gateway/runtime) run unchanged on a `Loop`, an asyncio event loop without sockets,
threads or a clock of its own. A `Process` is such a loop; killing it is never running it again. Everything that has
an order gets it from the seed: which process goes first, how long a message takes, when something breaks.
"""

import asyncio
import heapq
import itertools
import traceback
from asyncio import events
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final

NEVER: Final = float("inf")
SPIN: Final = 200_000  # callbacks without time passing: somebody waits in circles


class Violation(Exception):
    """Something that must not happen has happened."""


class Kernel:
    """The time of the world, and what happens in it next."""

    def __init__(self, seed: str, report: Callable[[str], None]) -> None:
        self.now = 0.0
        self.report = report
        self.is_over = False
        self.machines: list[Machine] = []
        self.buried: list[object] = []  # killed processes: their tasks must not be tidied up while the world goes on
        self._random = Random(f"{seed}:order")
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        """Something of the world, not of a machine: it happens whatever is frozen."""
        heapq.heappush(self._due, (self.now + seconds, next(self._numbers), call))

    def run(self, until: float) -> None:
        spins = 0
        machines = self.machines
        while not self.is_over:
            ready = [
                process
                for machine in machines
                if not machine.is_frozen
                for process in machine.processes
                if process.loop.handles
            ]
            if ready:
                chosen = ready[0] if len(ready) == 1 else self._random.choice(ready)
                spins += chosen.loop.turn()
                if spins > SPIN:
                    self.report(f"{chosen.name} goes round in circles")
                    return
                continue
            spins = 0
            due = self._due[0][0] if self._due else NEVER
            for machine in machines:
                if not machine.is_frozen and (at := machine.next_due()) < due:
                    due = at
            if due > until:
                self.now = until
                return
            self.now = max(self.now, due)
            while self._due and self._due[0][0] <= self.now:
                heapq.heappop(self._due)[2]()
            for machine in machines:
                if not machine.is_frozen:
                    machine.run_due()


class Machine:
    """A computer: its clocks, and what waits for them. `rate` is how fast they go.

    Frozen, nothing on it runs. In `suspend` its monotonic clock stands still meanwhile; in a mere pause it goes on.
    """

    def __init__(self, kernel: Kernel, name: str, *, rate: float = 1.0, wall_ms: int = 0) -> None:
        self.kernel = kernel
        self.name = name
        self.rate = rate
        self.is_frozen = False
        self.processes: list[Process] = []
        self._is_suspended = False
        self._frozen_at = 0.0
        self._lag = 0.0  # how long its monotonic clock stood still
        self._wall_ms = wall_ms
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        kernel.machines.append(self)

    def monotonic(self) -> float:
        now = self._frozen_at if self.is_frozen and self._is_suspended else self.kernel.now
        return 1000.0 + (now - self._lag) * self.rate

    def boottime(self) -> float:
        return 5000.0 + self.kernel.now * self.rate

    def wall(self) -> int:
        return self._wall_ms + int(self.kernel.now * self.rate * 1000)

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        heapq.heappush(self._due, (self.monotonic() + seconds, next(self._numbers), call))

    def freeze(self, *, suspend: bool) -> None:
        self._frozen_at, self._is_suspended, self.is_frozen = self.kernel.now, suspend, True

    def thaw(self) -> None:
        if self.is_frozen:
            self.is_frozen = False
            if self._is_suspended:
                self._lag += self.kernel.now - self._frozen_at

    def forget_all(self) -> None:
        """A boot: nothing that was planned happens."""
        self._due.clear()

    def next_due(self) -> float:
        due = self._due[0][0] if self._due else NEVER
        for process in self.processes:
            if (at := process.loop.next_due()) < due:
                due = at
        return (due - 1000.0) / self.rate + self._lag

    def run_due(self) -> None:
        now = self.monotonic() + 1e-6
        while self._due and self._due[0][0] <= now and not self.is_frozen:
            heapq.heappop(self._due)[2]()
        for process in self.processes:
            process.loop.wake_due(now)


class Process:
    """One process: an event loop on a machine. `dies_in`: so many callbacks from now it is killed."""

    def __init__(self, machine: Machine, name: str, died: Callable[["Process"], None]) -> None:
        self.machine = machine
        self.name = name
        self.is_alive = True
        self.dies_in: int | None = None
        self.died = died
        self.tasks: list[asyncio.Task[Any]] = []
        self.loop = Loop(self)
        machine.processes.append(self)

    def start(self, main: Coroutine[Any, Any, None]) -> None:
        """`main` returns when it is told to; that it raises is a violation."""
        with self.loop.running():
            task = self.loop.create_task(main)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.machine.kernel.report(f"{self.name} ended by itself: {describe(error)}")
        elif self.is_alive:
            self.kill()

    def kill(self) -> None:
        """As by SIGKILL: not another step."""
        if self.is_alive:
            self.is_alive = False
            self.machine.processes.remove(self)
            self.machine.kernel.buried.append(self)
            self.died(self)

    def soon(self, call: Callable[[], object]) -> None:
        if self.is_alive:
            self.loop.call_soon(call)


def describe(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    at = traceback.extract_tb(error.__traceback__)[-5:]
    where = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in reversed(at))
    return f"{type(error).__name__}: {error} ({where})"


class Task(asyncio.Task[Any]):
    """Its place in a set does not depend on where it lies in memory."""

    numbers = itertools.count(1)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.no = next(Task.numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self.no


class Loop(asyncio.BaseEventLoop):
    """An event loop that is turned by the kernel."""

    _ready: Any
    _scheduled: Any

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.process = process
        self.handles: Any = self._ready
        self.set_task_factory(self._make)

    def _make(self, loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> "asyncio.Task[Any]":
        task = Task(coro, loop=loop, **kwargs)
        self.process.tasks.append(task)
        if len(self.process.tasks) > 1000:
            self.process.tasks = [task for task in self.process.tasks if not task.done()]
        return task

    def time(self) -> float:
        return self.process.machine.monotonic()

    def next_due(self) -> float:
        scheduled = self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        return scheduled[0]._when if scheduled else NEVER

    def wake_due(self, now: float) -> None:
        scheduled = self._scheduled
        while scheduled and scheduled[0]._when <= now:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            if not handle._cancelled:
                self._ready.append(handle)

    def running(self) -> "_Running":
        return _Running(self)

    def turn(self) -> int:
        """All that is ready, and what that makes ready, in its order; how much it was."""
        process, handles = self.process, self.handles
        count = 0
        with self.running():
            while handles and process.is_alive and count < SPIN:
                if process.dies_in is not None:
                    process.dies_in -= 1
                    if process.dies_in < 0:
                        break
                count += 1
                handle = handles.popleft()
                if not handle._cancelled:
                    handle._run()
        if process.dies_in is not None and process.dies_in < 0:
            process.kill()
        return count

    def _write_to_self(self) -> None:
        """Nobody sleeps in a selector."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        said = describe(error) if isinstance(error, BaseException) else context.get("message")
        self.process.machine.kernel.report(f"{self.process.name}: nobody caught {said}")


class _Running:
    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._before: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> None:
        self._before = events._get_running_loop()
        events._set_running_loop(self._loop)

    def __exit__(self, *_: object) -> None:
        events._set_running_loop(self._before)
