"""The network between a gateway and its manager is gone for a while, and so is the reader's."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from e2e.chaos.proxy import Proxy, proxying
from e2e.chaos.world import Follower, World, a_world, figures, following, is_whole, lasting, numbered
from e2e.harness import until

pytestmark = pytest.mark.timeout(300)

OUTAGE_S = lasting(8.0, 30.0)
RATE = 1000  # lines a second


async def refused(link: Proxy) -> None:
    """The link breaks in the middle of a frame, and nobody answers who dials."""
    link.reset_after(3000)
    await anyio.sleep(0.5)  # it breaks by itself, while the agent talks
    link.down()
    await anyio.sleep(OUTAGE_S)
    link.up()


async def silent(link: Proxy) -> None:
    """Nothing moves, and nobody is told."""
    link.stall()
    await anyio.sleep(OUTAGE_S)
    link.flow()


async def half_open(link: Proxy) -> None:
    """The manager sees the end, the gateway goes on talking to nobody; then the link is gone for it, too."""
    link.half_open()
    await anyio.sleep(OUTAGE_S)
    link.reset()


async def cut_now_and_then(world: World, follower: Follower) -> None:
    while True:
        await anyio.sleep(world.chance.uniform(0.2, 2.0))  # the random moment
        follower.cut()


async def suffer(world: World, outage: Callable[[Proxy], Awaitable[None]], count: int) -> None:
    """One host, one agent, one outage and one reader."""
    name = outage.__name__.replace("_", "-")
    async with proxying("127.0.0.1", int(world.url.rpartition(":")[2])) as link:
        host = await world.add_host(name, url=f"ws://127.0.0.1:{link.port}")
        task = await world.submit(f"lines --count {count} --rate {RATE}", host=name)
        agent = await world.wait_signed(task["id"])
        async with following(world, task["id"]) as follower:
            async with anyio.create_task_group() as group:
                group.start_soon(cut_now_and_then, world, follower)
                await world.wait_lines(task["id"], 500)
                await outage(link)
                ended = await world.api.wait_final(task["id"], within_s=120)
                group.cancel_scope.cancel()
            await until(lambda: follower.is_over, 60, f"the reader has all of {name}")
        assert host.is_alive
        await host.stop()

    assert ended["status"] == "completed", name
    assert follower.lines == numbered(count), name
    assert is_whole([event["id"] for event in follower.events]), name
    assert [start.pid for start in world.signed(task["id"])] == [agent.pid], name
    figures(
        f"link {name} for {OUTAGE_S:g} s",
        lines=count,
        lost=0,
        doubled=0,
        gateway_dialled=link.dialled,
        reader_connected=follower.connections,
    )


async def test_a_reader_that_reconnects_has_every_line_once_and_in_order_after_an_outage(tmp_path: Path):
    """Must show 4. An agent prints 1,000 lines a second through an outage of its gateway's link (three kinds, on
    three hosts); a subscriber that itself loses its connection again and again has each line once and in order, with
    ids without a gap.
    """
    count = RATE * lasting(12, 45)
    async with a_world(tmp_path, hosts=0) as world, anyio.create_task_group() as group:
        for outage in (refused, silent, half_open):
            group.start_soon(suffer, world, outage, count)
