"""What the manager makes of a host's words, and what it answers, dialect by dialect."""

from typing import Any

import msgspec
import pytest

from manager.core.lifecycle import Cause
from manager.core.link import BASE, FULL, Link, objection
from manager.core.tasks import Change, Record, Spec, Verdict
from shared_types.api import InputState
from shared_types.codec import Malformed
from shared_types.hosts import HostCapabilities
from shared_types.messages import (
    FromGateway,
    FromManager,
    Register,
    RunningAttempt,
    TaskAbort,
    TaskAccepted,
    TaskCompleted,
    TaskEvent,
    TaskEvents,
    TaskFailed,
    TaskRefused,
    TaskStart,
    TaskStarted,
)
from shared_types.tasks import PermissionMode, TaskResult, TaskState

NOW = 1_000
EVENT = msgspec.Raw(b'{"type":"message","timestamp":5,"content":"hi"}')


def record(task_id: str = "t1", status: TaskState = TaskState.RUNNING, **fields: Any) -> Record:
    defaults: dict[str, Any] = {
        "session_id": "s1",
        "updated_at": 1,
        "host_id": "h1",
        "attempt": 2,
        "uid": "u2",
        "accepted": True,
    }
    return Record(id=task_id, status=status, **{**defaults, **fields})


class Became(msgspec.Struct, frozen=True):
    verdict: Verdict
    heard: int = 0
    record: Record | None = None


def full(**_: Any) -> Link:
    return Link("h1", 7, FULL)


def base(*records: Record) -> Link:
    link = Link("h1", 7, BASE)
    link.welcome(register(1), records, NOW, is_same_instance=False)
    return link


def register(protocol: int = 2, *running: RunningAttempt) -> Register:
    capabilities = HostCapabilities(name="h1", agents=(), max_concurrent=1, cwd="/work")
    return Register(host_id="h1", capabilities=capabilities, protocol=protocol, running=running, boot_id="b1")


def reported(
    task_id: str = "t1", attempt: int = 2, uid: str = "u2", seq: int = 9, state: str = "running"
) -> RunningAttempt:
    return RunningAttempt(task_id=task_id, attempt=attempt, uid=uid, seq=seq, state=state)


# --- full: what is heard --------------------------------------------------------------------------------

DONE = TaskResult(success=True, exit_code=0)
HEARD: list[tuple[FromGateway, dict[str, Any]]] = [
    (TaskAccepted(task_id="t1", attempt=2), {"cause": Cause.ACCEPTED}),
    (
        TaskRefused(task_id="t1", attempt=2, reason="cwd_missing", details="no /x"),
        {"cause": Cause.REFUSED, "reason": "cwd_missing", "detail": "no /x"},
    ),
    (TaskStarted(task_id="t1", attempt=2, session_id=""), {"cause": Cause.STARTED, "agent_session_id": None}),
    (TaskStarted(task_id="t1", attempt=2, session_id="abc"), {"cause": Cause.STARTED, "agent_session_id": "abc"}),
    (
        TaskEvents(task_id="t1", attempt=2, first=3, last=5, events=(EVENT, EVENT)),
        {"cause": None, "span": (3, 5), "events": (bytes(EVENT), bytes(EVENT))},
    ),
    (TaskEvent(task_id="t1", attempt=2, seq=4, event=EVENT), {"span": (4, 4), "events": (bytes(EVENT),)}),
    (
        TaskCompleted(task_id="t1", attempt=2, seq=6, result=DONE, events=(EVENT,)),
        {"cause": Cause.SUCCEEDED, "span": (6, 6), "result": DONE, "events": (bytes(EVENT),), "reason": None},
    ),
    (
        TaskCompleted(task_id="t1", attempt=2, seq=6, result=TaskResult(success=True, exit_code=3)),
        {"cause": Cause.FAILED, "reason": "exit_nonzero"},
    ),
    (
        TaskFailed(task_id="t1", attempt=2, seq=6, error="It took too long", reason="run_timeout"),
        {"cause": Cause.TIMED_OUT, "reason": "run_timeout", "detail": "It took too long", "span": (6, 6)},
    ),
    (
        TaskFailed(task_id="t1", attempt=2, seq=6, error="stopped", reason="aborted_by_user"),
        {"cause": Cause.STOPPED, "reason": "aborted_by_user"},
    ),
    (
        TaskFailed(task_id="t1", attempt=2, seq=6, error="gone", reason="supervisor_died"),
        {"cause": Cause.HOST_LOST, "reason": "supervisor_died"},
    ),
    (
        TaskFailed(task_id="t1", attempt=2, seq=6, error="Broke.", details=msgspec.Raw(b'{"line":5}')),
        {"cause": Cause.FAILED, "reason": None, "detail": 'Broke: {"line":5}'},
    ),
]


