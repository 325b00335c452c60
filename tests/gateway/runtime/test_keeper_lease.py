"""The lease in a keeper: the agent is ended when it is over, with nobody there, and not started after it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.agents.base import ExitFacts, Stream
from gateway.core.journal import exit_facts
from gateway.errors import CannotRun
from gateway.runtime import attempt
from gateway.runtime.keeper import (
    BEGIN,
    KILL,
    LINGERING,
    NEVER,
    RUNNING,
    STOPPING,
    SWEEP,
    SWEEPING,
    Life,
    boottime,
)
from gateway.runtime.keeper import __file__ as program
from gateway.runtime.process import Keeper
from tests.fakes.attempts import House, notes, records, survivors, wait_heard, wait_until

FAR_MS = 3_600_000


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(tmp_path) as house:
        yield house


def now_ms() -> int:
    return int(boottime() * 1000)


# --- what is due, without a process ---------------------------------------------------------------------------------


def living(now: float = 0.0, *, until: float = NEVER, grace_s: float = 10.0, budget_s: float = 15.0) -> Life:
    life = Life(grace_s=grace_s, budget_s=budget_s, until=until)
    life.begin(now)
    return life


def test_at_the_end_of_its_lease_an_agent_is_asked_and_then_killed_within_the_budget():
    life = living(until=100.0)

    assert life.due(99.9, 99.9) == []
    assert life.due(100.0, 100.0) == [BEGIN]
    assert (life.phase, life.stop_reason, life.stop_grace_s) == (STOPPING, "lease_expired", 10.0)
    assert life.due(109.9, 109.9) == []
    assert life.due(110.0, 110.0) == [KILL]


def test_who_wakes_when_the_budget_is_over_kills_at_once():
    life = living(until=100.0)

    assert life.due(50.0, 115.1) == [BEGIN, KILL]
    assert life.stop_grace_s == 0


def test_a_machine_that_sleeps_between_asking_and_killing_does_not_give_more_time():
    life = living(until=100.0)
    assert life.due(100.0, 100.0) == [BEGIN]

    assert life.due(101.0, 5_000.0) == [KILL]


def test_an_agent_that_is_stopped_slowly_for_another_reason_is_killed_when_its_lease_is_over():
    life = living(until=100.0)
    life.stop(90.0, "abort", 3_600.0)

    assert life.due(100.0, 100.0) == []
    assert life.due(110.0, 110.0) == [KILL]
    assert life.stop_reason == "abort"


def test_what_an_agent_left_behind_is_ended_when_its_lease_is_over():
    life = living(until=100.0)
    life.exited(99.9)
    assert life.phase == LINGERING

    assert life.due(100.0, 100.0) == [SWEEP]
    assert life.phase == SWEEPING


def test_a_lease_never_goes_back_and_can_be_lifted():
    life = living(until=100.0)

    life.prolong(50.0)
    assert life.next_boot() == 100.0
    life.prolong(200.0)
    assert life.next_boot() == 200.0
    life.prolong(NEVER)
    assert life.due(10**9, 10**9) == []
    life.prolong(300.0)
    assert life.due(301.0, 301.0) == [BEGIN]


def test_a_lease_that_was_over_is_over():
    life = living(until=100.0)
    life.due(100.0, 100.0)

    life.prolong(10_000.0)

    assert life.due(110.0, 110.0) == [KILL]


def test_nothing_is_started_when_the_lease_is_over():
    assert living(until=100.0).is_refused(100.0)
    assert not living(until=100.0).is_refused(99.9)
    assert not living().is_refused(10**9)


def test_the_limits_of_a_run_do_not_count_a_machines_sleep_and_the_lease_does():
    life = Life(run_s=1_000.0, idle_s=100.0, until=500.0)
    life.begin(0.0)

    assert life.due(99.0, 499.0) == []
    assert life.due(99.0, 500.0) == [BEGIN]


@given(
    until=st.floats(0, 100),
    grace_s=st.floats(0, 100),
    steps=st.lists(st.tuples(st.floats(0, 20), st.floats(0, 20), st.sampled_from(["", "stop", "exit", "say"]))),
)
def test_whatever_happens_no_agent_is_left_alone_for_longer_than_its_budget(
    until: float, grace_s: float, steps: list[tuple[float, float, str]]
):
    """It is looked at when it asks for it; in between the machine may sleep."""
    life = living(until=until, grace_s=grace_s)
    now = boot = killed_at = 0.0
    sleeps = 0.0
    for awake, asleep, what in [*steps, (1_000.0, 0.0, "")]:
        till = now + awake
        while now < till and life.phase in (RUNNING, STOPPING):
            acts = life.due(now, boot)
            if KILL in acts:
                killed_at = boot
                life.exited(now)
                break
            step = min(life.next_at(), now + max(0.0, life.next_boot() - boot), till)
            boot += max(1e-6, step - now)
            now = max(now + 1e-6, step)
        if life.phase not in (RUNNING, STOPPING):
            break
        match what:
            case "stop":
                life.stop(now, "abort", 50.0)
            case "exit":
                life.exited(now)
                break
            case "say":
                life.heard(now)
        boot += asleep
        sleeps = max(sleeps, asleep)

    assert life.phase not in (RUNNING, STOPPING)
    assert killed_at <= until + 10.0 + sleeps + 1e-3


# --- with processes -------------------------------------------------------------------------------------------------


async def test_an_agent_whose_lease_is_over_is_asked_and_then_killed_though_no_gateway_is_there(house: House):
    agent = await house.start("ignores-term", budget_s=1.5)
    await wait_heard(agent, b"ready")
    over = now_ms() + 200

    await agent.lease(over)

    await wait_until(lambda: not attempt.is_kept(agent.path))
    ended = json.loads((agent.path / "exit.json").read_text())["facts"]
    assert (ended["stop"], ended["signal"]) == ("lease_expired", signal.SIGKILL)
    assert survivors(agent.uid) == []
    (stopping,) = [note for note in notes(await records(agent)) if note["note"] == "stopping"]
    assert stopping["reason"] == "lease_expired"
    assert 0 <= stopping["graceMs"] <= 1000  # two thirds of the budget


async def test_an_agent_that_listens_ends_by_itself_when_its_lease_is_over(house: House):
    agent = await house.start("slow-to-stop", "--seconds", "0.1", "--code", "3", budget_s=60.0, grace_s=40.0)
    await wait_heard(agent, b"ready")

    await agent.lease(now_ms())

    facts = await agent.wait_gone()
    assert (facts.code, facts.stop) == (3, "lease_expired")


async def test_a_stopped_agent_hears_that_its_lease_is_over(house: House):
    agent = await house.start("stops-itself", budget_s=60.0, grace_s=40.0)
    await wait_heard(agent, b"ready")

    await agent.lease(now_ms())

    facts = await agent.wait_gone()
    assert (facts.signal, facts.stop) == (signal.SIGTERM, "lease_expired")


async def test_a_keeper_that_was_frozen_beyond_its_lease_kills_at_once(house: House):
    agent = await house.start("slow-to-stop", "--seconds", "60", grace_s=40.0, budget_s=0.4)
    await wait_heard(agent, b"ready")
    over = now_ms() + 300
    await agent.lease(over)
    os.kill(agent.pid, signal.SIGSTOP)
    await wait_until(lambda: now_ms() > over + 400)

    os.kill(agent.pid, signal.SIGCONT)

    facts = await agent.wait_gone()
    assert (facts.signal, facts.stop) == (signal.SIGKILL, "lease_expired")
    assert survivors(agent.uid) == []


async def test_an_agent_goes_on_as_long_as_its_lease_is_prolonged(house: House):
    agent = await house.start("echo", until_ms=now_ms() + FAR_MS)

    assert await agent.lease(now_ms() + 2 * FAR_MS)
    assert await agent.lease(now_ms() - 1)  # an old word, late: it never goes back

    assert await agent.write("k", b"still there\n", close=True)
    await wait_heard(agent, b"echo: still there")
    assert (await agent.wait_gone()).stop is None


async def test_a_lease_that_is_lifted_ends_nothing(house: House):
    agent = await house.start("echo", until_ms=now_ms() + FAR_MS)

    assert await agent.lease(None)

    assert await agent.write("k", b"", close=True)
    assert (await agent.wait_gone()).stop is None


async def test_nothing_is_started_whose_lease_is_over_and_that_is_written_down(house: House):
    with pytest.raises(CannotRun) as refusal:
        await house.start("echo", until_ms=now_ms())

    assert refusal.value.reason == "lease_expired"
    assert survivors(house.uids[0]) == []
    adopted = await Keeper.adopt(house.home, house.uids[0])
    found = await records(adopted)
    assert [record.stream for record in found][-1] is Stream.EXIT
    assert exit_facts(found[-1].data) == ExitFacts(None, None, "lease_expired", 0)
    assert notes(found)[0]["note"] == "not_spawned"


async def test_who_has_ended_is_not_asked_any_more(house: House):
    agent, _ = await house.run("echo", stdin=b"", argv=("/bin/true",))

    assert not await agent.lease(now_ms() + FAR_MS)


def test_a_gateway_that_knows_no_leases_starts_agents_without_one(house: House):
    uid = house.uid()
    spec = json.loads(house.spec(uid, "echo", argv=("/bin/true",)).encoded(attempt.make(house.home, uid), uid))
    del spec["untilMs"]

    done = subprocess.run(
        [sys.executable, "-I", "-S", program],
        input=json.dumps(spec).encode(),
        capture_output=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("until", ['"soon"', "-1", "1.5", "true"])
async def test_a_lease_that_is_no_time_is_refused(house: House, until: str):
    agent = await house.start("echo")

    with attempt.dial(agent.path) as line:
        line.setblocking(True)
        line.settimeout(10)
        line.sendall(b'{"op":"lease","untilMs":%s}\n' % until.encode())
        answer = json.loads(line.recv(65536))

    assert answer["error"] == "bad_request"
