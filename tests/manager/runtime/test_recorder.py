"""Everything a host says is committed in order, in as few commits as may be, and confirmed only after."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from manager.core.link import FULL, Link
from manager.core.tasks import Change, Record
from manager.errors import StoreUnavailable
from manager.ports import Taken, Verdict
from manager.runtime.clock import SystemClock
from manager.runtime.outbound import Outbound
from manager.runtime.recorder import Recorder
from shared_types.tasks import TaskState
from tests.fakes.host import FakeHost, Plan
from tests.manager.runtime.hall import hall


class SlowStore:
    """Takes commits when the test lets it, or fails them."""

    def __init__(self) -> None:
        self.commits: list[list[tuple[int, int]]] = []
        self.failures = 0
        self.gate = anyio.Event()

    async def change(self, changes: Sequence[Change]) -> list[Taken]:
        await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("disk full", code="DISK_FULL")
        self.commits.append([change.span for change in changes if change.span is not None])
        return [
            Taken(verdict=Verdict.TAKEN, heard=change.span[1], record=_record(change.task_id))
            for change in changes
            if change.span is not None
        ]


class Announced:
    def __init__(self) -> None:
        self.count = 0

    def taken(self, taken: Sequence[Taken]) -> None:
        self.count += len(taken)


def _record(task_id: str) -> Record:
    return Record(id=task_id, session_id="s", status=TaskState.RUNNING, updated_at=1, attempt=1, host_id="h1")


class Bench:
    def __init__(self) -> None:
        self.store = SlowStore()
        self.out = Outbound(lambda: None)
        self.announced = Announced()
        self.counted: list[str] = []
        self.ended: list[int] = []
        self.seq = 0
        self.recorder = Recorder(
            Link("h1", 1, FULL),
            self.out,
            store=self.store,  # type: ignore[arg-type]
            announcer=self.announced,  # type: ignore[arg-type]
            clock=SystemClock(),
            end=lambda code, _: self.ended.append(code),
            started=_nothing,
            changed=_nothing,
            count=lambda what, times: self.counted.append(what),
        )

    def hear(self, count: int, size: int = 10) -> None:
        for _ in range(count):
            self.seq += 1
            self.recorder.put(
                Change(task_id="t1", now=1, attempt=1, host_id="h1", generation=1, span=(self.seq, self.seq)),
                size,
            )

    def acked(self) -> int:
        seq = 0
        while (frame := self.out.next()) is not None:
            seq = msgspec.json.decode(frame)["seq"]
        return seq


async def _nothing(*_: Any) -> None:
    return None


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    async with anyio.create_task_group() as group:
        made.recorder.errand.live_in(group)
        yield made
        made.store.gate.set()
        await made.recorder.errand.wait_over()
        group.cancel_scope.cancel()


async def test_what_is_heard_during_a_commit_is_taken_together_by_the_next_one() -> None:
    async with bench() as b:
        b.hear(1)
        await anyio.wait_all_tasks_blocked()
        b.hear(500)
        assert (b.announced.count, b.acked()) == (0, 0)

        b.store.gate.set()
        await anyio.wait_all_tasks_blocked()

        assert [len(commit) for commit in b.store.commits] == [1, 500]
        assert b.announced.count == 501
        assert b.acked() == 501


async def test_a_commit_that_fails_is_tried_again_and_nothing_overtakes_it() -> None:
    async with bench() as b:
        b.store.failures = 2
        b.hear(2)
        await anyio.wait_all_tasks_blocked()
        b.hear(2)

    assert b.store.commits == [[(1, 1), (2, 2)], [(3, 3), (4, 4)]]
    assert b.counted == ["store_retries", "store_retries"]


async def test_at_the_end_everything_that_was_heard_is_committed() -> None:
    async with bench() as b:
        b.hear(3)

    assert b.store.commits == [[(1, 1), (2, 2), (3, 3)]]


async def test_the_reader_waits_only_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manager.runtime.recorder.MAX_WAITING_BYTES", 100)
    async with bench() as b:
        b.hear(1)
        await anyio.wait_all_tasks_blocked()
        b.hear(9)
        assert b.recorder.has_room
        b.hear(1)
        assert not b.recorder.has_room

        async with anyio.create_task_group() as group:
            group.start_soon(b.recorder.wait_room)
            await anyio.wait_all_tasks_blocked()
            assert b.recorder.is_holding_up
            b.store.gate.set()

        assert b.recorder.has_room
        assert not b.recorder.is_holding_up


async def test_a_long_backlog_is_committed_in_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manager.runtime.recorder.BATCH", 100)
    async with bench() as b:
        b.hear(250)
        b.store.gate.set()

    assert [len(commit) for commit in b.store.commits] == [100, 100, 50]


async def test_when_the_disk_is_full_for_a_while_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(plan=lambda _: Plan(holds=True, events=0)))
        task_id = await h.submit()
        await h.until(task_id, TaskState.RUNNING)
        change = h.store.change
        failures = 3

        async def flaky(changes: Sequence[Change]) -> list[Taken]:
            nonlocal failures
            if failures:
                failures -= 1
                raise StoreUnavailable("disk full", code="DISK_FULL")
            return await change(changes)

        monkeypatch.setattr(h.store, "change", flaky)
        for number in range(10):
            await host.tell(task_id, str(number))
        await host.finish(task_id)
        await h.until(task_id, TaskState.COMPLETED)

        told = [event["content"] for event in await h.events(task_id) if event["type"] == "message"]
        assert told == [str(number) for number in range(10)]
