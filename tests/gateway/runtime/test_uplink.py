"""The socket to the manager, with a real one on the other end."""

import json
import logging
from contextlib import asynccontextmanager
from random import Random

import anyio
import pytest

from gateway.core.link import Link, Phase
from gateway.core.orders import Prepare
from gateway.errors import NotWelcome, Revoked
from gateway.runtime import uplink as module
from gateway.runtime.clock import SystemClock
from gateway.runtime.uplink import Uplink
from gateway.runtime.vitals import VitalSigns
from shared_types.hosts import EffectiveConfig, HostCapabilities
from shared_types.messages import ConfigUpdate, GatewayConfig, Heartbeat, LeaseTerms, Ping, Register, Registered
from tests.fakes.manager import FakeManager

CAPABILITIES = HostCapabilities(name="h1", agents=("x",), max_concurrent=1, cwd="/w")


class SteadyRandom(Random):
    """No jitter, and a hundred times faster than life."""

    def uniform(self, a, b):
        return 0.01


class Host:
    """Stands for the crew: greets, and remembers what it was ordered."""

    def __init__(self, link):
        self.link, self.obeyed = link, []
        self.effective = EffectiveConfig(heartbeat_interval=60_000, task_timeout=1000, max_concurrent=1)

    def greeting(self):
        return Register(
            host_id="h1",
            capabilities=CAPABILITIES,
            protocol=2,
            running=self.link.running(),
            config=self.effective,
            sent=0,
        )

    def obey(self, orders):
        self.obeyed += orders


class SleepyClock(SystemClock):
    slept = 0.0

    def awake_and_asleep(self):
        return super().awake_and_asleep() + self.slept


@asynccontextmanager
async def dialling(manager, tmp_path, clock=None, random=None):
    link = Link("h1")
    up = Uplink(
        manager.url,
        manager.token,
        link,
        Host(link),
        host_id="h1",
        clock=clock or SystemClock(),
        vitals=VitalSigns(tmp_path),
        random=random or SteadyRandom(),
    )
    async with anyio.create_task_group() as group:
        group.start_soon(up.run)
        yield up
        group.cancel_scope.cancel()


@pytest.fixture
async def manager():
    async with FakeManager().serving() as manager:
        yield manager


async def test_it_dials_with_its_id_and_token_and_greets_first(manager, tmp_path):
    async with dialling(manager, tmp_path):
        greeting = await manager.wait_connected()

    assert manager.handshakes[0]["path"] == "/agent/ws?hostId=h1"
    assert manager.handshakes[0]["Authorization"] == "Bearer a-token"
    assert "Sec-WebSocket-Extensions" not in manager.handshakes[0], "deflate on loopback only costs time"
    assert isinstance(manager.heard[0], Register)
    assert greeting.protocol == 2


async def test_a_ping_is_answered_with_a_heartbeat(manager, tmp_path):
    async with dialling(manager, tmp_path):
        await manager.wait(lambda: manager.said(Heartbeat))
        before = len(manager.said(Heartbeat))
        await manager.say(Ping())

        await manager.wait(lambda: len(manager.said(Heartbeat)) > before)


async def test_heartbeats_come_at_the_pace_of_the_configuration(manager, tmp_path):
    async with dialling(manager, tmp_path) as up:
        await manager.wait(lambda: manager.said(Heartbeat))
        up._host.effective = EffectiveConfig(heartbeat_interval=20, task_timeout=1000, max_concurrent=1)
        up.beat()

        await manager.wait(lambda: len(manager.said(Heartbeat)) >= 5)


async def test_a_new_configuration_is_reported_and_an_unchanged_one_only_when_asked(manager, tmp_path):
    async with dialling(manager, tmp_path):
        await manager.wait(lambda: manager.said(Heartbeat))
        assert manager.said(Heartbeat)[0].config is None, "the greeting said it already"
        await manager.say(ConfigUpdate(config=GatewayConfig(max_concurrent=1)))

        await manager.wait(lambda: manager.said(Heartbeat)[-1].config is not None)