@pytest.mark.parametrize(("message", "expected"), HEARD, ids=lambda value: type(value).__name__)
def test_a_word_of_the_full_dialect_becomes_the_change_it_proposes(
    message: FromGateway, expected: dict[str, Any]
) -> None:
    change = full().hear(message, NOW)

    assert change is not None
    assert (change.task_id, change.attempt, change.host_id, change.generation, change.now) == ("t1", 2, "h1", 7, NOW)
    assert {name: getattr(change, name) for name in expected} == expected


@pytest.mark.parametrize(
    "event",
    [
        b"null",
        b"[]",
        b"{}",
        b'{"type":"log"}',
        b'{"type":5,"timestamp":1}',
        b'{"type":"log","timestamp":"x"}',
        b'{"type":"log","timestamp":1,"content":5}',
        b'{"type":"log","timestamp":1,"data":[1]}',
        b'{"type":"input","timestamp":1,"data":{"inputId":5}}',
    ],
)
def test_an_event_that_readers_could_not_read_is_malformed(event: bytes) -> None:
    message = TaskEvents(task_id="t1", attempt=2, first=1, last=1, events=(msgspec.Raw(event),))

    with pytest.raises(Malformed, match="t1"):
        full().hear(message, NOW)


@pytest.mark.parametrize(("first", "last"), [(0, 1), (2, 1), (-1, -1)])
def test_records_that_count_backwards_or_from_nothing_are_malformed(first: int, last: int) -> None:
    with pytest.raises(Malformed):
        full().hear(TaskEvents(task_id="t1", attempt=2, first=first, last=last, events=()), NOW)
    with pytest.raises(Malformed):
        full().hear(TaskCompleted(task_id="t1", attempt=2, seq=min(first, 0), result=DONE), NOW)


# --- full: what becomes of it ---------------------------------------------------------------------------


def settle(link: Link, change: Change, verdict: Verdict, heard: int = 0, after: Record | None = None) -> Any:
    return link.settle([change], [Became(verdict, heard, after)])


def span_change(first: int = 3, last: int = 5, cause: Cause | None = None) -> Change:
    return Change(task_id="t1", now=NOW, cause=cause, attempt=2, host_id="h1", generation=7, span=(first, last))


def test_records_are_confirmed_after_the_commit_as_far_as_they_are_heard() -> None:
    settled = settle(full(), span_change(), Verdict.TAKEN, 5, record())

    assert settled.acks == {("t1", 2): 5}
    assert settled.say == []


def test_records_that_were_taken_before_are_confirmed_again() -> None:
    assert settle(full(), span_change(1, 2), Verdict.AGAIN, 5, record()).acks == {("t1", 2): 5}


def test_one_confirmation_stands_for_all_records_of_a_commit() -> None:
    link = full()

    settled = link.settle(
        [span_change(1, 2), span_change(3, 5)],
        [Became(Verdict.TAKEN, 2, record()), Became(Verdict.TAKEN, 5, record())],
    )

    assert settled.acks == {("t1", 2): 5}


def test_a_gap_is_answered_with_what_is_heard_and_a_host_that_goes_on_must_begin_again() -> None:
    link = full()

    first = link.settle(
        [span_change(9, 9), span_change(10, 10)],
        [Became(Verdict.GAP, 4, record()), Became(Verdict.GAP, 4, record())],
    )
    again = settle(link, span_change(11, 11), Verdict.GAP, 4, record())

    assert (first.acks, first.is_broken) == ({("t1", 2): 4}, False)
    assert again.is_broken


