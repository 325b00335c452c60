"""Agents that do not obey, and wishes that come at the wrong moment: what is reported as over is over."""

import time

import pytest

from e2e.chaos.world import World, figures, processes, within
from e2e.harness import Json, until

pytestmark = pytest.mark.timeout(180)

GRACE_S = 5.0  # that the gateway gives between TERM and KILL

DISOBEDIENT = {
    "ignores TERM": "ignores-term",
    "is stopped": "stops-itself",
    "is a daemon's parent": "double-forks --then hang",
    "is a stubborn daemon's parent": "double-forks --stubborn --then hang",
    "has a child in a session of its own": "forks-and-setsids --stubborn --then hang",
    "has a child that holds stdout": "leaks-stdout --then hang",
}
# At its normal end: what it leaves behind, as some agents leave their helpers.
UNTIDY = {
    "a daemon": "double-forks",
    "a stubborn daemon": "double-forks --stubborn",
    "a child in a session of its own": "forks-and-setsids",
    "a child that holds stdout": "leaks-stdout",
}


def alive(task: Json) -> set[int]:
    return {seen.pid for seen in processes() if seen.task == task["id"]}


async def test_agents_that_do_not_obey_are_ended_and_nothing_of_them_is_left(world: World):
    """Fault 20, aborted. The end is reported within grace + 3 s, and then no process of the attempt is alive."""
    tasks = {name: await world.submit(command) for name, command in DISOBEDIENT.items()}
    for name, task in tasks.items():
        await world.wait_signed(task["id"])
        await world.wait_lines(task["id"], 1)
        assert alive(task), name
    took = {}
    asked = time.monotonic()
    for task in tasks.values():
        await world.api.abort(task["id"])
    while len(took) < len(tasks):
        for name, task in tasks.items():
            if name not in took and (await world.api.task(task["id"]))["status"] == "aborted":
                took[name] = time.monotonic() - asked
                assert alive(task) == set(), name
        assert time.monotonic() - asked < 60, f"only {took}"

    assert max(took.values()) < GRACE_S + 3
    figures("agents that do not obey", **{name: took[name] for name in took})


async def test_what_an_agent_leaves_behind_at_its_normal_end_is_ended_too(world: World):
    """Fault 20, at a normal end: completed, reported within 2 s for its output and a second for its children (and
    the same 3 s of latitude), nothing left.
    """
    took = {}
    for name, command in UNTIDY.items():
        task = await world.submit(command)
        await world.wait_signed(task["id"])
        began = time.monotonic()
        ended = await world.api.wait_final(task["id"])
        took[name] = time.monotonic() - began
        assert ended["status"] == "completed", name
        assert alive(task) == set(), name

    assert max(took.values()) < 3 + 3
    figures("agents that leave something behind", **{name: took[name] for name in took})


async def test_a_time_limit_holds_while_neither_manager_nor_gateway_is_there(world: World):
    """Fault 21. The keeper ends its agent within a second of the limit; the task is `timeout` after the reconnect."""
    limit_s = 4.0
    task = await world.submit("lines --count 100000 --rate 20", timeout=int(limit_s * 1000))
    agent = await world.wait_signed(task["id"])
    began = time.monotonic()
    await world.host.kill()
    await world.manager.kill()
    assert agent.pid in alive(task)
    await within(30, lambda: not alive(task), "the agent is ended")
    lasted = time.monotonic() - began
    await world.manager.start()
    await world.host.start()
    ended = await world.api.wait_final(task["id"])

    assert (ended["status"], ended["reason"]) == ("timeout", "run_timeout")
    assert limit_s - 1 < lasted < limit_s + 1
    figures("time limit with nobody there", limit_s=limit_s, ended_after_s=lasted)


# --- abort in every state -----------------------------------------------------------------------------


async def test_an_abort_in_the_queue_starts_nothing(world: World):
    """Fault 19, queued."""
    await world.host.stop()
    task = await world.submit("silent")
    await world.api.abort(task["id"])
    assert (await world.api.wait_final(task["id"]))["status"] == "aborted"
    await world.host.start()
    after = await world.submit("exits")
    await world.api.wait_final(after["id"])

    assert world.signed(task["id"]) == []


async def test_an_abort_of_what_is_offered_to_a_host_that_does_not_answer_starts_nothing(world: World):
    """Fault 19, assigned: the host is frozen between the offer and its answer."""
    world.host.freeze()
    task = await world.submit("silent")
    await world.api.wait_status(task["id"], "assigned")
    await world.api.abort(task["id"])
    world.host.thaw()
    ended = await world.api.wait_final(task["id"])
    after = await world.submit("exits")
    await world.api.wait_final(after["id"])

    assert ended["status"] == "aborted"
    assert world.signed(task["id"]) == []


async def test_an_abort_of_what_runs_and_again_of_what_is_stopping_ends_it_once(world: World):
    """Fault 19, running and stopping: the second wish, with `kill`, is quicker than the grace."""
    task = await world.submit("ignores-term")
    await world.wait_signed(task["id"])
    await world.wait_lines(task["id"], 1)
    await world.api.abort(task["id"])
    await world.api.wait_status(task["id"], "stopping")
    asked = time.monotonic()
    await world.api.abort(task["id"], kill=True)
    ended = await world.api.wait_final(task["id"])
    took = time.monotonic() - asked

    assert ended["status"] == "aborted"
    assert alive(task) == set()
    assert took < GRACE_S
    figures("abort, then kill", ended_after_s=took)


@pytest.mark.parametrize("is_manager_killed", [False, True], ids=["manager lives", "manager killed too"])
async def test_an_abort_for_a_host_that_is_away_is_carried_out_when_it_is_back(world: World, is_manager_killed: bool):
    """Fault 19, disconnected: nothing is reported before the host says it; its tree is gone within 2 s plus the grace
    after the host has heard.
    """
    task = await world.submit("double-forks --then hang")
    await world.wait_signed(task["id"])
    await world.wait_lines(task["id"], 1)
    await world.host.kill()
    await world.api.wait_host("h1", "offline")
    await world.api.abort(task["id"])
    if is_manager_killed:
        await world.kill_and_start(world.manager)
    assert (await world.api.task(task["id"]))["status"] == "stopping"
    assert alive(task)
    await world.host.start()
    heard = time.monotonic()
    await until(lambda: not alive(task), GRACE_S + 2, "nothing is left")
    took = time.monotonic() - heard
    ended = await world.api.wait_final(task["id"])

    assert ended["status"] == "aborted"
    assert len(world.signed(task["id"])) == 1
    figures("abort while the host is away", tree_empty_after_s=took)


async def test_an_abort_that_crosses_a_natural_end_leaves_that_end(world: World):
    """Fault 19, ending: the agent had finished on a host that is away; its word counts, and nothing runs again."""
    task = await world.submit("lines --count 20 --rate 20")
    agent = await world.wait_signed(task["id"])
    await world.host.kill()
    await until(lambda: agent.pid not in alive(task), 30, "the agent has ended")
    await world.api.wait_host("h1", "offline")
    await world.api.abort(task["id"])
    await world.host.start()
    ended = await world.api.wait_final(task["id"])

    assert ended["status"] == "completed"
    assert len(world.signed(task["id"])) == 1
