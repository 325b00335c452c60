"""A lease ends an agent with nobody there to end it: its gateway is dead, and its keeper keeps the time."""

import json
import time
from pathlib import Path

import anyio
import pytest

from e2e.chaos.world import Cookies, a_world, figures, host_in, processes
from e2e.harness import until
from gateway.core.lease import KILL_BUDGET_MS
from gateway.runtime import attempt as attempts
from shared_types.messages import LeaseTerms, TaskFailed
from tests.fakes.manager import FakeManager

pytestmark = pytest.mark.timeout(180)

# This manager counts on no time for killing and our keepers on 15 s, so they begin so much earlier: 3 s after the last
# sign of life. A short lease needs no short ttl, which a slow machine would miss.
SOON = LeaseTerms(ttl=KILL_BUDGET_MS + 3_000, kill_budget=0)
LONG = LeaseTerms(ttl=600_000, kill_budget=KILL_BUDGET_MS)
AGENTS = {"obeys": "lines --count 100000 --rate 10", "ignores TERM": "ignores-term", "is stopped": "stops-itself"}


def told_until(home: Path, uid: str) -> int | None:
    """The deadline that the attempt's keeper knows, in ms of CLOCK_BOOTTIME."""
    with attempts.dial(attempts.directory(home, uid)) as line:
        line.setblocking(True)
        line.settimeout(10)
        line.sendall(b'{"op":"hello"}\n')
        deadline: int | None = json.loads(line.recv(65536))["untilMs"]
        return deadline


def boottime_ms() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) * 1000


async def test_the_agents_of_a_gateway_that_is_dead_and_stays_dead_end_in_time_by_themselves(tmp_path: Path):
    """Fault 8. Killed, and not started again: nothing of its agents is alive later than deadline + kill budget +
    0.5 s, and none that would obey is ended before its deadline; a later gateway reports `lease_expired`.
    """
    over: dict[str, float] = {}
    async with FakeManager(lease=SOON, heartbeat_interval=500).serving() as manager:
        with Cookies(tmp_path).looking() as cookies:
            host = host_in(tmp_path, "h1", url=manager.url, token=manager.token)
            await host.start()
            given = {
                name: await manager.offer(name, prompt=command + "\n", grace=0) for name, command in AGENTS.items()
            }
            for attempt in given.values():
                await manager.wait(lambda attempt=attempt: attempt.texts("message"))
            await host.kill()
            deadlines = {name: told_until(host.home, attempt.uid) for name, attempt in given.items()}

            def look() -> bool:
                alive = {seen.attempt for seen in processes()}
                for name, attempt in given.items():
                    if name not in over and attempt.uid not in alive:
                        over[name] = (boottime_ms() - (deadlines[name] or 0)) / 1000
                return len(over) == len(given)

            await until(look, 60, "all agents have ended", every_s=0.01)
            manager.lease = LONG
            await host.start()
            ends = [await manager.wait_end(name) for name in given]
            await host.stop()

    assert not cookies.overlaps
    assert all(len(pids) == 1 for pids in cookies.lived.values())
    assert {type(end) for end in ends} == {TaskFailed}
    assert {end.reason for end in ends if isinstance(end, TaskFailed)} == {"lease_expired"}
    assert min(over.values()) >= 0
    assert max(over.values()) < KILL_BUDGET_MS / 1000 + 0.5
    figures("gateway dead past the lease, seconds after the deadline", **over)


async def test_a_task_is_lost_only_when_nothing_of_it_runs_any_more_and_may_run_elsewhere_then(tmp_path: Path):
    """Fault 8 with a real manager. The host that has the task dies and stays dead; its agent does not obey. The
    manager says `lost` after the agent's end, never before; tried again, it runs on another host, and at no moment in
    two places.
    """
    settings = {"MANAGER_HOST_TTL_S": "6", "MANAGER_HEARTBEAT_S": "1.5", "MANAGER_HOST_GRACE_S": "1"}
    async with a_world(tmp_path, manager_env=settings) as world:
        task = await world.submit("ignores-term")
        await world.wait_signed(task["id"])
        await world.wait_lines(task["id"], 1)
        await world.host.kill()
        killed = time.monotonic()
        died = lost = 0.0
        await world.add_host("h2")
        while not lost:
            if not died and not any(seen.task == task["id"] for seen in processes()):
                died = time.monotonic()
            if (await world.api.task(task["id"]))["status"] == "lost":
                lost = time.monotonic()
            await anyio.sleep(0.05)
        await world.api.json("POST", f"/api/tasks/{task['id']}/retry", {})
        await until(lambda: len(world.signed(task["id"])) == 2, 30, "it runs again")
        await world.api.abort(task["id"], kill=True)
        ended = await world.api.wait_final(task["id"])

    assert 0 < died < lost
    assert (ended["status"], ended["attempt"]) == ("aborted", 2)
    figures("host dead for good", agent_dead_after_s=died - killed, lost_after_s=lost - killed, overlap=0)