def test_a_gap_that_was_closed_is_forgotten() -> None:
    link = full()
    settle(link, span_change(9, 9), Verdict.GAP, 4, record())
    settle(link, span_change(5, 9), Verdict.TAKEN, 9, record())

    assert not settle(link, span_change(12, 12), Verdict.GAP, 9, record()).is_broken


def accepted() -> Change:
    return Change(task_id="t1", now=NOW, cause=Cause.ACCEPTED, attempt=2, host_id="h1", generation=7)


def test_what_was_accepted_is_started_after_the_commit() -> None:
    settled = settle(full(), accepted(), Verdict.TAKEN, 0, record(status=TaskState.ASSIGNED))

    assert settled.say == [TaskStart(task_id="t1", attempt=2)]


def test_what_is_to_stop_is_not_started_when_it_is_accepted() -> None:
    after = record(status=TaskState.STOPPING, stop_reason="aborted_by_user")

    settled = settle(full(), accepted(), Verdict.TAKEN, 0, after)

    assert settled.say == [TaskAbort(task_id="t1", attempt=2, reason="aborted_by_user")]


def test_a_host_that_works_on_an_old_attempt_is_told_to_stop_it_once() -> None:
    link = full()
    stale = Became(Verdict.STALE, 0, record(attempt=3, host_id="h2"))

    settled = link.settle([span_change(1, 1), span_change(2, 2)], [stale, stale])

    assert settled.say == [TaskAbort(task_id="t1", attempt=2, reason="stale")]
    assert not settled.is_fenced


def test_a_host_that_works_on_a_task_nobody_knows_is_told_to_stop_it() -> None:
    assert settle(full(), span_change(), Verdict.UNKNOWN).say == [TaskAbort(task_id="t1", attempt=2, reason="stale")]


def test_the_end_of_an_old_attempt_is_confirmed_so_that_the_host_lets_go() -> None:
    settled = settle(full(), span_change(8, 8, Cause.FAILED), Verdict.STALE, 0, record(status=TaskState.LOST))

    assert settled.acks == {("t1", 2): 8}
    assert settled.say == []


def test_a_stale_refusal_needs_no_answer() -> None:
    change = msgspec.structs.replace(accepted(), cause=Cause.REFUSED)

    settled = settle(full(), change, Verdict.STALE, 0, record(attempt=3))

    assert (settled.say, settled.acks) == ([], {})


def test_when_the_attempt_is_right_it_is_the_connection_that_is_stale() -> None:
    assert settle(full(), span_change(), Verdict.STALE, 0, record()).is_fenced


def input_taken(link: Link, seq: int, input_id: str, state: InputState = InputState.TAKEN) -> Change:
    """What the link makes of a host that says: the agent has this input, or will not get it."""
    said = {"type": "input", "timestamp": 1, "data": {"inputId": input_id, "state": state}}
    event = msgspec.Raw(msgspec.json.encode(said))
    change = link.hear(TaskEvents(task_id="t1", attempt=2, first=seq, last=seq, events=(event,)), NOW)
    assert change is not None
    return change


def test_an_input_that_the_agent_took_is_told_once_and_with_the_commit() -> None:
    link = full()
    change = input_taken(link, 1, "i1")

    assert settle(link, change, Verdict.TAKEN, 1, record()).inputs == [("t1", "i1", InputState.TAKEN)]
    assert settle(link, change, Verdict.AGAIN, 1, record()).inputs == []


def test_an_input_that_the_agent_does_not_get_is_told_as_such() -> None:
    link = full()
    change = input_taken(link, 1, "i1", InputState.REFUSED)

    assert settle(link, change, Verdict.TAKEN, 1, record()).inputs == [("t1", "i1", InputState.REFUSED)]