async def test_a_cut_line_is_dialled_again(manager, tmp_path):
    async with dialling(manager, tmp_path) as up:
        for connection in (1, 2, 3):
            await manager.wait_connected(connection)
            await manager.wait(lambda: up._link.phase is Phase.TALKING)
            manager.cut()

        await manager.wait_connected(4)


class Patience:
    """Notes how long the uplink means to wait, and lets it wait no longer."""

    def __init__(self, monkeypatch, enough):
        self.waits, self.done = [], anyio.Event()
        monkeypatch.setattr(Uplink, "_wait", self._wait)
        self._enough = enough

    async def _wait(self, seconds):
        self.waits.append(seconds)
        if len(self.waits) >= self._enough:
            self.done.set()
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()


class Even(Random):
    def uniform(self, a, b):
        return 1.0


async def test_patience_doubles_until_a_welcome(tmp_path, monkeypatch):
    nobody = FakeManager()
    async with nobody.serving():
        pass  # its port is free now
    patience = Patience(monkeypatch, 8)
    async with dialling(nobody, tmp_path, random=Even()):
        await patience.done.wait()

    assert patience.waits == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_a_connection_without_a_welcome_does_not_reset_patience(manager, tmp_path, monkeypatch):
    patience = Patience(monkeypatch, 4)
    monkeypatch.setattr(module, "WELCOME_S", 0.05)
    manager._answers = lambda message: []
    async with dialling(manager, tmp_path, random=Even()):
        await patience.done.wait()

    assert patience.waits == [1, 2, 4, 8]


async def test_a_welcome_resets_patience(manager, tmp_path, monkeypatch):
    patience = Patience(monkeypatch, 3)
    async with dialling(manager, tmp_path, random=Even()):
        for connection in (1, 2, 3):
            await manager.wait_connected(connection)
            await manager.wait(lambda: manager.heard and isinstance(manager.heard[-1], Heartbeat))
            manager.cut()
        await patience.done.wait()

    assert patience.waits == [1, 1, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"status": 401},
        {"status": 403},
        {"status": 403, "status_body": b'{"code": "\xff"}'},
        {"status": 403, "status_body": b"<html>REVOKED</html>"},
        {"refusal": Registered(ok=False, error="not you")},
    ],
)
async def test_a_refused_host_says_why_and_waits_five_minutes(manager, tmp_path, monkeypatch, change):
    for name, value in change.items():
        setattr(manager, name, value)
    patience = Patience(monkeypatch, 2)
    async with dialling(manager, tmp_path, random=Even()):
        await patience.done.wait()

    assert patience.waits == [300, 300]


async def test_a_host_whose_place_was_taken_does_not_fight_for_it(manager, tmp_path, monkeypatch):
    patience = Patience(monkeypatch, 1)
    async with dialling(manager, tmp_path, random=Even()):
        await manager.wait_connected()
        await manager.close(4409, "superseded")
        await patience.done.wait()

    assert patience.waits == [300]


@pytest.mark.parametrize(
    "change",
    [
        {"refusal": Registered(ok=False, error="gone", code="REVOKED")},
        {"status": 401, "status_body": json.dumps({"code": "REVOKED"}).encode()},
        {"status": 403, "status_body": json.dumps({"code": "revoked"}).encode()},
    ],
)
async def test_a_revoked_host_stops_for_good(manager, tmp_path, change):
    for name, value in change.items():
        setattr(manager, name, value)

    with pytest.raises(ExceptionGroup) as ended:
        async with dialling(manager, tmp_path):
            await anyio.sleep(10)

    assert ended.group_contains(Revoked)


async def test_a_host_that_is_revoked_while_it_talks_stops_without_another_knock(manager, tmp_path):
    async def revoke():
        await manager.wait_connected()
        await manager.close(4401, "REVOKED: this host's token is revoked")
        await anyio.sleep(10)

    with pytest.raises(ExceptionGroup) as ended:
        async with dialling(manager, tmp_path):
            await revoke()

    assert ended.group_contains(Revoked)
    assert len(manager.handshakes) == 1


