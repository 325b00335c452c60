"""One connection of one host: how it begins, how it ends, and that nothing is lost when it does."""

from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from manager.core.tasks import Record
from manager.errors import StoreUnavailable
from manager.runtime.host_link import Patience
from shared_types.codec import encode
from shared_types.hosts import EffectiveConfig, HostState, Vitals
from shared_types.messages import (
    Heartbeat,
    Ping,
    Register,
    TaskAbort,
    TaskAccepted,
    TaskAck,
    TaskCompleted,
    TaskEvents,
    TaskExecute,
    TaskStart,
    TaskStarted,
)
from shared_types.tasks import TaskResult, TaskState
from tests.fakes.host import FakeHost, Hand, Plan, capabilities
from tests.manager.runtime.hall import Hall, hall

EVENT = msgspec.Raw(b'{"type":"message","timestamp":5,"content":"hi"}')
DONE = TaskResult(success=True, exit_code=0, output="done")


def greeting(host_id: str = "h1", **fields: Any) -> Register:
    return Register(host_id=host_id, protocol=2, **{"capabilities": capabilities(host_id), "instance": "one", **fields})


async def running(h: Hall, hand: Hand) -> TaskExecute:
    """A task that this host was given, accepted and started."""
    await h.submit()
    execute = await hand.expect(TaskExecute)
    task_id, attempt = execute.task.task_id, execute.attempt
    assert attempt is not None
    await hand.say(TaskAccepted(task_id=task_id, attempt=attempt))
    await hand.expect(TaskStart)
    await hand.say(TaskStarted(task_id=task_id, attempt=attempt))
    await h.until(task_id, TaskState.RUNNING)
    return execute


# --- the beginning --------------------------------------------------------------------------------------


async def test_a_host_that_registers_is_welcome_and_shown(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()

        registered = await hand.register(greeting(version="1.2"))
        await h.until_true(lambda: h.fleet.link("h1"))

        assert (registered.ok, registered.protocol, registered.heartbeat_interval) == (True, 2, 15_000)
        (status,) = await h.fleet.statuses()
        assert (status.host_id, status.status, status.version, status.slots) == ("h1", HostState.ONLINE, "1.2", 2)


async def test_a_host_id_that_is_not_the_tokens_is_refused(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand("h1")

        registered = await hand.register(greeting("h2"))
        closed = await hand.hangs_up()

        assert (registered.ok, registered.code) == (False, "HOST_ID_MISMATCH")
        assert closed.code == 4403
        assert await h.store.hosts() == []


async def test_nothing_is_accepted_before_register(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()

        await hand.say(TaskStarted(task_id="t1", attempt=1))
        closed = await hand.hangs_up()

        assert closed.code == 4400
        assert h.fleet.counters["refused"] == 1


async def test_heartbeats_and_unknown_words_before_register_do_no_harm(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.say(Heartbeat(timestamp=1))
        await hand.say_raw(b'{"type":"hello","more":1}')

        assert (await hand.register(greeting())).ok


async def test_a_connection_that_does_not_register_in_time_is_closed(tmp_path: Path) -> None:
    async with hall(tmp_path, patience=Patience(register_s=0.05)) as h:
        assert (await h.hand().hangs_up()).code == 4408


async def test_a_second_register_on_one_connection_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting())

        again = await hand.register(greeting(capabilities=capabilities(slots=9)))

        assert (again.ok, again.code) == (False, "ALREADY_REGISTERED")
        assert (await h.fleet.status("h1")).slots == 2
        await running(h, hand)


async def test_agents_are_known_by_our_names(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting(capabilities=capabilities(agents=("claude", "claudecode", "gemini-cli", "mine"))))

        status = await h.fleet.status("h1")

        assert status.capabilities.agents == ("claude-code", "gemini", "mine")


# --- bad frames -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"type":"task:events","taskId":"t1"}',
        b'{"type":"heartbeat","timestamp":"soon"}',
        b'{"type":"task:events","taskId":"t1","attempt":1,"from":1,"to":1,"events":[{}]}',
        b'{"a":' * 5_000,
    ],
    ids=["cut", "no object", "not utf-8", "fields missing", "wrong type", "event without a type", "deep"],
)
async def test_a_malformed_frame_closes_with_the_reason(tmp_path: Path, frame: bytes) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting())

        await hand.say_raw(frame)
        closed = await hand.hangs_up()

        assert closed.code == 1007
        assert closed.reason.startswith("malformed: ")
        assert len(closed.reason.encode()) <= 120
        assert h.fleet.counters["malformed"] == 1
        assert (await h.fleet.status("h1")).status is HostState.OFFLINE