def test_an_input_is_not_told_with_the_commit_of_what_was_said_before_it() -> None:
    link = full()
    earlier = span_change(1, 1)
    change = input_taken(link, 2, "i1")

    assert settle(link, earlier, Verdict.TAKEN, 1, record()).inputs == []
    assert settle(link, change, Verdict.TAKEN, 2, record()).inputs == [("t1", "i1", InputState.TAKEN)]


def test_a_host_that_does_not_have_the_task_cannot_say_that_its_input_was_taken() -> None:
    link = full()
    foreign, own = input_taken(link, 1, "i1"), input_taken(link, 2, "i2")
    elsewhere = Became(Verdict.STALE, 0, record(host_id="h2"))

    settled = link.settle([foreign, own], [elsewhere, Became(Verdict.TAKEN, 2, record())])

    assert settled.inputs == [("t1", "i2", InputState.TAKEN)]


# --- full: reconciling at register ----------------------------------------------------------------------


def test_an_attempt_that_both_sides_know_goes_on_from_what_is_committed() -> None:
    welcome = full().welcome(register(2, reported()), [record(heard=4, started_at=1)], NOW, is_same_instance=False)

    (resume,) = welcome.registered.resume
    assert (resume.verdict, resume.acked_seq, resume.started) == ("keep", 4, True)
    assert (welcome.changes, welcome.say, welcome.running) == ((), (), ("t1",))


def test_a_host_that_came_back_ends_the_overlay() -> None:
    welcome = full().welcome(register(2, reported()), [record(disconnected_since=5)], NOW, is_same_instance=False)

    assert [(change.reachable, change.attempt, change.generation) for change in welcome.changes] == [(True, 2, 7)]


def test_a_wish_to_stop_is_said_again() -> None:
    stopping = record(status=TaskState.STOPPING, stop_requested_at=3, stop_reason="run_timeout")

    welcome = full().welcome(register(2, reported()), [stopping], NOW, is_same_instance=False)

    assert welcome.say == (TaskAbort(task_id="t1", attempt=2, reason="run_timeout"),)
    assert welcome.running == ()


@pytest.mark.parametrize(
    ("said", "records"),
    [
        pytest.param(reported(), [], id="final or unknown"),
        pytest.param(reported(attempt=1, uid="u1"), [record()], id="an older attempt"),
        pytest.param(reported(uid="other"), [record()], id="the same number of another history"),
    ],
)
def test_an_attempt_that_is_not_wanted_is_stopped(said: RunningAttempt, records: list[Record]) -> None:
    welcome = full().welcome(register(2, said), records, NOW, is_same_instance=False)

    assert [(r.task_id, r.attempt, r.verdict) for r in welcome.registered.resume] == [("t1", said.attempt, "stop")]


MISSING: list[tuple[str, Record, bool, Cause]] = [
    ("never accepted", record(status=TaskState.ASSIGNED, accepted=False), False, Cause.NEVER_STARTED),
    ("accepted, gateway restarted", record(status=TaskState.ASSIGNED), False, Cause.HOST_LOST),
    ("accepted, same gateway", record(status=TaskState.ASSIGNED), True, Cause.NEVER_STARTED),
    (
        "accepted, since its machine was booted",
        record(status=TaskState.ASSIGNED, boot="b1"),
        False,
        Cause.NEVER_STARTED,
    ),
    ("accepted, its machine was booted since", record(status=TaskState.ASSIGNED, boot="b0"), False, Cause.HOST_LOST),
    ("it ran", record(started_at=5), False, Cause.HOST_LOST),
    ("it ran, since its machine was booted", record(started_at=5, boot="b1"), False, Cause.HOST_LOST),
    ("it ran, same gateway", record(started_at=5), True, Cause.HOST_LOST),
    ("it told records, same gateway", record(status=TaskState.ASSIGNED, heard=1), True, Cause.HOST_LOST),
    ("to stop, never accepted", record(status=TaskState.STOPPING, accepted=False), False, Cause.NEVER_STARTED),
]


