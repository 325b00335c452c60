"""The gateway's side of the conversation, line by line."""

import msgspec
import pytest

from gateway.core.line import Ending
from gateway.core.link import BASE, FULL, Link, Phase
from gateway.core.orders import Abort, Configure, Dismiss, Forget, Input, Prepare, Room, Start, Stop
from shared_types.events import MAX_FRAME_BYTES, AgentEvent
from shared_types.hosts import EffectiveConfig, HostCapabilities, Vitals
from shared_types.messages import (
    ConfigUpdate,
    GatewayConfig,
    Heartbeat,
    Register,
    Registered,
    Resume,
    RunningAttempt,
    TaskAbort,
    TaskAccepted,
    TaskAck,
    TaskCompleted,
    TaskEvent,
    TaskEvents,
    TaskExecute,
    TaskFailed,
    TaskInput,
    TaskRefused,
    TaskStart,
    TaskStarted,
)
from shared_types.tasks import TaskRequest, TaskResult

HELLO = Register(
    host_id="h1", capabilities=HostCapabilities(name="h1", agents=("x",), max_concurrent=2, cwd="/w"), protocol=2
)
FULLY = Registered(ok=True, protocol=2)
BARELY = Registered(ok=True)
DONE = TaskResult(success=True, exit_code=0, output="ok")


def task(task_id="t1"):
    return TaskRequest(task_id=task_id, prompt="hi", cwd="/w", agent_type="x")


def log(text):
    return AgentEvent(type="log", timestamp=1, content=text)


def delta(text):
    return AgentEvent(type="message", timestamp=1, content=text, data={"delta": True})


def raw(text):
    return msgspec.Raw(msgspec.json.encode(log(text)))


def keep(acked, task_id="t1", attempt=1):
    return Resume(task_id=task_id, attempt=attempt, acked_seq=acked, verdict="keep")


def welcome(*resume):
    return Registered(ok=True, protocol=2, resume=resume)


def frames(link, now=0.0):
    out = []
    while (frame := link.next_frame(now)) is not None:
        out.append(frame)
    return out


def contents(events):
    return [msgspec.json.decode(bytes(event))["content"] for event in events]


@pytest.fixture
def link():
    return Link("h1")


@pytest.fixture
def full(link):
    """Talking, full dialect."""
    link.opened(HELLO)
    link.heard(FULLY)
    frames(link)
    return link


@pytest.fixture
def base(link):
    """Talking, base dialect."""
    link.opened(HELLO)
    link.heard(BARELY)
    frames(link)
    return link


def running(link, uid="u1", task_id="t1", attempt=1):
    """An attempt of the full dialect that was accepted, started and said so."""
    link.heard(TaskExecute(task=task(task_id), attempt=attempt, uid=uid))
    link.consider(uid, task_id, attempt)
    link.accept(uid)
    link.heard(TaskStart(task_id=task_id, attempt=attempt))
    link.started(uid, 42, "")
    frames(link)
    link.orders()


def in_base(link, uid="u1", task_id="t1"):
    link.heard(TaskExecute(task=task(task_id)))
    link.consider(uid, task_id, None, at_once=True)
    link.accept(uid)
    link.orders()


def reconnect(link, answer):
    link.closed()
    link.opened(HELLO)
    assert frames(link) == [HELLO]
    link.heard(answer)
    return frames(link)


# --- greeting


def test_we_introduce_ourselves_and_wait(link):
    link.opened(HELLO)
    link.beat(5, None)

    assert frames(link) == [HELLO]
    assert repr(link) == "<Link h1 GREETING attempts=0 unconfirmed=0>"


def test_a_manager_without_a_protocol_number_speaks_base(link):
    link.opened(HELLO)
    link.heard(BARELY)

    assert (link.phase, link.dialect) == (Phase.TALKING, BASE)


def test_a_refusal_is_kept_and_nothing_is_said(link):
    link.opened(HELLO)
    frames(link)
    link.heard(Registered(ok=False, error="no", code="REVOKED"))
    link.beat(1, None)

    assert link.phase is Phase.GREETING
    assert link.refusal.code == "REVOKED"
    assert frames(link) == []


def test_a_manager_that_orders_before_its_welcome_is_not_obeyed(link):
    link.opened(HELLO)
    link.heard(TaskExecute(task=task(), attempt=1, uid="u1"))

    assert link.orders() == []


