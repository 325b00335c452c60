"""`kill -9` of the gateway: its agents do not notice, and nothing that they said is lost or said twice."""

import anyio
import pytest

from e2e.chaos.world import World, figures, is_whole, lasting, numbered

pytestmark = pytest.mark.timeout(300)


async def test_killed_at_random_moments_of_five_running_tasks_costs_them_nothing(world: World):
    """Fault 1. Each agent keeps its pid; the logs are whole: every line once and in order, ids without a gap; the
    exit codes are kept; no attempt is started twice.
    """
    kills, rate = lasting(6, 24), 100
    count = lasting(1500, 6000)
    tasks = [await world.submit(f"lines --count {count} --rate {rate} --code {40 + n}") for n in range(5)]
    pids = {task["id"]: (await world.wait_signed(task["id"])).pid for task in tasks}
    away = []
    for _ in range(kills):
        await anyio.sleep(world.chance.uniform(0.0, 1.2))  # the random moment
        away.append(await world.kill_and_start(world.host))

    for n, task in enumerate(tasks):
        ended = await world.api.wait_final(task["id"], within_s=120)
        events = await world.api.events(task["id"])
        assert (ended["status"], ended["result"]["exitCode"]) == ("failed", 40 + n)
        assert await world.lines(task["id"]) == numbered(count)
        assert is_whole([event["id"] for event in events])
        assert [start.pid for start in world.signed(task["id"])] == [pids[task["id"]]]
    assert all(len(lived) == 1 for lived in world.cookies.lived.values())
    figures(
        "kill -9 gateway during 5 tasks",
        kills=kills,
        lines=5 * count,
        lost=0,
        doubled=0,
        back_after_s=max(away),
        looks=world.cookies.looks,
    )
