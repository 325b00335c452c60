"""A loop that is there while there is work, and not when there is none."""

import anyio
import pytest

from manager.runtime.errand import Errand


class Worker:
    def __init__(self) -> None:
        self.left = 0
        self.done = 0
        self.gate = anyio.Event()
        self.gate.set()
        self.errand = Errand(self.work)

    def give(self, count: int = 1) -> None:
        self.left += count
        self.errand.wake()

    async def work(self) -> None:
        while self.left:
            await self.gate.wait()
            self.left -= 1
            self.done += 1


async def test_work_that_was_given_before_there_was_a_place_to_run_is_done() -> None:
    worker = Worker()
    worker.give(2)
    async with anyio.create_task_group() as group:
        worker.errand.live_in(group)
        await anyio.wait_all_tasks_blocked()

        assert worker.done == 2
        group.cancel_scope.cancel()


async def test_it_stays_for_more_and_rests_when_nothing_came_for_a_while() -> None:
    worker = Worker()
    async with anyio.create_task_group() as group:
        worker.errand.live_in(group)
        for expected in (1, 2):
            worker.give()
            await anyio.wait_all_tasks_blocked()
            assert (worker.done, repr(worker.errand)) == (expected, "<Errand running>")
            worker.errand.may_rest()
            await anyio.wait_all_tasks_blocked()
            assert repr(worker.errand) == "<Errand running>"

        worker.errand.may_rest()

    assert repr(worker.errand) == "<Errand at rest>"  # and the group could end


async def test_what_is_given_when_its_place_is_gone_is_left_undone_and_hurts_nobody() -> None:
    worker = Worker()
    async with anyio.create_task_group() as group:
        worker.errand.live_in(group)
        worker.errand.leave()
    worker.give()

    assert (worker.done, worker.left) == (0, 1)


async def test_what_is_given_while_it_goes_to_rest_is_done() -> None:
    worker = Worker()
    async with anyio.create_task_group() as group:
        worker.errand.live_in(group)
        worker.give()
        await anyio.wait_all_tasks_blocked()
        worker.errand.may_rest()
        worker.errand.may_rest()
        worker.give()
        await anyio.wait_all_tasks_blocked()

        assert worker.done == 2
        worker.errand.may_rest()
        worker.errand.may_rest()
        await anyio.wait_all_tasks_blocked()
        worker.give()
        await anyio.wait_all_tasks_blocked()
        assert worker.done == 3
        group.cancel_scope.cancel()


async def test_waiting_for_the_end_waits_for_everything_given() -> None:
    worker = Worker()
    worker.gate = anyio.Event()
    async with anyio.create_task_group() as group:
        worker.errand.live_in(group)
        worker.give(3)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(worker.errand.wait_over)
        await anyio.wait_all_tasks_blocked()
        assert worker.done == 0
        worker.gate.set()

    assert worker.done == 3


async def test_waiting_for_the_end_of_what_has_nothing_to_do_returns_at_once() -> None:
    worker = Worker()
    await worker.errand.wait_over()
    async with anyio.create_task_group() as group:
        worker.errand.live_in(group)
        worker.give()
        await anyio.wait_all_tasks_blocked()

        await worker.errand.wait_over()

        group.cancel_scope.cancel()


async def test_a_failure_is_the_groups() -> None:
    async def fail() -> None:
        raise ValueError("broken")

    errand = Errand(fail)
    with pytest.RaisesGroup(ValueError):
        async with anyio.create_task_group() as group:
            errand.live_in(group)
            errand.wake()