def test_a_second_welcome_changes_nothing(full):
    running(full)
    full.heard(Registered(ok=True))

    assert full.dialect == FULL
    assert full.orders() == []


# --- preparing and starting


def test_an_attempt_is_prepared_accepted_then_started(full):
    full.heard(TaskExecute(task=task(), attempt=1, uid="u1"))
    assert full.orders() == [Prepare(task(), 1, "u1", at_once=False)]
    full.consider("u1", "t1", 1)
    full.accept("u1")
    assert frames(full) == [TaskAccepted(task_id="t1", attempt=1)]

    full.heard(TaskStart(task_id="t1", attempt=1))

    assert full.orders() == [Start("u1")]


def test_a_start_said_twice_starts_once(full):
    running(full)
    full.heard(TaskStart(task_id="t1", attempt=1))

    assert full.orders() == []


def test_an_offer_said_twice_is_accepted_again_and_prepared_once(full):
    full.heard(TaskExecute(task=task(), attempt=1, uid="u1"))
    full.consider("u1", "t1", 1)
    full.accept("u1")
    frames(full), full.orders()
    full.heard(TaskExecute(task=task(), attempt=1, uid="u1"))

    assert frames(full) == [TaskAccepted(task_id="t1", attempt=1)]
    assert full.orders() == []


def considered(link):
    link.heard(TaskExecute(task=task(), attempt=1, uid="u1"))
    link.consider("u1", "t1", 1)
    frames(link), link.orders()


def test_what_is_still_looked_at_is_neither_accepted_nor_started_whatever_is_said_of_it(full):
    considered(full)

    full.heard(TaskExecute(task=task(), attempt=1, uid="u1"))
    full.heard(TaskStart(task_id="t1", attempt=1))
    assert (frames(full), full.orders(), full.running()) == ([], [], ())
    full.accept("u1")

    assert frames(full) == [TaskAccepted(task_id="t1", attempt=1)]


def test_what_was_looked_at_in_vain_is_refused(full):
    considered(full)

    full.spawn_failed("u1", "cwd_missing", "there is none")

    assert frames(full) == [TaskRefused(task_id="t1", attempt=1, reason="cwd_missing", details="there is none")]
    assert full.told("u1") is None


def test_what_is_looked_at_while_the_line_breaks_or_is_aborted_is_dismissed(full):
    considered(full)
    full.heard(TaskAbort(task_id="t1", attempt=1))
    assert full.orders() == [Dismiss("u1")]
    assert [frame.reason for frame in frames(full)] == ["aborted_by_user"]

    considered(full)
    full.closed()
    assert full.orders() == [Dismiss("u1")]


def test_a_start_of_something_that_was_not_prepared_is_refused(full):
    full.heard(TaskStart(task_id="t9", attempt=3))

    (refused,) = frames(full)
    assert (refused.task_id, refused.attempt, refused.reason) == ("t9", 3, "no_free_slot")


def test_a_newer_attempt_is_not_begun_beside_an_older_one(full):
    running(full)
    full.heard(TaskExecute(task=task(), attempt=2, uid="u2"))

    assert full.orders() == [Stop("u1")]
    assert [(frame.attempt, frame.reason) for frame in frames(full)] == [(2, "no_free_slot")]


def test_what_was_accepted_and_not_started_is_given_back_when_the_line_breaks(full):
    full.consider("u1", "t1", 1)
    full.accept("u1")
    full.closed()

    assert full.orders() == [Dismiss("u1")]
    assert full.running() == ()


def test_what_was_started_is_named_in_every_greeting(full):
    running(full)
    full.grown("u1", 7)

    assert full.running() == (RunningAttempt(task_id="t1", attempt=1, uid="u1", seq=7, state="running"),)


def test_an_abort_before_the_start_is_a_refusal(full):
    full.consider("u1", "t1", 1)
    full.accept("u1")
    frames(full)
    full.heard(TaskAbort(task_id="t1", attempt=1))

    assert [(type(frame), frame.reason) for frame in frames(full)] == [(TaskRefused, "aborted_by_user")]
    assert full.orders() == [Dismiss("u1")]


def test_an_abort_of_what_is_not_here_is_answered(full):
    full.heard(TaskAbort(task_id="t1", attempt=4))

    assert [(frame.attempt, frame.reason) for frame in frames(full)] == [(4, "aborted_by_user")]


