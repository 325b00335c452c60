"""One task on a terminal: its events as they come, why it waits, and what Ctrl-C means.

Three loops under one group: the watcher tells the story, the explainer says why a task is still queued, the
listener hears Ctrl-C. The watcher's end is the end of all. Cancelling is safe: the task itself goes on.
"""

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from enum import Enum, auto
from typing import Any, Final

import anyio

from client.console import Console
from client.errors import Conflict, FleetgateError, Gap
from client.sdk import AsyncFleetgate
from client.terminal.escapes import harmless
from client.terminal.story import Piece, Story, closing
from shared_types.api import EventRecord
from shared_types.tasks import Task, TaskState

WHY_AFTER_S: Final = 2.0
WHY_AGAIN_S: Final = 10.0


class Wish(Enum):
    """What a person wants who pressed Ctrl-C."""

    DETACH = auto()
    ABORT = auto()
    CONTINUE = auto()


class Live:
    """Tells one task from `after` on until it has ended."""

    def __init__(
        self,
        fleet: AsyncFleetgate,
        console: Console,
        task: Task,
        *,
        after: int = 0,
        epoch: str | None = None,
        all_out: bool = False,
        story: Story | None = None,
        hears_ctrl_c: bool = True,
    ) -> None:
        self._fleet = fleet
        self._console = console
        self.task = task
        self._after = after
        self._epoch = epoch
        self._all_out = all_out
        self._hears_ctrl_c = hears_ctrl_c
        self.story = story or Story(cells=console.cells, live=console.out_is_terminal)
        self._may_talk = anyio.Lock()  # whoever writes holds it; a question stops the story
        self._is_cut = False
        self.was_aborted_here = False
        self.is_detached = False

    def __repr__(self) -> str:
        return f"<Live {self.task.id} {self.task.status}>"

    async def run(self) -> Task:
        """The task as it ended; when `is_detached`, as it stood when the person left."""
        async with anyio.create_task_group() as group:
            if self._hears_ctrl_c:
                group.start_soon(self._listen, group.cancel_scope)
            group.start_soon(self._explain)
            await self._watch()
            group.cancel_scope.cancel()
        if not self.task.is_final and not self.is_detached:
            self.task = await self._fleet.task(self.task.id)
        return self.task

    # --- watching

    async def _watch(self) -> None:
        while True:
            try:
                await self._follow()
            except Gap as gap:
                self._console.say(f"events before {gap.first_id} are not kept any more", "warn")
                self._after, self._epoch = gap.resume_after, None
                continue
            async with self._may_talk:
                self._tell(self.story.close())
            return

    async def _follow(self) -> None:
        watching = self._fleet.watch(self.task.id, self._after, epoch=self._epoch, on_cut=self._on_cut)
        async with aclosing(watching) as items:
            async for item in items:
                async with self._may_talk:
                    self._hear(item)

    def _hear(self, item: EventRecord | Task) -> None:
        if self._is_cut:
            self._is_cut = False
            self._console.say("connected again")
        if isinstance(item, Task):
            self.task = item
            return
        self._after = item.id
        if self._console.as_json:
            self._console.line(shown(item))
        else:
            self._tell(self.story.tell(item))

    def _tell(self, pieces: list[Piece]) -> None:
        if not self._console.as_json:
            self._console.tell(pieces, all_out=self._all_out)

    def _on_cut(self, why: Exception | None, delay_s: float) -> None:
        if not self._is_cut:
            self._is_cut = True
            self._tell(self.story.close())
            self._console.say("connection to the manager lost; trying again", "warn")

    # --- explaining

    async def _explain(self) -> None:
        """As long as it is queued: why."""
        said = ""
        await anyio.sleep(WHY_AFTER_S)
        while True:
            if self.task.status is TaskState.QUEUED and not self._is_cut:
                try:
                    why = await self._fleet.why(self.task.id)
                except FleetgateError:
                    sentence = said  # the watcher meets the same trouble, and says so
                else:
                    wish = f" It would run if {why.would_run_if.rstrip('.')}." if why.would_run_if else ""
                    sentence = why.summary + wish
                if sentence != said and self.task.status is TaskState.QUEUED:
                    async with self._may_talk:
                        self._console.say(f"· still queued: {sentence}", "warn")
                    said = sentence
            await anyio.sleep(WHY_AGAIN_S)

    # --- Ctrl-C

    async def _listen(self, leave: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGINT) as signals:
            async for _ in signals:
                async with self._may_talk:
                    if not self._console.as_json:
                        self._console.tell(self.story.close(), all_out=self._all_out)
                    wish = await self._wish(signals)
                    if wish is Wish.DETACH:
                        self._console.say(f"detached; it goes on: fleetgate attach {self.task.id}")
                        self.is_detached = True
                        leave.cancel()  # still holding the lock: the story does not go on behind this
                        return
                if wish is Wish.ABORT:
                    await self._abort()

    async def _abort(self) -> None:
        kill = self.was_aborted_here
        try:
            await self._fleet.abort(self.task.id, kill=kill, reason="Ctrl-C")
        except Conflict:
            return  # it ended while we asked: the watcher tells how
        self.was_aborted_here = True
        async with self._may_talk:
            self._tell(self.story.close())
            self._console.say("killing it" if kill else "stopping it; Ctrl-C again to kill")

    async def _wish(self, signals: AsyncIterator[Any]) -> Wish:
        """Ask. A second Ctrl-C, or nobody to ask, detaches: the one answer that harms nothing."""
        if not (sys.stdin.isatty() and self._console.err_is_terminal):
            return Wish.DETACH
        word, letter = ("kill", "k") if self.was_aborted_here else ("abort", "a")
        wishes = {"d": Wish.DETACH, "": Wish.DETACH, letter: Wish.ABORT, "c": Wish.CONTINUE}
        while True:
            self._console.ask(f"\n{self.task.id} is {self.task.status}: [d]etach, [{letter}]{word[1:]}, [c]ontinue? ")
            answer = await _answer(signals)
            if (wish := wishes.get(answer.strip().lower()[:1])) is not None:
                return wish