@pytest.mark.parametrize(("believed", "same", "cause"), [row[1:] for row in MISSING], ids=[row[0] for row in MISSING])
def test_what_the_host_no_longer_names_never_started_or_is_lost(believed: Record, same: bool, cause: Cause) -> None:
    welcome = full().welcome(register(2), [believed], NOW, is_same_instance=same)

    (change,) = welcome.changes
    assert change.cause is cause
    assert (change.attempt, change.host_id, change.generation) == (2, "h1", 7)
    assert change.reason == ("host_restarted" if cause is Cause.HOST_LOST else None)


def test_a_host_that_does_not_say_when_its_machine_was_booted_may_have_been() -> None:
    silent = msgspec.structs.replace(register(2), boot_id=None)

    welcome = full().welcome(silent, [record(status=TaskState.ASSIGNED)], NOW, is_same_instance=False)

    assert [change.cause for change in welcome.changes] == [Cause.HOST_LOST]


def test_an_attempt_that_runs_though_we_never_said_start_is_taken_for_accepted() -> None:
    believed = record(status=TaskState.ASSIGNED, accepted=False)

    welcome = full().welcome(register(2, reported()), [believed], NOW, is_same_instance=False)

    assert [change.cause for change in welcome.changes] == [Cause.ACCEPTED]
    assert [(r.verdict, r.started) for r in welcome.registered.resume] == [("keep", False)]


# --- base -----------------------------------------------------------------------------------------------


def execute(link: Link, spec_fields: dict[str, Any] | None = None) -> dict[str, Any]:
    spec = Spec(prompt="p", agent_type="gemini", created_at=1, queue_ttl=1, **(spec_fields or {}))
    message = link.execute(spec, record(status=TaskState.ASSIGNED), "/work")
    return dict(msgspec.to_builtins(message))


def test_a_base_host_is_told_to_run_it_in_words_of_the_base_dialect() -> None:
    link = base()

    said = execute(link, {"permission_mode": PermissionMode.BYPASS, "idle_timeout": 5, "timeout": 9})

    assert said == {
        "type": "task:execute",
        "task": {"taskId": "t1", "prompt": "p", "cwd": "/work", "agentType": "gemini", "timeout": 9},
    }


def test_a_full_host_gets_the_attempt_and_everything_that_was_asked_for() -> None:
    said = execute(full(), {"permission_mode": PermissionMode.PLAN, "idle_timeout": 5, "cwd": "/x", "env": {"A": "b"}})

    assert (said["attempt"], said["uid"]) == (2, "u2")
    assert said["task"]["permissionMode"] == "plan"
    assert (said["task"]["idleTimeout"], said["task"]["cwd"], said["task"]["env"]) == (5, "/x", {"A": "b"})


def test_a_mode_that_holds_an_agent_back_is_not_given_to_a_host_that_cannot_keep_to_it() -> None:
    spec = Spec(prompt="p", agent_type="gemini", created_at=1, queue_ttl=1, permission_mode=PermissionMode.PLAN)

    assert objection(spec, FULL) is None
    assert "plan" in (objection(spec, BASE) or "")
    assert objection(msgspec.structs.replace(spec, permission_mode=PermissionMode.BYPASS), BASE) is None


def test_events_of_a_base_host_are_taken_in_order_without_records() -> None:
    link = base(record())

    change = link.hear(TaskEvent(task_id="t1", event=EVENT), NOW)

    assert change is not None
    assert (change.attempt, change.generation, change.span, change.events) == (2, 7, None, (bytes(EVENT),))


RECAST = [
    (b'{"type":"log"}', {"type": "log", "timestamp": NOW}),
    (b'{ "type" : "log",\n "timestamp": 5.7 }', {"type": "log", "timestamp": 5}),
    (b'{"type":"log","timestamp":"now","content":{"a":1}}', {"type": "log", "timestamp": NOW, "content": '{"a":1}'}),
    (b'{"type":"x","timestamp":1,"data":[1],"own":2}', {"type": "x", "timestamp": 1, "data": {"value": [1]}, "own": 2}),
    (b'{"type":"x","timestamp":true}', {"type": "x", "timestamp": NOW}),
]