def test_abort_and_input_reach_the_runner(full):
    running(full)
    full.heard(TaskAbort(task_id="t1", attempt=1, reason="enough", grace_ms=0))
    full.heard(TaskInput(task_id="t1", content="go on", input_id="i1"))

    assert full.orders() == [Abort("u1", "enough", 0), Input("u1", "i1", "go on")]


def test_an_abort_of_an_older_attempt_does_not_touch_the_newer(full):
    running(full, attempt=2)
    full.heard(TaskAbort(task_id="t1", attempt=1))

    assert full.orders() == []


def test_a_spawn_that_failed_is_a_refusal(full):
    running(full)
    full.spawn_failed("u1", "spawn_failed", "no memory")

    assert frames(full) == [TaskRefused(task_id="t1", attempt=1, reason="spawn_failed", details="no memory")]
    assert full.running() == ()


def test_an_acceptance_that_nobody_takes_up_is_given_back(full):
    full.consider("u1", "t1", 1)
    full.accept("u1")
    frames(full)
    full.give_back("u1")

    assert full.orders() == [Dismiss("u1")]
    assert [frame.reason for frame in frames(full)] == ["no_free_slot"]


# --- telling


def test_events_go_in_spans_and_are_kept_until_confirmed(full):
    running(full)
    full.tell("u1", 1, [log("a")], 0.0)
    full.tell("u1", 2, [log("b")], 0.0)

    assert frames(full) == [TaskEvents(task_id="t1", attempt=1, first=1, last=2, events=(raw("a"), raw("b")))]
    assert repr(full) == "<Link h1 TALKING attempts=1 unconfirmed=1>"
    full.heard(TaskAck(task_id="t1", attempt=1, seq=2))
    assert full.confirmed("u1") == 2


def test_deltas_wait_for_their_kind_until_they_are_due(full):
    running(full)
    full.tell("u1", 1, [delta("a")], 10.0)
    assert frames(full, 10.0) == []
    assert full.next_at() == pytest.approx(10.025)
    full.tell("u1", 2, [delta("b")], 10.02)

    (frame,) = frames(full, 10.03)
    assert contents(frame.events) == ["ab"]


def test_no_frame_is_larger_than_a_frame(full):
    running(full)
    for seq in range(1, 21):
        full.tell("u1", seq, [log("x" * 50_000)], 0.0)

    sizes = [len(msgspec.json.encode(frame)) for frame in frames(full)]
    assert len(sizes) >= 4
    assert max(sizes) <= MAX_FRAME_BYTES


def test_there_is_no_more_room_than_a_window(full):
    running(full)
    told = 0
    while full.room("u1"):
        told += 1
        full.tell("u1", told, [log("x" * 60_000)], 0.0)
        assert told < 100
        frames(full)

    full.heard(TaskAck(task_id="t1", attempt=1, seq=told))
    assert full.room("u1")
    assert Room("u1") in full.orders()


def test_attempts_take_turns(full):
    running(full, "u1", "t1")
    running(full, "u2", "t2")
    for seq in (1, 2, 3):
        full.tell("u1", seq, [log("x" * 200_000), log("x" * 200_000)], 0.0)
    full.tell("u2", 1, [log("b")], 0.0)

    assert [frame.task_id for frame in frames(full)][:2] in (["t1", "t2"], ["t2", "t1"])


def test_signs_of_life_go_before_events(full):
    running(full)
    for seq in range(1, 9):
        full.tell("u1", seq, [log("x" * 60_000)], 0.0)
    full.next_frame(0.0)
    full.beat(1_000, Vitals(cpu=0.1, memory=0.2, disk=0.3, load=0.4))

    assert isinstance(full.next_frame(0.0), Heartbeat)


def test_a_waiting_sign_of_life_is_replaced_and_its_news_kept(full):
    config = EffectiveConfig(heartbeat_interval=1, task_timeout=2, max_concurrent=3)
    full.beat(1, None, config)
    full.beat(2, None)

    assert frames(full) == [Heartbeat(timestamp=2, config=config)]


def test_the_start_is_said_again_when_the_session_is_known(full):
    running(full)
    full.started("u1", 42, "s-1")
    full.started("u1", 42, "s-1")

    assert frames(full) == [TaskStarted(task_id="t1", session_id="s-1", attempt=1, pid=42)]


# --- the end