async def test_a_malformed_first_frame_closes_with_the_reason(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.say_raw(b"nonsense")

        assert (await hand.hangs_up()).code == 1007


async def test_a_frame_of_five_megabytes_closes_the_connection_and_the_host_may_come_back(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting())
        await hand.say_raw(b'{"type":"heartbeat","timestamp":1,"x":"' + b"x" * 5_000_000 + b'"}')

        assert (await hand.hangs_up()).code == 1009
        assert (await h.hand().register(greeting())).ok


async def test_an_unknown_type_is_counted_and_skipped(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting())
        await hand.say_raw(b'{"type":"task:telepathy","taskId":"t1"}')
        await hand.say_raw(b'{"type":"task:telepathy","taskId":"t1"}')

        await running(h, hand)

        assert h.fleet.counters["unknown_type"] == 2


# --- silence, and a peer that does not read -------------------------------------------------------------


async def test_a_silent_host_is_pinged_and_then_given_up(tmp_path: Path) -> None:
    async with hall(tmp_path, patience=Patience(ping_s=0.02, silence_s=0.3)) as h:
        hand = h.hand()
        await hand.register(greeting())

        await hand.expect(Ping)
        closed = await hand.hangs_up()

        assert closed.code == 4408
        assert (await h.fleet.status("h1")).status is HostState.OFFLINE


async def test_a_host_that_answers_pings_stays(tmp_path: Path) -> None:
    async with hall(tmp_path, patience=Patience(ping_s=0.02, silence_s=0.3)) as h:
        hand = h.hand()
        await hand.register(greeting())

        for number in range(40):
            await hand.expect(Ping)
            await hand.say(Heartbeat(timestamp=number))

        assert h.fleet.link("h1") is not None


async def test_a_host_that_takes_no_frames_is_given_up_though_it_still_speaks(tmp_path: Path) -> None:
    async with hall(tmp_path, patience=Patience(stuck_s=0.1)) as h:
        hand = h.hand(room=1)
        await hand.register(greeting())
        for _ in range(5):
            await h.submit()

        await h.until_true(lambda: h.lines["h1"].closed != (0, "cut"))

        assert h.lines["h1"].closed[0] == 4408
        assert h.fleet.link("h1") is None


async def test_work_that_a_slow_host_was_not_told_goes_back_to_the_queue_with_its_end(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        slow = h.hand("slow", room=2)
        await slow.register(greeting("slow", capabilities=capabilities("slow", slots=8)))
        tasks = [await h.submit() for _ in range(6)]
        for task_id in tasks:
            await h.until(task_id, TaskState.ASSIGNED)

        await h.cut("slow")
        await h.online(FakeHost("quick", slots=8))

        for task_id in tasks:
            await h.until(task_id, TaskState.COMPLETED)


async def test_a_task_that_is_aborted_before_its_host_was_told_never_reaches_it(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand(room=1)
        await hand.say(greeting())
        await h.until_true(lambda: h.fleet.link("h1"))
        first, second = await h.submit(), await h.submit()
        await h.until(first, TaskState.ASSIGNED)
        await h.until(second, TaskState.ASSIGNED)

        await h.tasks.abort(second)
        task = await h.until(second, TaskState.ABORTED)

        assert task.reason == "aborted_by_user"
        assert (await hand.expect(TaskExecute)).task.task_id == first
        await hand.say(Heartbeat(timestamp=1))
        assert not [m for m in hand.heard if isinstance(m, TaskExecute) and m.task.task_id == second]


# --- two connections of one host ------------------------------------------------------------------------


async def test_the_newest_connection_of_a_host_wins(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        old = h.hand()
        await old.register(greeting())
        new = h.hand()

        assert (await new.register(greeting())).ok
        closed = await old.hangs_up()
        await running(h, new)

        assert closed.code == 4409
        status = await h.fleet.status("h1")
        assert status.status is HostState.ONLINE
        row = await h.store.host("h1")
        assert (row.generation, row.is_connected) == (2, True)


async def test_what_the_old_connection_heard_is_written_down_before_the_new_one_is_welcome(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        old = h.hand()
        await old.register(greeting())
        execute = await running(h, old)
        task_id = execute.task.task_id
        events = TaskEvents(task_id=task_id, attempt=1, first=1, last=2, events=(EVENT, EVENT))
        for frame in (encode(events), encode(TaskCompleted(task_id=task_id, attempt=1, seq=3, result=DONE))):
            await old.say_raw(frame)

        new = h.hand()
        registered = await new.register(greeting())

        assert registered.resume == ()
        assert (await h.store.task(task_id)).status is TaskState.COMPLETED


async def test_many_connections_of_one_host_at_once_leave_exactly_one(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hands = [h.hand() for _ in range(8)]
        closed: list[int] = []

        async def use(hand: Hand) -> None:
            await hand.say(greeting())
            closed.append((await hand.hangs_up()).code)

        async with anyio.create_task_group() as group:
            for hand in hands:
                group.start_soon(use, hand)
            await h.until_true(lambda: len(closed) == 7)
            await h.until_true(lambda: h.fleet.link("h1"))
            row = await h.store.host("h1")
            link = h.fleet.link("h1")
            assert link is not None
            assert (row.generation, link.generation, row.is_connected) == (8, 8, True)
            link.end(1012, "enough")

        assert sorted(closed) == [1012, *[4409] * 7]


# --- reconciling ----------------------------------------------------------------------------------------


async def test_an_attempt_goes_on_over_a_cut_without_a_hole_or_a_double(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(plan=lambda _: Plan(events=2, holds=True)))
        task_id = await h.submit()
        await h.until(task_id, TaskState.RUNNING)
        await h.cut()
        assert (await h.until_disconnected(task_id)).status is TaskState.RUNNING

        await h.online(host)
        await host.tell(task_id, "again")
        await host.finish(task_id)
        task = await h.until(task_id, TaskState.COMPLETED)

        assert task.disconnected_since is None
        assert host.started == [(task_id, 1)]
        events = await h.events(task_id)
        assert [event["id"] for event in events] == list(range(1, len(events) + 1))
        assert [event.get("content") for event in events if event["type"] == "message"][-1] == "again"
        assert len([event for event in events if event["type"] == "message"]) == 3


async def test_a_host_that_lost_the_attempt_says_so_by_not_naming_it(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(plan=lambda _: Plan(holds=True)))
        task_id = await h.submit()
        await h.until(task_id, TaskState.RUNNING)
        await h.cut()
        host.attempts.clear()
        host.restarted()

        await h.online(host)

        assert (await h.until(task_id, TaskState.LOST)).reason == "host_restarted"


async def test_an_attempt_that_is_over_for_us_is_stopped_when_its_host_comes_back(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(plan=lambda _: Plan(holds=True)))
        task_id = await h.submit()
        await h.until(task_id, TaskState.RUNNING)
        await h.cut()
        await h.until_disconnected(task_id)
        h.clock.later_ms = 24 * 3600_000
        await h.watchdog.look()
        assert (await h.until(task_id, TaskState.LOST)).reason == "host_lost"

        await h.online(host)

        assert [resume.verdict for resume in host.welcomes[-1].resume] == ["stop"]
        assert host.attempts == {}


@pytest.mark.parametrize("phase", ["executed", "accepted", "started", "events", "completed"])
async def test_a_cut_in_any_phase_ends_with_one_run_and_a_whole_log(tmp_path: Path, phase: str) -> None:
    async with hall(tmp_path) as h:
        cutting = True

        class Cut(FakeHost):
            def heard(self, message: Any) -> Any:
                answers = super().heard(message)
                if not cutting:
                    return answers
                said = []
                for answer in answers:
                    said.append(answer)
                    if phase in str(answer.__struct_config__.tag):
                        break
                if said and phase in str(said[-1].__struct_config__.tag):
                    h.group.start_soon(h.cut)
                elif phase == "executed" and isinstance(message, TaskExecute):
                    h.group.start_soon(h.cut)
                    return []
                return said

        host = await h.online(Cut(plan=lambda _: Plan(events=3)))
        task_id = await h.submit()
        await h.until_true(lambda: h.fleet.link("h1") is None)
        cutting = False
        await h.online(host)
        task = await h.until(task_id, TaskState.COMPLETED)

        assert len(host.started) == 1
        events = await h.events(task_id)
        assert len([event for event in events if event["type"] == "message"]) == 3
        assert [event["id"] for event in events] == list(range(1, len(events) + 1))
        assert task.attempt == (2 if phase in ("executed", "accepted") else 1)


async def test_a_wish_to_stop_that_comes_while_its_host_is_being_welcomed_reaches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(plan=lambda _: Plan(holds=True)))
        task_id = await h.submit()
        await h.until(task_id, TaskState.RUNNING)
        await h.cut()
        await h.until_disconnected(task_id)
        look = h.store.on_host

        async def and_then_it_is_aborted(host_id: str) -> list[Record]:
            found = await look(host_id)
            monkeypatch.undo()
            await h.tasks.abort(task_id)
            return found

        monkeypatch.setattr(h.store, "on_host", and_then_it_is_aborted)
        await h.online(host)

        await h.until(task_id, TaskState.ABORTED)


async def test_a_gap_is_told_and_a_host_that_goes_on_regardless_must_begin_again(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting())
        task_id = (await running(h, hand)).task.task_id
        await hand.say(TaskEvents(task_id=task_id, attempt=1, first=3, last=3, events=(EVENT,)))
        assert (await hand.expect(TaskAck)).seq == 0

        await hand.say(TaskEvents(task_id=task_id, attempt=1, first=4, last=4, events=(EVENT,)))

        assert (await hand.hangs_up()).code == 4410


async def test_a_host_that_works_on_a_foreign_task_is_told_to_stop(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting())

        await hand.say(TaskEvents(task_id="task_unknown", attempt=1, first=1, last=1, events=(EVENT,)))

        assert (await hand.expect(TaskAbort)).task_id == "task_unknown"


# --- what is known of a host ----------------------------------------------------------------------------


async def test_vitals_and_configuration_of_a_heartbeat_are_shown_and_used(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting())
        vitals = Vitals(cpu=0.5, memory=0.25, disk=0.1, load=0.3)
        config = EffectiveConfig(heartbeat_interval=1, task_timeout=1, max_concurrent=1, labels={"zone": "b"})

        await hand.say(Heartbeat(timestamp=1, vitals=vitals, config=config))
        await h.until_true(lambda: h.fleet.registry.get("h1").slots == 1)  # type: ignore[union-attr]

        status = await h.fleet.status("h1")
        assert (status.vitals, status.labels, status.slots) == (vitals, {"zone": "b"}, 1)


async def test_a_connection_that_is_not_its_hosts_any_more_is_not_told_that_a_token_was_revoked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manager.runtime.recorder.SEEN_EVERY_S", 0.0)
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting())
        link = h.fleet.link("h1")
        assert link is not None
        await h.store.host_gone("h1", link.generation, h.clock.now())

        await hand.say(Heartbeat(timestamp=1))

        assert (await hand.hangs_up()).code == 4409


async def test_when_the_manager_goes_down_hosts_are_told_and_nobody_new_is_let_in(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting())
        await h.until_true(lambda: h.fleet.link("h1"))

        await h.fleet.close_all("restarts")
        late = h.hand("h2")

        closed = await hand.hangs_up()
        assert (closed.code, closed.reason) == (1012, "restarts")
        assert (await late.hangs_up()).code == 1012
        assert not (await h.store.host("h1")).is_connected


async def test_a_connection_that_never_registers_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with hall(tmp_path, patience=Patience(register_s=60)) as h:
        mute = h.hand()
        await anyio.wait_all_tasks_blocked()

        with anyio.fail_after(5):
            await h.fleet.close_all("restarts")

        assert (await mute.hangs_up()).code == 1012


async def test_a_gateway_is_known_only_when_what_it_did_not_name_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting())
        await h.submit()
        execute = await hand.expect(TaskExecute)
        task_id = execute.task.task_id
        await hand.say(TaskAccepted(task_id=task_id, attempt=1))
        await hand.expect(TaskStart)
        await h.cut()

        async def full(*_: Any) -> Any:
            raise StoreUnavailable("disk full", code="DISK_FULL")

        monkeypatch.setattr(h.store, "change", full)
        assert (await h.hand().hangs_up(after=encode(greeting(instance="two")))).code == 1013
        monkeypatch.undo()
        await h.hand().register(greeting(instance="two"))

        # Another process of the gateway had it and may have started it: it must not go elsewhere as if it had not.
        assert (await h.until(task_id, TaskState.LOST)).reason == "host_restarted"
