"""Leases on a connection: a sign of life is acknowledged when it is written down, and to the newest connection only."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from manager.core.tasks import DEFAULT_LIMITS
from manager.errors import StoreUnavailable
from manager.runtime import recorder
from shared_types.messages import Heartbeat, HeartbeatAck, LeaseTerms, TaskExecute, TaskFailed
from shared_types.tasks import TaskState
from tests.fakes.host import FakeHost, LineClosed
from tests.manager.runtime.hall import hall
from tests.manager.runtime.test_host_link import greeting, running


@pytest.fixture(autouse=True)
def acknowledged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "ACKED_EVERY_S", 0.0)


async def test_a_gateway_that_keeps_leases_is_granted_one_and_one_that_does_not_is_not(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        registered = await h.hand("h1").register(greeting("h1", sent=5))
        other = await h.hand("h2").register(greeting("h2"))

        assert registered.lease == LeaseTerms(ttl=90_000, kill_budget=15_000)
        assert other.lease is None
        assert [(await h.store.host(name)).keeps_leases for name in ("h1", "h2")] == [True, False]


async def test_a_sign_of_life_is_acknowledged_when_it_is_written_down(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting(sent=5))
        h.clock.later_ms += 1_000
        said_at = h.clock.now()

        await hand.say(Heartbeat(timestamp=1, sent=777))

        assert (await hand.expect(HeartbeatAck)).sent == 777
        seen_at = (await h.store.host("h1")).last_seen_at
        assert seen_at is not None
        assert seen_at >= said_at


async def test_one_that_does_not_say_when_it_was_sent_is_not_answered(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting(sent=5))

        await hand.say(Heartbeat(timestamp=1), Heartbeat(timestamp=2, sent=8))
        await hand.expect(HeartbeatAck)

        assert [message for message in hand.heard if isinstance(message, HeartbeatAck)] == [HeartbeatAck(sent=8)]


async def test_what_the_store_did_not_take_is_not_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting(sent=5))
        seen, was_asked = h.store.host_seen, anyio.Event()

        async def full(*_: Any) -> Any:
            was_asked.set()
            raise StoreUnavailable("no room")

        monkeypatch.setattr(h.store, "host_seen", full)
        await hand.say(Heartbeat(timestamp=1, sent=10))
        with anyio.fail_after(10):
            await was_asked.wait()
        monkeypatch.setattr(h.store, "host_seen", seen)
        await hand.say(Heartbeat(timestamp=1, sent=11))

        assert (await hand.expect(HeartbeatAck)).sent == 11


async def test_an_older_connection_is_not_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting(sent=5))
        await h.store.host_connected(
            "h1", greeting().capabilities, (), protocol=2, version=None, boot_id=None, keeps_leases=True, now=1
        )

        await hand.say(Heartbeat(timestamp=1, sent=10))

        with pytest.raises(LineClosed) as closed:
            await hand.expect(HeartbeatAck)
        assert closed.value.code == 4409


async def test_a_host_that_talks_without_end_keeps_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each commit of events, were it so that there is always one more."""
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting(sent=5))
        change, order = h.store.change, []
        link = h.fleet.link("h1")
        assert link is not None

        async def slow(changes: Any) -> Any:
            order.append("events")
            if len(order) < 20:
                link._recorder.put(changes[0])  # there is more already
            if len(order) == 5:
                link._recorder.beat(99)
            return await change(changes)

        monkeypatch.setattr(h.store, "change", slow)
        seen = h.store.host_seen

        async def noted(*arguments: Any) -> Any:
            order.append("beat")
            return await seen(*arguments)

        monkeypatch.setattr(h.store, "host_seen", noted)
        await hand.say(TaskFailed(task_id="nobodys", attempt=1, seq=1, error="x"))
        await hand.expect(HeartbeatAck)

        assert order.index("beat") == 5


async def test_a_task_is_told_its_grace_and_what_its_host_ended_with_the_lease_is_lost(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting(sent=5))
        execute: TaskExecute = await running(h, hand)
        task_id, attempt = execute.task.task_id, execute.attempt
        assert execute.task.grace == DEFAULT_LIMITS.host_grace

        await hand.say(TaskFailed(task_id=task_id, attempt=attempt, seq=1, error="no word", reason="lease_expired"))

        task = await h.until(task_id, TaskState.LOST)
        assert task.reason == "lease_expired"


async def test_a_host_by_itself_is_acknowledged(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost())
        link = h.fleet.link("h1")
        assert link is not None
        assert host.welcomes[0].lease is not None

        link.look(h.clock.monotonic() + 31)  # says ping

        await h.until_true(lambda: host.acknowledged == host.sent)
