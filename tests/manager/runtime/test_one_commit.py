"""A task that a host has room for is stored and given to it by one commit, so that it waits for the disk once."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from shared_types.tasks import TaskState
from tests.fakes.host import FakeHost, Plan
from tests.manager.runtime.hall import Hall, hall


def watch(h: Hall, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, TaskState]]:
    """How tasks stood after each commit from now on."""
    commits: list[dict[str, TaskState]] = []
    learn = h.store._recent.learn

    def learn_and_tell(news: Any) -> None:
        commits.append({task_id: record.status for task_id, (_, record) in news.tasks.items()})
        learn(news)

    monkeypatch.setattr(h.store._writer, "_learn", learn_and_tell)
    return commits


async def test_a_task_and_its_claim_share_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hall(tmp_path) as h:
        await h.online(FakeHost())
        await h.until(await h.submit(), TaskState.COMPLETED)  # from now on its queue has a number
        await anyio.wait_all_tasks_blocked()  # and the dispatcher is at rest
        commits = watch(h, monkeypatch)

        task_id = await h.submit()
        await h.until(task_id, TaskState.COMPLETED)

        assert commits[0] == {task_id: TaskState.ASSIGNED}
        assert (await h.kinds(task_id))[:3] == ["queued", "assigned", "running"]


async def test_a_task_that_nobody_has_room_for_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(slots=1, plan=lambda _: Plan(holds=True, events=0)))
        first = await h.submit()
        await h.until(first, TaskState.RUNNING)
        commits = watch(h, monkeypatch)

        second = await h.submit()
        assert commits[0] == {second: TaskState.QUEUED}
        await host.finish(first)

        await h.until(second, TaskState.RUNNING)
