"""Whether an attempt may have started, when the manager or its disk failed, or the host came back without it."""

import sqlite3
from pathlib import Path
from typing import Any

import anyio
import pytest

from manager.errors import StoreUnavailable
from shared_types.messages import Register, TaskAccepted, TaskExecute, TaskStart
from shared_types.tasks import TaskState
from tests.fakes.host import FakeHost, Plan, capabilities
from tests.manager.runtime.hall import Hall, hall


def register(protocol: int = 2, boot: str | None = "b1", instance: str = "i1") -> Register:
    return Register(
        host_id="h1", capabilities=capabilities("h1"), protocol=protocol, boot_id=boot, instance=instance, running=()
    )


class Disk:
    """While it is full, no commit succeeds."""

    def __init__(self, h: Hall) -> None:
        self.full = False
        self._write = h.store._writer._write
        h.store._writer._write = self.write  # type: ignore[method-assign]

    def write(self, group: Any) -> None:
        self._write(group)
        if self.full:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    async def fails_once(self, h: Hall) -> None:
        self.full = True
        with pytest.raises(StoreUnavailable):
            await h.store.set_draining("h1", True)
        self.full = False


async def told_to_start(h: Hall, first: Register) -> str:
    """A task of which nothing is heard after `task:start`."""
    hand = h.hand("h1")
    await hand.register(first)
    task_id = await h.submit()
    given = await hand.expect(TaskExecute)
    await hand.say(TaskAccepted(task_id=task_id, attempt=given.attempt))
    await hand.expect(TaskStart)
    await h.cut("h1")
    return task_id


async def not_accepted(h: Hall) -> str:
    """A task that was given to a host, which has said nothing when a commit failed."""
    hand = h.hand("h1")
    await hand.register(register())
    task_id = await h.submit()
    await hand.expect(TaskExecute)
    await h.until(task_id, TaskState.ASSIGNED)
    await Disk(h).fails_once(h)
    return task_id


async def test_under_the_same_boot_id_it_was_not_started(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        task_id = await told_to_start(h, register())
        other = await h.online(FakeHost("h2"))

        await h.hand("h1").register(register(instance="i2"))

        await h.until(task_id, TaskState.COMPLETED)
        assert other.started == [(task_id, 2)]


@pytest.mark.parametrize(
    ("before", "after"),
    [("b1", "b2"), ("b1", None), (None, None), ("", "")],
    ids=["another", "none now", "none", "empty"],
)
async def test_otherwise_it_may_have_run_and_is_lost(tmp_path: Path, before: str | None, after: str | None) -> None:
    async with hall(tmp_path) as h:
        task_id = await told_to_start(h, register(boot=before))
        other = await h.online(FakeHost("h2"))

        await h.hand("h1").register(register(boot=after, instance="i2"))

        await h.until(task_id, TaskState.LOST)
        assert other.started == []


async def test_what_was_given_in_the_base_dialect_has_no_name_in_the_full_one(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand("h1")
        await hand.register(register(protocol=1))
        task_id = await h.submit()
        await hand.expect(TaskExecute)  # it runs from now on
        await h.cut("h1")

        await h.hand("h1").register(register(instance="i2"))

        await h.until(task_id, TaskState.LOST)


async def test_an_agent_that_started_while_the_disk_was_full_goes_on(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(plan=lambda _: Plan(holds=True, events=0)))
        disk = Disk(h)
        learn = h.store._writer._learn

        def learn_and_fill(news: Any) -> None:
            learn(news)
            records = [record for _, record in news.tasks.values()]
            disk.full |= any(record.status is TaskState.ASSIGNED and not record.accepted for record in records)

        h.store._writer._learn = learn_and_fill
        task_id = await h.submit()
        await h.until_true(lambda: host.started == [(task_id, 1)])  # though nothing more is written
        await h.until_true(lambda: h.fleet.counters["store_retries"] > 0)
        h.store._writer._learn = learn

        h.clock.later_ms = 60_000
        disk.full = False
        with anyio.fail_after(10):
            while True:  # before the recorder tries again
                try:
                    await h.watchdog.look()
                    break
                except StoreUnavailable:
                    await anyio.lowlevel.checkpoint()

        await h.until(task_id, TaskState.RUNNING)


async def test_after_a_failed_commit_what_was_not_accepted_still_goes_back_to_the_queue(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        task_id = await not_accepted(h)

        h.clock.later_ms = 60_000
        await h.watchdog.look()

        await h.until(task_id, TaskState.QUEUED)


async def test_after_a_failed_commit_what_was_not_accepted_still_goes_to_another_host_at_once(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        task_id = await not_accepted(h)
        other = await h.online(FakeHost("h2"))

        await h.cut("h1")

        await h.until(task_id, TaskState.COMPLETED)
        assert other.started == [(task_id, 2)]