@pytest.mark.parametrize(("event", "expected"), RECAST)
def test_a_base_event_becomes_one_that_readers_understand(event: bytes, expected: dict[str, Any]) -> None:
    change = base(record()).hear(TaskEvent(task_id="t1", event=msgspec.Raw(event)), NOW)

    assert change is not None
    (body,) = change.events
    assert b"\n" not in body
    assert msgspec.json.decode(body) == expected


@pytest.mark.parametrize("event", [b"5", b"null", b"{}", b'{"type":null}'])
def test_a_base_event_without_a_type_is_malformed(event: bytes) -> None:
    with pytest.raises(Malformed):
        base(record()).hear(TaskEvent(task_id="t1", event=msgspec.Raw(event)), NOW)


def test_nothing_is_confirmed_to_a_base_host() -> None:
    link = base(record())
    change = link.hear(TaskCompleted(task_id="t1", result=DONE), NOW)
    assert change is not None

    settled = settle(link, change, Verdict.TAKEN, 0, record(status=TaskState.COMPLETED))

    assert (settled.say, settled.acks) == ([], {})


ENDS: list[tuple[FromGateway, Cause, str | None]] = [
    (TaskCompleted(task_id="t1", result=TaskResult(success=True)), Cause.SUCCEEDED, None),
    (TaskCompleted(task_id="t1", result=TaskResult(success=False, exit_code=1)), Cause.FAILED, "exit_nonzero"),
    (TaskCompleted(task_id="t1", result=TaskResult(success=False)), Cause.FAILED, "agent_error"),
    (TaskFailed(task_id="t1", error="x"), Cause.FAILED, None),
]


@pytest.mark.parametrize(("message", "cause", "reason"), ENDS)
def test_the_end_at_a_base_host_is_judged_by_its_evidence(
    message: FromGateway, cause: Cause, reason: str | None
) -> None:
    change = base(record()).hear(message, NOW)

    assert change is not None
    assert (change.cause, change.reason) == (cause, reason)


def test_a_base_host_that_speaks_of_a_task_that_is_not_its_own_is_told_once_to_stop_it() -> None:
    link = base()
    said: list[FromManager] = []

    for _ in range(3):
        assert link.hear(TaskEvent(task_id="t9", event=EVENT), NOW) is None
        said += link.retorts()

    assert said == [TaskAbort(task_id="t9")]


def test_names_that_are_far_too_long_are_not_remembered() -> None:
    link = base()

    assert link.hear(TaskEvent(task_id="t" * 1_000_000, event=EVENT), NOW) is None
    assert link.retorts() == []


def test_a_base_host_that_comes_back_may_go_on_with_what_it_had() -> None:
    stopping = record("t2", TaskState.STOPPING, stop_requested_at=3)
    running = record("t1", started_at=3, disconnected_since=4)
    link = Link("h1", 7, BASE)

    welcome = link.welcome(register(1), [running, stopping], NOW, is_same_instance=False)

    assert msgspec.to_builtins(welcome.registered) == {"type": "registered", "ok": True}
    assert welcome.changes == ()
    assert welcome.say == (TaskAbort(task_id="t2"),)
    assert welcome.running == ("t1",)
    assert link.hear(TaskStarted(task_id="t1", session_id="x"), NOW) is not None


def test_after_the_end_a_base_hosts_words_about_the_task_are_strays() -> None:
    link = base(record())
    change = link.hear(TaskCompleted(task_id="t1", result=DONE), NOW)
    assert change is not None
    settle(link, change, Verdict.TAKEN, 0, record(status=TaskState.COMPLETED))

    assert link.hear(TaskEvent(task_id="t1", event=EVENT), NOW) is None


def test_a_base_host_that_runs_on_after_its_task_was_given_up_is_told_to_stop() -> None:
    link = base(record())
    change = link.hear(TaskEvent(task_id="t1", event=EVENT), NOW)
    assert change is not None

    settled = settle(link, change, Verdict.STALE, 0, record(status=TaskState.LOST))

    assert settled.say == [TaskAbort(task_id="t1")]
