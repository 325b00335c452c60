"""`kill -9` of a keeper, and a keeper's file that names somebody else."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from e2e.chaos.world import World, figures, processes, within
from e2e.harness import until

pytestmark = pytest.mark.timeout(120)


def alive(attempt: str) -> set[int]:
    return {seen.pid for seen in processes() if seen.attempt == attempt}


@pytest.mark.parametrize("left", ["silent", "double-forks --stubborn --then hang", "forks-and-setsids --then hang"])
async def test_the_agent_of_a_killed_keeper_dies_with_it_and_nothing_of_its_tree_is_left(world: World, left: str):
    """Fault 3. The agent is dead at once (measured: a few ms), nothing with its cookie is alive after a second, also
    what had left its group and its session; the task is `lost` and says why.
    """
    task = await world.submit(left)
    agent = await world.wait_signed(task["id"])
    if left != "silent":
        await world.wait_lines(task["id"], 1)
    keeper = world.host.keeper_of(task["id"])
    os.kill(keeper, signal.SIGKILL)
    agent_s = await within(1.0, lambda: agent.pid not in alive(agent.attempt), "the agent is dead")
    all_s = await within(2.0, lambda: not alive(agent.attempt), "nothing of it is left")
    ended = await world.api.wait_final(task["id"])

    assert (ended["status"], ended["reason"]) == ("lost", "supervisor_died")
    figures("kill -9 keeper", agent=left.split()[0], agent_dead_after_ms=agent_s * 1000, all_after_ms=all_s * 1000)


async def test_what_the_agent_of_a_killed_keeper_left_is_ended_by_the_next_gateway(world: World):
    """Fault 3 with no gateway there: the agent dies all the same; what had left its session is ended by the next."""
    task = await world.submit("double-forks --stubborn --then hang")
    agent = await world.wait_signed(task["id"])
    await world.wait_lines(task["id"], 1)
    keeper = world.host.keeper_of(task["id"])
    await world.host.kill()
    os.kill(keeper, signal.SIGKILL)
    await within(1.0, lambda: agent.pid not in alive(agent.attempt), "the agent is dead")
    began = time.monotonic()
    await world.host.start()
    await until(lambda: not alive(agent.attempt), 5, "nothing of it is left")
    ended = await world.api.wait_final(task["id"])

    assert (ended["status"], ended["reason"]) == ("lost", "supervisor_died")
    figures("kill -9 keeper and gateway", all_gone_after_start_s=time.monotonic() - began)


def bare() -> set[int]:
    """Of what threw away its environment, the command line is left: its tag is this test process."""
    found = set()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdecimal() and f"bare-{os.getpid()}".encode() in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
    return found


@pytest.mark.parametrize("is_gateway_dead", [False, True], ids=["gateway lives", "gateway dead too"])
async def test_with_a_cgroup_even_what_threw_away_its_environment_is_ended(world: World, is_gateway_dead: bool):
    """Fault 3, the worst of them: own session, no parent, no environment, ignores TERM. Where the machine gives agents
    a cgroup it is ended; where it does not, nobody can know it: that limit is documented, and asserted here.
    """
    task = await world.submit(f"--tag bare-{os.getpid()} double-forks --bare --stubborn --then hang")
    await world.wait_signed(task["id"])
    await world.wait_lines(task["id"], 1)
    path = world.host.attempt_of(task["id"])
    assert path is not None
    has_cgroup = bool(json.loads((path / "state.json").read_text()).get("cgroup"))
    left = await until(bare, 10, "it has thrown away its environment")
    if is_gateway_dead:
        await world.host.kill()
    os.kill(world.host.keeper_of(task["id"]), signal.SIGKILL)
    if is_gateway_dead:
        await world.host.start()
    ended = await world.api.wait_final(task["id"])
    survivors = bare()
    for pid in survivors:
        os.kill(pid, signal.SIGKILL)

    assert (ended["status"], ended["reason"]) == ("lost", "supervisor_died")
    assert survivors == (set() if has_cgroup else left)
    figures("kill -9 keeper, agent left no trace", cgroup=has_cgroup, survivors=len(survivors))


# --- a pid that is another's by now -------------------------------------------------------------------

BYSTANDER = """
import signal, sys, time
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
    signal.signal(number, lambda number, frame: print("hit by", number, flush=True))
print("here", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is nobody's agent and says which signals it got."""
    with subprocess.Popen([sys.executable, "-c", BYSTANDER], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        os.set_blocking(process.stdout.fileno(), False)
        yield process
        process.kill()


@pytest.mark.parametrize("is_start_time_right", [False, True], ids=["pid alone", "pid and start time"])
async def test_a_process_that_has_got_the_pid_of_a_dead_keeper_is_never_signalled(
    world: World, bystander: subprocess.Popen[bytes], is_start_time_right: bool
):
    """Fault 26. The state file of a dead keeper names another process, once even with that one's start time: neither
    adopting, aborting nor sweeping signals it.
    """
    task = await world.submit("silent")
    agent = await world.wait_signed(task["id"])
    path = world.host.attempt_of(task["id"])
    assert path is not None
    keeper = world.host.keeper_of(task["id"])
    await world.host.kill()
    os.kill(keeper, signal.SIGKILL)
    await within(2.0, lambda: not alive(agent.attempt), "the agent is dead")
    state = json.loads((path / "state.json").read_text())
    state["pid"] = bystander.pid
    if is_start_time_right:
        stat = Path(f"/proc/{bystander.pid}/stat").read_text()
        state["startTime"] = int(stat.rpartition(")")[2].split()[19])
    (path / "state.json").write_text(json.dumps(state))
    await world.api.abort(task["id"])
    await world.host.start()
    ended = await world.api.wait_final(task["id"])

    assert ended["status"] == "lost"
    assert bystander.poll() is None
    assert bystander.stdout is not None
    assert bystander.stdout.read() is None
    figures("PID reuse", signals_to_the_other=0, status=ended["status"], reason=ended["reason"])
