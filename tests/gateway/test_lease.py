"""The lease from end to end on one host: an agent goes on as long as the manager hears of its host, and ends after."""

import json

import pytest

from gateway.runtime import attempt as attempts
from gateway.runtime.keeper import boottime
from shared_types.messages import Heartbeat, LeaseTerms, TaskFailed
from tests.gateway.test_gateway import processes_of, until

# Ours needs 15 s to kill and this manager counts on 0: an agent must begin to end 15 s earlier than it would, 3 s after
# the last sign of life that was written down. So a short test needs no short ttl, which a slow machine would miss.
SOON = LeaseTerms(ttl=18_000, kill_budget=0)
LONG = LeaseTerms(ttl=600_000, kill_budget=15_000)


def told_until(home, uid):
    """What the attempt's keeper knows of its lease."""
    with attempts.dial(attempts.directory(home, uid)) as line:
        line.setblocking(True)
        line.settimeout(10)
        line.sendall(b'{"op":"hello"}\n')
        return json.loads(line.recv(65536))["untilMs"]


async def test_an_agent_whose_host_is_heard_of_no_more_ends_by_itself_and_that_is_told_later(manager, start, home):
    manager.lease, manager.heartbeat_interval = SOON, 1_000
    async with start():
        attempt = await manager.offer("t1", prompt="say hello\nwait", grace=0)
        await manager.wait(lambda: attempt.texts("message"))
        manager.acknowledges = False
    assert processes_of(attempt.uid)

    await until(lambda: attempts.ending(home / "attempts" / attempt.uid), within_s=40)

    assert not processes_of(attempt.uid)
    manager.lease, manager.acknowledges = LONG, True
    async with start():
        end = await manager.wait_end("t1")
    assert isinstance(end, TaskFailed)
    assert end.reason == "lease_expired"


async def test_each_word_of_the_manager_prolongs_the_agents_lease_and_a_new_gateway_goes_on_with_it(
    manager, start, home
):
    manager.lease, manager.heartbeat_interval = LONG, 1_000
    before = boottime() * 1000
    async with start():
        attempt = await manager.offer("t1", prompt="say hello\nwait", grace=60_000)
        await manager.wait(lambda: attempt.texts("message"))
        first = told_until(home, attempt.uid)
        assert before + 660_000 - 1 <= first <= boottime() * 1000 + 660_000

        await until(lambda: told_until(home, attempt.uid) > first)
    second = told_until(home, attempt.uid)

    async with start():
        await until(lambda: told_until(home, attempt.uid) > second)
    assert all(beat.sent is not None for beat in manager.said(Heartbeat))


@pytest.mark.parametrize(("lease", "grace"), [(None, 60_000), (LONG, None)])
async def test_without_a_lease_or_with_a_grace_for_ever_an_agent_has_no_end(manager, start, home, lease, grace):
    manager.lease = lease
    async with start():
        attempt = await manager.offer("t1", prompt="say hello\nwait", grace=grace)
        await manager.wait(lambda: attempt.texts("message"))

        assert told_until(home, attempt.uid) is None


async def test_a_manager_that_knows_no_leases_lifts_that_of_the_one_before(manager, start, home):
    manager.lease = LONG
    async with start():
        attempt = await manager.offer("t1", prompt="say hello\nwait", grace=60_000)
        await manager.wait(lambda: attempt.texts("message"))
        assert told_until(home, attempt.uid) is not None
        manager.lease = None

        manager.cut()

        await until(lambda: told_until(home, attempt.uid) is None)