async def _answer(signals: AsyncIterator[Any]) -> str:
    """A line of the terminal; empty at its end, or when Ctrl-C is pressed again."""
    answers: list[str] = []
    async with anyio.create_task_group() as group:

        async def read() -> None:
            await anyio.wait_readable(sys.stdin)
            answers.append(sys.stdin.readline())
            group.cancel_scope.cancel()

        async def again() -> None:
            await anext(signals)
            group.cancel_scope.cancel()

        group.start_soon(read)
        group.start_soon(again)
    return answers[0] if answers else ""


def shown(event: EventRecord) -> dict[str, Any]:
    """An event as a line of JSON: as the manager sent it."""
    fields: dict[str, Any] = {"id": event.id, "type": event.type, "timestamp": event.timestamp}
    fields |= {"taskId": event.task_id, "attempt": event.attempt}
    if event.content is not None:
        fields["content"] = event.content
    if event.data is not None:
        fields["data"] = event.data
    return fields


async def say_the_end(fleet: AsyncFleetgate, console: Console, live: Live) -> None:
    """The closing line; and the answer of an agent that said none, from the result."""
    task = live.task
    if console.as_json:
        console.line({"type": "task", "task": task})
        return
    if not live.story.has_answered and task.result is not None and task.result.output:
        live.story.has_answered = True
        console.put(harmless(task.result.output.rstrip("\n")))
    name = await host_name(fleet, task.host_id)
    if live.story.has_answered and console.is_one_terminal:
        console.say("")
    console.tell(closing(task, live.story.usage, name, fold=console.folded))


async def host_name(fleet: AsyncFleetgate, host_id: str | None) -> str | None:
    """For people; its id when the host is not known any more."""
    if host_id is None:
        return None
    try:
        return (await fleet.host(host_id)).name
    except FleetgateError:
        return host_id


def exit_code(task: Task) -> int:
    """0 completed, 124 its time ran out, 1 anything else."""
    return {TaskState.COMPLETED: 0, TaskState.TIMEOUT: 124}.get(task.status, 1)
