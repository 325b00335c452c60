"""`kill -9` of the gateway: its agents do not notice, and nothing that they said is lost or said twice."""

import time
from pathlib import Path

import anyio
import pytest

from e2e.chaos.world import World, a_world, figures, is_whole, lasting, numbered

pytestmark = pytest.mark.timeout(300)


async def test_killed_at_random_moments_of_five_running_tasks_costs_them_nothing(world: World):
    """Fault 1. Each agent keeps its pid; the logs are whole: every line once and in order, ids without a gap; the
    exit codes are kept; no attempt is started twice.
    """
    kills, rate = lasting(6, 24), 100
    count = lasting(1000, 6000)
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


@pytest.mark.parametrize(
    "point",
    ["execute_received", "directory_written", "keeper_started", "started_said", "before_forget"],
)
async def test_killed_at_each_place_of_a_start_and_of_an_end_the_agent_runs_exactly_once(world: World, point: str):
    """Fault 2. Whatever the dead gateway had done, and whom it had told: exactly one start in all, and the task ends.
    The agent itself writes down that it was started.
    """
    await world.host.stop()
    await world.host.start_to_crash(point)
    task = await world.submit("lines --count 20 --rate 20")
    await world.host.wait_crashed()
    await world.host.start()
    ended = await world.api.wait_final(task["id"])

    assert ended["status"] == "completed"
    assert len(world.signed(task["id"])) == 1
    assert await world.lines(task["id"]) == numbered(20)
    figures(f"gateway dies at {point}", starts=1, attempts=ended["attempt"], status=ended["status"])


async def test_fifty_living_attempts_are_adopted_before_the_manager_has_the_host_back(tmp_path: Path):
    """Must show 6. All of them, with their pids; the figure is the time from the start of the new process until the
    manager has welcomed it, which comes after the last adoption.
    """
    async with a_world(tmp_path, slots=50) as world:
        tasks = [await world.submit("silent") for _ in range(50)]
        for task in tasks:
            await world.wait_signed(task["id"])
        pids = {start.pid for start in world.signed()}
        await world.host.kill()
        logged = world.host.log.stat().st_size
        began = time.monotonic()
        await world.host.start()
        back = time.monotonic() - began
        adopted = world.host.log.read_text()[logged:].count("attempt.adopted")
        for task in tasks:
            await world.api.abort(task["id"], kill=True)
        ends = [await world.api.wait_final(task["id"], within_s=120) for task in tasks]

    assert adopted == 50
    assert {end["status"] for end in ends} == {"aborted"}
    assert {start.pid for start in world.signed()} == pids
    figures("adopting 50 attempts", from_start_of_the_process_to_welcome_s=back)