def test_the_end_follows_its_events_and_carries_those_of_the_exit_record(full):
    running(full)
    full.tell("u1", 1, [delta("a")], 0.0)
    full.ended("u1", Ending(2, DONE, events=(raw("bye"),)))

    events, end = frames(full)
    assert (events.first, events.last) == (1, 1)
    assert end == TaskCompleted(task_id="t1", result=DONE, attempt=1, seq=2, events=(raw("bye"),))


def test_the_end_waits_for_records_that_were_not_told_yet(full):
    running(full)
    full.ended("u1", Ending(3, DONE))
    full.tell("u1", 1, [log("a")], 0.0)
    assert [type(frame) for frame in frames(full)] == [TaskEvents]

    full.tell("u1", 2, [], 0.0)

    assert [type(frame) for frame in frames(full)] == [TaskEvents, TaskCompleted]


def test_an_attempt_is_forgotten_when_its_end_is_confirmed(full):
    running(full)
    full.ended("u1", Ending(1, DONE, "no_result", "it said nothing"))
    (end,) = frames(full)
    assert (type(end), end.reason, end.error, end.seq) == (TaskFailed, "no_result", "it said nothing", 1)

    full.heard(TaskAck(task_id="t1", attempt=1, seq=1))

    assert full.orders() == [Forget("u1")]
    assert full.running() == ()


def test_a_confirmation_from_before_the_end_does_not_let_it_go(full):
    running(full)
    full.tell("u1", 1, [log("a")], 0.0)
    full.ended("u1", Ending(2, DONE))
    frames(full)
    full.heard(TaskAck(task_id="t1", attempt=1, seq=1))

    assert Forget("u1") not in full.orders()


# --- after a lost connection


def test_only_the_unconfirmed_is_said_again(full):
    running(full)
    for seq in (1, 2, 3):
        full.tell("u1", seq, [log(f"{seq}")], 0.0)
        frames(full)
    full.heard(TaskAck(task_id="t1", attempt=1, seq=1))
    full.orders()
    full.closed()
    full.tell("u1", 4, [log("4")], 0.0)

    said = reconnect(full, welcome(keep(2)))  # 2 had arrived; only its confirmation was lost

    started, *events = said
    assert isinstance(started, TaskStarted)
    assert [(frame.first, frame.last) for frame in events] == [(3, 3), (4, 4)]


def test_an_end_that_was_not_confirmed_is_said_again(full):
    running(full)
    full.ended("u1", Ending(1, DONE))
    frames(full)

    said = reconnect(full, welcome(keep(0)))

    assert [type(frame) for frame in said] == [TaskStarted, TaskCompleted]


def test_a_manager_that_lost_commits_is_told_again_from_where_it_stands(full):
    running(full)
    for seq in (1, 2, 3):
        full.tell("u1", seq, [log(f"{seq}")], 0.0)
        frames(full)
    full.heard(TaskAck(task_id="t1", attempt=1, seq=3))

    reconnect(full, welcome(keep(1)))

    assert full.told("u1") == 1
    assert Room("u1") in full.orders()
    full.tell("u1", 2, [log("2")], 0.0)
    assert [(frame.first, frame.last) for frame in frames(full)] == [(2, 2)]


@pytest.mark.parametrize("answer", [welcome(), welcome(Resume(task_id="t1", attempt=1, acked_seq=0, verdict="stop"))])
def test_an_attempt_that_nobody_wants_is_stopped(full, answer):
    running(full)

    assert reconnect(full, answer) == []
    assert full.orders() == [Stop("u1")]
    assert full.told("u1") is None


def test_an_adopted_attempt_begins_where_the_manager_stands(link):
    link.adopt("u1", "t1", 1)
    link.grown("u1", 9)
    assert not link.room("u1")
    link.opened(HELLO)
    assert link.running()[0].seq == 9

    link.heard(welcome(keep(5)))

    assert link.room("u1")
    assert link.told("u1") == 5


def test_an_adopted_attempt_that_had_ended_is_reported_as_exited(link):
    link.adopt("u1", "t1", 1)
    link.ended("u1", Ending(4, DONE))
    assert link.running()[0].state == "exited"
    link.opened(HELLO)
    link.heard(welcome(keep(3)))

    assert frames(link)[-1] == TaskCompleted(task_id="t1", result=DONE, attempt=1, seq=4)


def test_after_a_power_cut_the_end_takes_a_number_that_was_never_used(link):
    link.adopt("u1", "t1", 1)
    link.ended("u1", Ending(3, TaskResult(success=False), "host_restarted", "the host restarted"), is_dead=True)
    assert link.running()[0].state == "dead"
    link.opened(HELLO)
    link.heard(welcome(keep(6)))  # the manager has more records than the disk kept

    assert frames(link)[-1].seq == 7


