"""One agent prints as fast as it can; its neighbours, its host and the manager go on as before."""

import time
from pathlib import Path

import anyio
import pytest

from e2e.chaos.world import a_world, figures, following, is_whole, lasting, look_at, memory_mb, time_of_day

pytestmark = pytest.mark.timeout(600)

TTL_S = 15.0
BEAT_S = 1.0
MIB = 1024 * 1024
WIDTH = 100  # of a line, with its end


def p99(numbers: list[float]) -> float:
    return sorted(numbers)[len(numbers) * 99 // 100]


async def test_a_flood_from_one_agent_delays_no_heartbeat_and_no_other_task(tmp_path: Path):
    """Fault 25. While it lasts: signs of life of the host come less than TTL/3 late, the events of another task are
    there within a second (p99), the memory of gateway and manager is bounded, no byte of the flood is missing, and
    nothing is taken for lost.
    """
    size = lasting(25, 500)
    env = {"MANAGER_HEARTBEAT_S": str(BEAT_S), "MANAGER_HOST_TTL_S": str(TTL_S)}
    async with a_world(tmp_path, manager_env=env) as world:
        lives = {"gateway": world.host, "manager": world.manager}
        before = {name: memory_mb(life.pid) for name, life in lives.items()}
        most = dict(before)
        silent_s = rate = 0.0
        ticking = await world.submit("ticks --count 1000000 --rate 20")
        await world.wait_signed(ticking["id"])
        flooding = await world.submit(f"floods --count {size} --width {WIDTH - 1}")
        flooder = await world.wait_signed(flooding["id"])
        began = time.monotonic()
        async with following(world, ticking["id"]) as follower:
            reads_since = time_of_day()
            while (await world.api.task(flooding["id"]))["status"] == "running":
                most = {name: max(most[name], memory_mb(life.pid)) for name, life in lives.items()}
                host = (await world.api.hosts())["h1"]
                assert host["status"] in ("online", "busy")
                silent_s = max(silent_s, time_of_day() - host["lastHeartbeat"] / 1000)
                if not rate and look_at(flooder.pid) is None:
                    rate = size / (time.monotonic() - began)
                await anyio.sleep(0.1)
            took = time.monotonic() - began
        ended = await world.api.wait_final(flooding["id"])
        await world.api.abort(ticking["id"], kill=True)
        await world.api.wait_final(ticking["id"])
        events = await world.api.events(flooding["id"])

    ticks = (
        (at, int(event["content"].split()[0]) / 1000)
        for at, event in zip(follower.at, follower.events, strict=True)
        if event["type"] == "message" and event["data"]["delta"]
    )
    late = [at - tick for at, tick in ticks if tick > reads_since]
    text = sum(len(event["content"]) for event in events if event["type"] == "message" and event["data"]["delta"])
    grown = {name: most[name] - before[name] for name in lives}
    figures(
        "flood from one agent",
        mib=size,
        agent_mib_per_s=rate,
        stored_mib_per_s=size / took,
        other_events=len(late),
        other_p50_ms=sorted(late)[len(late) // 2] * 1000,
        other_p99_ms=p99(late) * 1000,
        longest_silence_s=silent_s,
        gateway_grew_mb=grown["gateway"],
        manager_grew_mb=grown["manager"],
    )
    assert ended["status"] == "completed"
    assert text == size * (MIB // WIDTH) * WIDTH
    assert is_whole([event["id"] for event in events])
    assert silent_s < BEAT_S + TTL_S / 3
    assert p99(late) < lasting(5.0, 1.0)  # a machine that runs all the tests at once is slow
    assert grown["gateway"] < 100
    assert grown["manager"] < 300
