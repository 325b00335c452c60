"""What is said to an agent reaches it once and in order, whoever dies in between."""

import anyio
import httpx
import pytest

from e2e.chaos.world import World, figures, is_whole, lasting

pytestmark = pytest.mark.timeout(300)


async def say_until_taken(world: World, task_id: str, input_id: str, content: str) -> int:
    """As a careful client does it: again, with the same id, until it is answered. How often it was said."""
    for tries in range(1, 1000):
        try:
            await world.api.json("POST", f"/api/tasks/{task_id}/input", {"content": content, "inputId": input_id})
        except (httpx.HTTPError, AssertionError):  # nobody there, or 503: not stored
            await anyio.sleep(0.05)
        else:
            return tries
    raise AssertionError(f"{input_id} was never taken")


async def test_each_input_reaches_the_agent_once_and_in_order_through_kills_of_gateway_and_manager(world: World):
    """Fault 22. The agent repeats each line that it reads: every id once, in the order in which they were taken; the
    log holds one `input` event for each.
    """
    count = lasting(150, 1500)
    task = await world.submit("repeats", agent="talk")
    agent = await world.wait_signed(task["id"])
    is_over = anyio.Event()
    kills = {"gateway": 0, "manager": 0}

    async def killer() -> None:
        while not is_over.is_set():
            for name, life in (("gateway", world.host), ("manager", world.manager)):
                await anyio.sleep(world.chance.uniform(0.1, 0.9))  # the random moment
                kills[name] += 1
                await world.kill_and_start(life)

    said = 0
    async with anyio.create_task_group() as group:
        group.start_soon(killer)
        for number in range(count):
            said += await say_until_taken(world, task["id"], f"i{number}", f"word {number}")
            await anyio.sleep(0.04)  # so that the kills fall between, and in the middle of, many of them
        is_over.set()
    await say_until_taken(world, task["id"], "last", "bye")
    ended = await world.api.wait_final(task["id"], within_s=60)
    events = await world.api.events(task["id"])
    taken = [event["data"]["inputId"] for event in events if event["type"] == "input"]

    assert ended["status"] == "completed"
    assert await world.lines(task["id"]) == [*(f"word {number}" for number in range(count)), "bye"]
    assert taken == [*(f"i{number}" for number in range(count)), "last"]
    assert is_whole([event["id"] for event in events])
    assert [start.pid for start in world.signed(task["id"])] == [agent.pid]
    figures("input through kills", **kills, inputs=count, requests=said, lost=0, doubled=0)