def test_what_an_earlier_gateway_did_not_come_to_start_is_given_back(link):
    link.adopt("u1", "t1", 1, is_spawned=False)
    assert link.running()[0].state == "dead"
    link.opened(HELLO)
    link.heard(welcome(keep(0)))

    assert [(type(frame), frame.reason) for frame in frames(link)[1:]] == [(TaskRefused, "draining")]
    assert link.orders() == [Forget("u1")]


# --- base dialect


def test_in_base_a_task_is_run_at_once(base):
    base.heard(TaskExecute(task=task()))

    assert base.orders() == [Prepare(task(), None, None, at_once=True)]
    base.consider("u1", "t1", None, at_once=True)
    base.accept("u1")
    assert frames(base) == []


def test_in_base_everything_is_said_one_by_one_in_plain_words(base):
    in_base(base)
    base.started("u1", 42, "")
    base.tell("u1", 1, [log("a"), log("b")], 0.0)
    base.ended("u1", Ending(2, DONE, events=(raw("c"),)))

    assert frames(base) == [
        TaskStarted(task_id="t1"),
        TaskEvent(task_id="t1", event=raw("a")),
        TaskEvent(task_id="t1", event=raw("b")),
        TaskEvent(task_id="t1", event=raw("c")),
        TaskCompleted(task_id="t1", result=DONE),
    ]
    assert base.orders() == [Forget("u1")]


def test_in_base_a_refusal_is_a_failure(base):
    base.heard(TaskExecute(task=task()))
    base.refuse("t1", None, "unknown_agent", "there is no such agent here")

    assert frames(base) == [TaskFailed(task_id="t1", error="there is no such agent here", reason="unknown_agent")]


def test_in_base_a_heartbeat_is_only_a_time(base):
    base.beat(7, Vitals(cpu=0.1, memory=0.2, disk=0.3, load=0.4))

    assert frames(base) == [Heartbeat(timestamp=7)]


def test_in_base_what_was_said_makes_room(base):
    in_base(base)
    told = 0
    for _ in range(3):
        while base.room("u1"):
            told += 1
            base.tell("u1", told, [log("x" * 60_000)], 0.0)
            assert told < 200
        frames(base)
        assert Room("u1") in base.orders()
        assert base.room("u1")


def test_in_base_what_was_said_is_not_repeated_and_the_rest_is_said(base):
    in_base(base)
    base.tell("u1", 1, [log("a"), log("b")], 0.0)
    assert contents([base.next_frame(0.0).event]) == ["a"]
    base.closed()
    base.tell("u1", 2, [log("c")], 0.0)
    base.ended("u1", Ending(3, DONE))

    said = reconnect(base, BARELY)

    assert contents([frame.event for frame in said[:-1]]) == ["b", "c"]
    assert isinstance(said[-1], TaskCompleted)


def test_in_base_what_an_earlier_gateway_said_is_not_repeated(link):
    link.adopt("u1", "t1", None, said=4)
    link.opened(HELLO)
    assert link.running() == ()
    link.heard(BARELY)

    assert link.told("u1") == 4


def test_in_base_a_spawn_that_failed_while_away_is_said_later(base):
    in_base(base)
    base.closed()
    base.spawn_failed("u1", "spawn_failed", "no memory")

    (said,) = reconnect(base, BARELY)
    assert (type(said), said.error) == (TaskFailed, "no memory")


def test_a_task_of_a_base_manager_means_nothing_to_a_full_one(base):
    in_base(base)
    reconnect(base, FULLY)

    assert base.orders() == [Stop("u1")]


def test_configuration_reaches_the_host_by_welcome_and_by_update(link):
    link.opened(HELLO)
    link.heard(Registered(ok=True, protocol=2, config=GatewayConfig(max_concurrent=1)))
    link.heard(ConfigUpdate(config=GatewayConfig(draining=True)))

    assert link.orders() == [Configure(GatewayConfig(max_concurrent=1)), Configure(GatewayConfig(draining=True))]


def test_the_pace_of_heartbeats_comes_with_the_welcome(link):
    link.opened(HELLO)
    link.heard(Registered(ok=True, protocol=2, heartbeat_interval=5_000))

    assert link.orders() == [Configure(GatewayConfig(heartbeat_interval=5_000))]