@pytest.mark.parametrize(
    ("code", "reason", "waits"),
    [
        (4401, "", [300]),
        (4401, "EXPIRED: ask for a new one", [300]),
        (4401, "not REVOKED", [300]),
        (4403, "REVOKED", [300]),
        (1008, "REVOKED", [1]),
    ],
)
async def test_less_than_a_clear_word_of_revocation_stops_no_host(manager, tmp_path, monkeypatch, code, reason, waits):
    patience = Patience(monkeypatch, 1)
    async with dialling(manager, tmp_path, random=Even()):
        await manager.wait_connected()
        await manager.wait(lambda: manager.said(Heartbeat))
        await manager.close(code, reason)
        with anyio.fail_after(10):
            await patience.done.wait()

    assert patience.waits == waits


async def test_a_manager_that_falls_silent_is_left(manager, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SILENCE_S", 0.1)
    async with dialling(manager, tmp_path):
        await manager.wait_connected(3)


async def test_a_base_manager_may_be_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SILENCE_S", 0.01)
    async with FakeManager(dialect=1).serving() as manager, dialling(manager, tmp_path) as up:
        await manager.wait(lambda: manager.said(Heartbeat))
        up._host.effective = EffectiveConfig(heartbeat_interval=20, task_timeout=1000, max_concurrent=1)
        up.beat()
        await manager.wait(lambda: len(manager.said(Heartbeat)) > 5)

    assert len(manager.greetings) == 1


async def test_a_machine_that_slept_dials_again(manager, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SLEPT_S", 0.05)
    clock = SleepyClock()
    async with dialling(manager, tmp_path, clock=clock):
        await manager.wait_connected()
        clock.slept = 3600.0

        await manager.wait_connected(2)


async def test_what_a_host_hears_after_its_lease_is_over_it_does_not_begin(manager, tmp_path):
    manager.lease, manager.acknowledges = LeaseTerms(ttl=1_000, kill_budget=15_000), False
    async with dialling(manager, tmp_path) as up:  # whose greeting was said when its machine was booted
        await manager.wait(lambda: manager.said(Heartbeat))
        refused = await manager.offer("t1")
        await manager.wait(lambda: refused.refused)
        assert refused.refused.reason == "lease_expired"
        manager.acknowledges = True
        manager.lease = LeaseTerms(ttl=3_600_000, kill_budget=15_000)
        up.redial()
        await manager.wait_connected(2)
        await manager.wait(lambda: len(manager.said(Heartbeat)) > 1)

        await manager.offer("t2")
        await manager.say(Ping())
        await manager.wait(lambda: len(manager.said(Heartbeat)) > 2)

        assert [order.task.task_id for order in up._host.obeyed if isinstance(order, Prepare)] == ["t2"]


async def test_odd_messages_do_not_end_the_connection(manager, tmp_path):
    async with dialling(manager, tmp_path):
        await manager.wait(lambda: manager.said(Heartbeat))
        await manager.say_raw('{"type":"task:sing"}')
        await manager.say_raw('{"type":"task:abort"}')
        await manager.say_raw("not json")
        before = len(manager.said(Heartbeat))
        await manager.say(Ping())
        await manager.wait(lambda: len(manager.said(Heartbeat)) > before)

    assert len(manager.greetings) == 1


async def test_news_for_the_greeting_make_it_greet_again(manager, tmp_path):
    async with dialling(manager, tmp_path) as up:
        await manager.wait_connected()
        up.redial()

        await manager.wait_connected(2)


async def test_the_token_is_not_in_the_log(manager, tmp_path, caplog, monkeypatch):
    patience = Patience(monkeypatch, 1)
    manager.status = 401
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "websockets"):
        async with dialling(manager, tmp_path, random=Even()):
            await patience.done.wait()

    ours = [record for record in caplog.records if not record.name.startswith("websockets.server")]
    assert manager.token not in "".join(record.getMessage() for record in ours)


def test_what_a_refusal_means_depends_on_its_gravity():
    assert isinstance(module._gravest([NotWelcome("x"), Revoked("y")]), Revoked)
