"""A task's way through the live half: queue, host, events, end. The store is real, hosts are simulated."""

from pathlib import Path

from shared_types.tasks import TaskState
from tests.fakes.host import FakeHost, Plan
from tests.manager.runtime.hall import hall


async def test_a_task_goes_from_the_queue_to_a_host_and_ends_with_all_its_events(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(plan=lambda _: Plan(events=3)))

        task_id = await h.submit("write a poem")
        task = await h.until(task_id, TaskState.COMPLETED)

        assert task.result is not None
        assert task.result.output == "done"
        assert task.agent_session_id == "s-" + task_id
        assert host.started == [(task_id, 1)]
        assert await h.kinds(task_id) == ["queued", "assigned", "running", "message", "message", "message", "completed"]
        await h.until_true(lambda: not host.attempts)  # everything is confirmed


async def test_a_task_waits_until_a_host_comes(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        task_id = await h.submit()
        assert (await h.store.task(task_id)).status is TaskState.QUEUED

        await h.online(FakeHost())

        await h.until(task_id, TaskState.COMPLETED)
