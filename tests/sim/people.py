"""Who uses the manager: programs that submit, abort, send input and read logs, over a network that loses answers.

Each keeps its own book of what it was told, which the checks compare with what became of it.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any, Final

import anyio

from manager.errors import Conflict, FleetError
from manager.routes.events import LogStream
from manager.runtime.follower import Place
from shared_types.api import InputReceipt, ResumeFrame, TaskCreate
from shared_types.tasks import FINAL, Task, TaskState
from tests.sim.house import AGENT, Manager
from tests.sim.kernel import Kernel, describe

LOST: Final = "lost"  # no answer came

Op = Callable[[Manager], Awaitable[Any]]


class Lines:
    """Requests to whatever manager is there."""

    def __init__(self, kernel: Kernel, random: Random, report: Callable[[str], None]) -> None:
        self.kernel = kernel
        self.random = random
        self.report = report
        self.is_calm = False
        self.manager: Manager | None = None
        self._open: dict[int, Callable[[Any], None]] = {}
        self._numbers = 0

    def ask(self, op: Op, done: Callable[[Any], None]) -> None:
        """`done` gets what `op` gives or raises, or LOST; once."""
        self._numbers += 1
        number = self._numbers
        self._open[number] = done
        self.kernel.after(self._latency(), lambda: self._begin(number, op))

    def hang_up(self) -> None:
        """The manager is gone, with every answer it owed."""
        self.manager = None
        for number in list(self._open):
            self._answer(number, LOST)

    def _latency(self) -> float:
        return self.random.uniform(0.0005, 0.01)

    def _answer(self, number: int, what: Any) -> None:
        self.kernel.after(self._latency(), lambda: self._give(number, what))

    def _give(self, number: int, what: Any) -> None:
        if (done := self._open.pop(number, None)) is not None:
            done(what)

    def _begin(self, number: int, op: Op) -> None:
        manager = self.manager
        if manager is None or not manager.is_ready or number not in self._open:
            self._answer(number, LOST)
            return
        is_lost = not self.is_calm and self.random.random() < 0.05

        async def run() -> None:
            try:
                what = await op(manager)
            except FleetError as error:
                what = error
            except Exception as error:
                self.report(f"a request was answered with 500: {describe(error)}")
                return
            if manager.process.is_alive:
                self._answer(number, LOST if is_lost else what)

        manager.do(run)


class Author:
    """Has one task done."""

    def __init__(self, kernel: Kernel, lines: Lines, no: int, random: Random, report: Callable[[str], None]) -> None:
        self.kernel = kernel
        self.lines = lines
        self.no = no
        self.random = random
        self.report = report
        self.key = f"key{no}"
        self.task_id: str | None = None
        self.gave_up = False
        self.inputs: dict[str, str] = {}  # id -> the state that was answered
        self.readers: list[Reader] = []
        self.has_aborted = False
        self.create = self._wish()

    def _wish(self) -> TaskCreate:
        random = self.random
        return TaskCreate(
            prompt=f"task {self.no}",
            agent_type=AGENT,
            timeout=random.choice((None, None, None, None, 3_000, 60_000)),
            queue_ttl=random.choice((25_000, 150_000, 300_000)),
            priority=random.randint(0, 9),
        )

    def later(self, longest: float, do: Callable[[], None]) -> None:
        self.kernel.after(self.random.uniform(0.0, longest), do)

    def submit(self) -> None:
        def op(manager: Manager) -> Awaitable[Any]:
            return manager.tasks.submit(self.create, actor="me", idempotency_key=self.key)

        self.lines.ask(op, self._submitted)
        if self.random.random() < 0.1:
            self.lines.ask(op, self._submitted)  # impatient

    def _submitted(self, answer: Any) -> None:
        if not isinstance(answer, tuple):
            if self.task_id is None:
                self.later(3.0, self.submit)
            return
        task: Task = answer[0]
        if self.task_id is not None:
            if self.task_id != task.id:
                self.report(f"{self.key} made two tasks: {self.task_id} and {task.id}")
            return
        self.task_id = task.id
        random = self.random
        if random.random() < 0.25:
            self.later(random.choice((0.1, 2.0, 30.0)), self.abort)
        for number in range(random.choice((0, 0, 1, 3))):
            input_id = f"in{self.no}.{number}"
            self.later(20.0, partial(self.say, input_id))
        for _ in range(random.choice((0, 1, 2))):
            reader = Reader(self, Random(random.random()))
            self.readers.append(reader)
            self.later(5.0, reader.connect)

    def abort(self) -> None:
        task_id = self.task_id
        assert task_id is not None
        kill = self.random.random() < 0.2
        self.has_aborted = True

        def done(answer: Any) -> None:
            if not isinstance(answer, Task | Conflict):
                self.later(3.0, self.abort)

        self.lines.ask(lambda manager: manager.tasks.abort(task_id, kill=kill), done)

    def say(self, input_id: str) -> None:
        task_id = self.task_id
        assert task_id is not None

        def done(answer: Any) -> None:
            if isinstance(answer, InputReceipt):
                self.inputs[input_id] = answer.state
            elif not isinstance(answer, Conflict):
                self.later(3.0, lambda: self.say(input_id))

        self.lines.ask(lambda manager: manager.tasks.input(task_id, f"text {input_id}", input_id), done)


class Reader:
    """Follows one task's log, and comes back from where it stood, or from before."""

    def __init__(self, author: Author, random: Random) -> None:
        self.author = author
        self.random = random
        self.seen: dict[int, bytes] = {}
        self.last = 0
        self.gaps = 0
        self.has_ended = False
        self.slow_s = random.choice((0.0, 0.0, 0.0, 0.5, 8.0))

    @property
    def task_id(self) -> str:
        assert self.author.task_id is not None
        return self.author.task_id

    def connect(self) -> None:
        if self.has_ended:
            return
        if self.random.random() < 0.1:
            self.last = self.random.randint(0, self.last)
        self.author.lines.ask(self._read, self._over)

    def _over(self, answer: Any) -> None:
        if not self.has_ended:
            self.author.kernel.after(self.random.uniform(0.1, 3.0), self.connect)

    async def _read(self, manager: Manager) -> None:
        """One connection: routes/events.task_events."""
        follower = manager.follower
        place = Place(self.last or None, None)
        standing = await follower.standing(self.task_id)
        bounds = await follower.bounds(task_id=self.task_id)
        verdict, after = place.resolve(follower.epoch, bounds.first_id, bounds.latest_id)
        task = standing.task
        if task.is_final and not place.is_fresh and verdict == "ok" and after >= task.last_event_id:
            self.has_ended = True
            return
        resume = ResumeFrame(
            verdict=verdict, epoch=follower.epoch, first_id=bounds.first_id, latest_id=bounds.latest_id
        )
        if verdict != "ok":
            self.author.report(f"a reader of {self.task_id} was told {verdict} after {self.last}")
        cursor = follower.cursor(bounds, self.task_id, after)
        self.last = after
        gone = asyncio.get_running_loop().create_future()
        services: Any = SimpleNamespace(
            doors=manager.doors, bus=manager.bus, follower=follower, hang_up=lambda client: _settle(gone)
        )
        principal: Any = SimpleNamespace(id="reader")
        is_here = True

        async def receive() -> dict[str, Any]:
            await gone
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if self.slow_s:
                await anyio.sleep(self.random.uniform(0.0, self.slow_s))
            body = message.get("body", b"")
            if is_here and body:
                self._got(body)

        patience = self.random.choice((1e9, 1e9, 5.0, 20.0))
        with anyio.move_on_after(patience):
            await LogStream(services, principal, cursor, resume, standing)({"client": None}, receive, send)  # type: ignore[arg-type]
        is_here = False

    def _got(self, body: bytes) -> None:
        for chunk in body.split(b"\n\n"):
            lines = chunk.split(b"\n")
            if lines[0].startswith(b"id: "):
                self._event(int(lines[0][4:]), lines[1].removeprefix(b"data: "))
            elif lines[0] == b"event: end":
                self.has_ended = True
                status = TaskState(json.loads(lines[1].removeprefix(b"data: "))["status"])
                if status not in FINAL:
                    self.author.report(f"a reader of {self.task_id} was told that it ended as {status}")

    def _event(self, id: int, body: bytes) -> None:
        if id != self.last + 1:
            self.author.report(f"a reader of {self.task_id} got event {id} after {self.last}")
        self.last = id
        known = self.seen.setdefault(id, body)
        if known != body:
            self.author.report(f"event {id} of {self.task_id} has changed: {known!r} and {body!r}")


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
