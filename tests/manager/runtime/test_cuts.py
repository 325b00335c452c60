"""A bad line: cut at random moments, again and again. Nothing is lost, doubled, left over or run twice."""

from collections import Counter
from pathlib import Path
from random import Random

import anyio
import pytest

from shared_types.tasks import TaskState
from tests.fakes.host import FakeHost, Plan
from tests.manager.runtime.hall import hall

CUTS = 25
TASKS = 40


@pytest.mark.parametrize("seed", range(6))
async def test_over_a_line_that_is_cut_again_and_again_every_task_runs_once_and_whole(
    tmp_path: Path, seed: int
) -> None:
    random = Random(seed)
    async with hall(tmp_path) as h:
        plans = {f"p{n}": Plan(events=random.choice([0, 1, 5, 50])) for n in range(TASKS)}
        host = FakeHost(slots=4, plan=lambda task: plans[task.prompt])
        tasks: dict[str, Plan] = {}

        async def submit() -> None:
            for prompt, plan in plans.items():
                tasks[await h.submit(prompt)] = plan
                await anyio.sleep(random.random() * 0.01)

        async with anyio.create_task_group() as group:
            group.start_soon(submit)
            for cut in range(CUTS):
                await h.online(host)
                await anyio.sleep(random.random() * 0.03)
                await h.cut()
                await h.until_true(lambda: len(h.ends["h1"]) == cut + 1)  # noqa: B023 - awaited in this round
                if random.random() < 0.2:
                    host.restarted()
        await h.online(host)
        ended = {task_id: await h.until(task_id, TaskState.COMPLETED, TaskState.LOST) for task_id in tasks}

        assert all(count == 1 for count in Counter(host.started).values())
        attempts = Counter(task_id for task_id, _ in host.started)
        for task_id, plan in tasks.items():
            events = await h.events(task_id)
            assert [event["id"] for event in events] == list(range(1, len(events) + 1))
            if ended[task_id].status is TaskState.COMPLETED:
                assert attempts[task_id] == 1
                assert sum(event["type"] == "message" for event in events) == plan.events
            else:  # accepted, and then the gateway was another process: nobody can say that it did not start
                assert ended[task_id].reason == "host_restarted"
                assert attempts[task_id] == 0
        assert sum(task.status is TaskState.LOST for task in ended.values()) <= CUTS
        await h.until_true(lambda: not host.attempts)
        assert (await h.fleet.status("h1")).slots_used == 0
