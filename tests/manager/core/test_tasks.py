"""What becomes of a task: each change, each deadline, and any sequence of them."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.core import outcome, tasks
from manager.core.lifecycle import ON_A_HOST, Cause
from manager.core.tasks import Applied, Change, Limits, Record, Spec, Verdict
from shared_types.events import AgentEvent
from shared_types.tasks import FINAL, LabelRules, Reason, TaskResult, TaskState

T0 = 1_000_000
LIMITS = Limits()
S = TaskState


def a_spec(**more: Any) -> Spec:
    return Spec(**({"prompt": "p", "agent_type": "command", "created_at": T0, "queue_ttl": 1_000} | more))


class Story:
    """One task, told change by change."""

    def __init__(self, **wishes: Any) -> None:
        self.spec = a_spec(**wishes)
        self.events: list[bytes] = []
        self.record = self._keep(tasks.new("t", "s", self.spec, latest=0))

    def _keep(self, applied: Applied) -> Record:
        self.events += applied.events
        self.last = applied
        return applied.record

    def then(self, cause: Cause | None = None, **more: Any) -> "Story":
        """The manager's own change."""
        change = Change(**({"task_id": "t", "now": T0, "cause": cause} | more))
        self.record = self._keep(tasks.apply(self.spec, self.record, change))
        return self

    def claimed(self, host: str = "h1", **more: Any) -> "Story":
        return self.then(Cause.CLAIM, host_id=host, uid=f"u{self.record.attempt}", accept_by=T0 + 10_000, **more)

    def says(self, cause: Cause | None = None, **more: Any) -> "Story":
        """A report of the host that has it."""
        return self.then(cause, **({"attempt": self.record.attempt, "host_id": self.record.host_id} | more))

    def running(self) -> "Story":
        return self.claimed().says(Cause.ACCEPTED).says(Cause.STARTED)

    @property
    def statuses(self) -> list[str]:
        return [event.data["status"] for event in self._status_events() if event.data is not None]

    def _status_events(self) -> list[AgentEvent]:
        decoded = [msgspec.json.decode(body, type=AgentEvent) for body in self.events]
        return [event for event in decoded if event.type == "status"]

    @property
    def last_event(self) -> AgentEvent:
        return self._status_events()[-1]


# --- the way through ----------------------------------------------------------------------------------


def test_a_deadline_that_was_looked_at_before_the_host_was_ready_gives_nothing_back():
    story = Story().claimed()
    looked_at = story.record
    story.says(Cause.ACCEPTED)

    too_late = tasks.overdue(looked_at, T0 + 10_000)
    assert too_late is not None
    assert too_late.cause is Cause.NEVER_STARTED
    applied = tasks.apply(story.spec, story.record, too_late)

    assert (applied.verdict, applied.record) == (Verdict.STALE, story.record)


def test_each_state_is_told_in_the_log_once() -> None:
    story = Story().running().says(Cause.STARTED, agent_session_id="abc").says(Cause.SUCCEEDED)

    assert story.statuses == ["queued", "assigned", "running", "completed"]
    assert story.record.agent_session_id == "abc"


def test_a_status_event_says_why_where_and_how() -> None:
    story = Story().running().says(Cause.FAILED, reason="no_result", detail="it said nothing", now=T0 + 7)

    event = story.last_event
    assert (event.timestamp, event.content) == (T0 + 7, "Failed: it said nothing.")
    assert event.data == {"status": "failed", "reason": "no_result", "hostId": "h1", "attempt": 1}


def test_own_events_are_marked_and_follow_the_hosts() -> None:
    story = Story().running().says(Cause.SUCCEEDED, span=(1, 2), events=(b'{"type":"log","timestamp":1}',) * 2)

    assert len(story.last.events) == 3
    assert story.last.own == {2}


def test_ids_go_on_from_the_newest_of_the_session() -> None:
    spec = a_spec()
    record = tasks.new("t", "s", spec, latest=41).record

    applied = tasks.apply(spec, record, Change(task_id="t", now=T0, cause=Cause.ABORT), latest=50)

    assert (record.first_event_id, record.last_event_id) == (42, 42)
    assert applied.record.last_event_id == 51


def test_a_result_is_kept_and_told() -> None:
    result = TaskResult(success=True, exit_code=0, output="42")
    story = Story().running().says(Cause.SUCCEEDED, result=result)

    assert story.record.result == result
    assert story.last_event.data is not None
    assert story.last_event.data["result"] == {"success": True, "exitCode": 0, "output": "42"}


@pytest.mark.parametrize(
    ("cause", "status", "reason"),
    [
        (Cause.SUCCEEDED, S.COMPLETED, None),
        (Cause.FAILED, S.FAILED, Reason.AGENT_ERROR),
        (Cause.TIMED_OUT, S.TIMEOUT, Reason.RUN_TIMEOUT),
        (Cause.STOPPED, S.ABORTED, Reason.ABORTED_BY_USER),
        (Cause.HOST_LOST, S.LOST, Reason.HOST_LOST),
    ],
)
def test_an_end_without_a_reason_gets_the_plainest(cause: Cause, status: TaskState, reason: str | None) -> None:
    record = Story().running().says(cause).record

    assert (record.status, record.reason) == (status, reason)


def test_the_idle_timeout_of_a_host_keeps_its_name() -> None:
    assert Story().running().says(Cause.TIMED_OUT, reason="idle_timeout").record.reason == "idle_timeout"


# --- stopping -----------------------------------------------------------------------------------------


def test_abort_of_a_queued_task_is_the_end() -> None:
    record = Story().then(Cause.ABORT, detail="not needed").record

    assert (record.status, record.reason, record.detail) == (S.ABORTED, "aborted_by_user", "not needed")


def test_abort_of_a_running_task_waits_for_its_host() -> None:
    story = Story().running().then(Cause.ABORT, now=T0 + 5)
    assert story.record.status is S.STOPPING
    assert story.record.stop_requested_at == T0 + 5
    assert story.record.deadline_at == T0 + 5 + LIMITS.stop_grace + LIMITS.settle

    ended = story.says(Cause.STOPPED).record
    assert (ended.status, ended.reason) == (S.ABORTED, "aborted_by_user")


def test_a_kill_waits_no_grace() -> None:
    story = Story().running().then(Cause.ABORT).then(Cause.ABORT, kill=True, now=T0 + 1)

    assert story.record.deadline_at == T0 + 1 + LIMITS.settle
    assert story.statuses.count("stopping") == 1


def test_an_abort_said_again_and_again_does_not_put_off_the_deadline() -> None:
    story = Story().running().then(Cause.ABORT)
    deadline = story.record.deadline_at
    assert deadline is not None

    assert story.then(Cause.ABORT, now=T0 + 5_000).record.deadline_at == deadline
    killed = story.then(Cause.ABORT, now=T0 + 6_000, kill=True).record
    assert killed.deadline_at == T0 + 6_000 + LIMITS.settle < deadline


def test_an_agent_that_breaks_on_its_way_down_was_still_aborted() -> None:
    record = (
        Story().running().then(Cause.ABORT).says(Cause.FAILED, reason="killed_by_signal", detail="signal 15").record
    )

    assert (record.status, record.reason, record.detail) == (S.ABORTED, "aborted_by_user", "signal 15")


def test_an_agent_that_finished_before_it_heard_us_has_completed() -> None:
    record = Story().running().then(Cause.ABORT).says(Cause.SUCCEEDED).record

    assert (record.status, record.reason) == (S.COMPLETED, None)


@pytest.mark.parametrize("answer", [Cause.STOPPED, Cause.FAILED, Cause.TIMED_OUT])
def test_a_run_that_we_stopped_for_its_time_has_timed_out_whatever_the_host_calls_it(answer: Cause) -> None:
    record = Story().running().then(Cause.OVERDUE).says(answer, reason="killed_by_signal").record

    assert (record.status, record.reason) == (S.TIMEOUT, "run_timeout")


def test_an_abort_that_crosses_the_acceptance_never_starts() -> None:
    story = Story().claimed().then(Cause.ABORT).says(Cause.ACCEPTED)

    assert (story.record.status, story.record.accepted) == (S.STOPPING, False)
    assert story.says(Cause.REFUSED).record.status is S.ABORTED


# --- given back ---------------------------------------------------------------------------------------


def test_a_refusal_is_remembered_until_somebody_asks_again() -> None:
    story = Story().claimed("h1").says(Cause.REFUSED, reason="cwd_missing").claimed("h2")
    story.says(Cause.REFUSED, reason="logged_out", detail="run login")
    assert story.record.excluded_hosts == ("h1", "h2")
    assert (story.record.status, story.record.reason, story.record.detail) == (S.QUEUED, "logged_out", "run login")

    story.then(Cause.ABORT).then(Cause.RETRY, now=T0 + 500)
    assert story.record.excluded_hosts == ()
    assert story.record.deadline_at == T0 + 500 + 1_000


def test_waiting_again_does_not_lengthen_the_time_in_the_queue() -> None:
    story = Story().claimed().says(Cause.REFUSED, reason="cwd_missing", now=T0 + 900)

    assert story.record.deadline_at == T0 + 1_000


@pytest.mark.parametrize("reason", sorted(tasks.PASSING))
def test_a_lack_of_room_is_no_refusal_of_the_task(reason: str) -> None:
    assert Story().claimed().says(Cause.REFUSED, reason=reason).record.excluded_hosts == ()


def refused(*hosts: tuple[str, str | None]) -> Record:
    """A task that these hosts refused, and that was given up."""
    story = Story()
    for host, reason in hosts:
        story.claimed(host).says(Cause.REFUSED, reason=reason, detail=f"{host} says why")
    return tasks.apply(story.spec, story.record, tasks.given_up(story.record, T0)).record


@pytest.mark.parametrize("hosts", [("h1",), ("h1", "h2", "h3")])
def test_what_every_host_refused_for_one_reason_ends_with_that_reason(hosts: tuple[str, ...]) -> None:
    record = refused(*((host, "cwd_not_allowed") for host in hosts))

    assert (record.status, record.reason) == (S.FAILED, "cwd_not_allowed")
    assert record.excluded_hosts == hosts
    assert all(host in (record.detail or "") for host in hosts)
    assert f"{hosts[-1]} says why" in (record.detail or "")


def test_what_hosts_refused_for_different_reasons_names_each() -> None:
    record = refused(("h1", "cwd_missing"), ("h2", "logged_out"))

    assert (record.status, record.reason) == (S.FAILED, "refused_everywhere")
    assert "h1 (cwd_missing), h2 (logged_out)" in (record.detail or "")
    assert "h2 says why" in (record.detail or "")


def test_a_refusal_without_a_reason_is_refused_everywhere() -> None:
    assert refused(("h1", None)).reason == "refused_everywhere"


def test_hundreds_of_refusals_still_make_one_sentence() -> None:
    record = refused(*((f"h{number}", "logged_out") for number in range(300)))

    assert "and 290 more" in (record.detail or "")
    assert len(record.detail or "") < 500


def test_a_retry_forgets_why_it_was_refused() -> None:
    story = Story().claimed("h1").says(Cause.REFUSED, reason="cwd_missing")
    story.then(Cause.ABORT).then(Cause.RETRY).claimed("h1").says(Cause.REFUSED, reason="logged_out")

    assert tasks.given_up(story.record, T0).reason == "logged_out"


# --- what is not taken --------------------------------------------------------------------------------


def test_a_report_of_another_attempt_or_host_is_stale() -> None:
    story = Story().running()

    for wrong in ({"attempt": 2}, {"attempt": 0}, {"host_id": "h2"}):
        before = story.record
        assert story.says(Cause.FAILED, **wrong).last == Applied(Verdict.STALE, before)


def test_a_report_after_the_end_is_stale_unless_it_was_heard() -> None:
    story = Story().running().says(Cause.SUCCEEDED, span=(1, 5))

    assert story.says(Cause.SUCCEEDED, span=(5, 5)).last.verdict is Verdict.AGAIN
    assert story.says(span=(6, 6)).last.verdict is Verdict.STALE
    assert story.says(span=(9, 9)).last.verdict is Verdict.STALE
    assert story.says(Cause.FAILED).last.verdict is Verdict.STALE


def test_a_cause_that_cannot_follow_changes_nothing() -> None:
    story = Story()
    before = story.record

    assert story.then(Cause.RETRY).last == Applied(Verdict.ILLEGAL, before)
    assert story.running().says(Cause.REFUSED).last.verdict is Verdict.ILLEGAL


# --- deadlines ----------------------------------------------------------------------------------------


def overdue(story: Story) -> Story:
    """Let the watchdog look right when the deadline has passed."""
    assert story.record.deadline_at is not None
    now = story.record.deadline_at
    assert tasks.overdue(story.record, now - 1) is None
    change = tasks.overdue(story.record, now)
    assert change is not None
    story.record = story._keep(tasks.apply(story.spec, story.record, change))
    assert story.last.verdict is Verdict.TAKEN
    assert story.record.deadline_at is None or story.record.deadline_at > now or story.record.status is S.QUEUED
    return story


def test_queued_for_too_long_expires() -> None:
    record = overdue(Story()).record

    assert (record.status, record.reason) == (S.EXPIRED, "queue_expired")


def test_a_host_that_does_not_get_ready_gives_the_task_back() -> None:
    record = overdue(Story(queue_ttl=1_000_000).claimed()).record

    assert (record.status, record.host_id, record.excluded_hosts) == (S.QUEUED, None, ())


def test_an_accepted_task_that_never_starts_is_stopped_and_has_timed_out() -> None:
    story = overdue(Story().claimed().says(Cause.ACCEPTED))
    assert (story.record.status, story.record.stop_reason) == (S.STOPPING, "start_timeout")

    record = story.says(Cause.STOPPED).record
    assert (record.status, record.reason) == (S.TIMEOUT, "start_timeout")


def test_a_run_has_its_own_time_and_that_of_its_end() -> None:
    story = Story(timeout=60_000).running()
    assert story.record.deadline_at == T0 + 60_000 + LIMITS.settle

    assert overdue(story).record.stop_reason == "run_timeout"


def test_a_run_without_a_timeout_has_a_backstop() -> None:
    assert Story().running().record.deadline_at == T0 + LIMITS.longest_run + LIMITS.settle


def test_a_host_that_does_not_answer_a_stop_is_told_again_and_in_the_end_given_up() -> None:
    story = Story().running().then(Cause.ABORT)
    told_again = 0
    while story.record.status is S.STOPPING:
        overdue(story)
        told_again += 1

    assert told_again > 3
    assert (story.record.status, story.record.reason) == (S.LOST, "host_lost")
    assert story.record.ended_at is not None
    assert story.record.ended_at >= T0 + LIMITS.stop_give_up
    assert story.statuses.count("stopping") == 1


def test_a_host_that_stays_away_loses_its_task() -> None:
    story = Story().running().then(reachable=False, now=T0 + 5)
    assert story.record.deadline_at == T0 + 5 + LIMITS.lost_after

    record = overdue(story).record
    assert (record.status, record.reason, record.disconnected_since) == (S.LOST, "host_lost", None)


def test_a_task_told_to_stop_that_was_never_accepted_has_not_run() -> None:
    record = overdue(Story().claimed().then(Cause.ABORT)).record

    assert (record.status, record.reason) == (S.ABORTED, "aborted_by_user")


# --- the overlay --------------------------------------------------------------------------------------


def test_out_of_reach_and_back_is_told_and_changes_no_state() -> None:
    story = Story(timeout=60_000).running().then(reachable=False, now=T0 + 5)
    assert (story.record.status, story.record.disconnected_since, story.last.shown) == (S.RUNNING, T0 + 5, True)
    assert story.last_event.data == {"status": "running", "hostId": "h1", "attempt": 1, "disconnected": True}

    story.then(reachable=True, now=T0 + 9)
    assert (story.record.status, story.record.disconnected_since) == (S.RUNNING, None)
    assert story.record.deadline_at == T0 + 60_000 + LIMITS.settle
    assert story.last_event.data == {"status": "running", "hostId": "h1", "attempt": 1, "disconnected": False}


def test_twice_out_of_reach_counts_from_the_first_time() -> None:
    story = Story().running().then(reachable=False, now=T0 + 5).then(reachable=False, now=T0 + 9)

    assert story.record.disconnected_since == T0 + 5
    assert story.last.events == ()


def test_a_run_that_ended_out_of_reach_gets_time_to_say_so() -> None:
    story = Story(timeout=60_000).running().then(reachable=False).then(reachable=True, now=T0 + 600_000)

    assert story.record.deadline_at == T0 + 600_000 + LIMITS.settle


def flapping(story: Story, since: int, every: int = 20_000) -> int:
    """Its host goes and comes back, again and again; the watchdog looks whenever it is here. When something was due."""
    for now in range(since, since + 10 * 24 * 3600_000, every):
        story.then(reachable=False, now=now - 5_000).then(reachable=True, now=now)
        if (due := tasks.overdue(story.record, now)) is not None:
            story.record = story._keep(tasks.apply(story.spec, story.record, due))
            return now
    raise AssertionError("never")


def test_a_host_that_comes_and_goes_does_not_put_off_the_end_of_a_stopping_task_for_ever() -> None:
    story = Story().running().then(Cause.ABORT)

    settled = flapping(story, T0 + 20_000)

    assert (story.record.status, story.record.reason) == (S.LOST, "host_lost")
    assert T0 + LIMITS.stop_give_up <= settled <= T0 + LIMITS.stop_give_up + 40_000


def test_a_host_that_comes_and_goes_does_not_put_off_the_end_of_a_run_for_ever() -> None:
    story = Story(timeout=60_000).running()

    told = flapping(story, T0 + 20_000)

    assert (story.record.status, story.record.stop_reason) == (S.STOPPING, "run_timeout")
    assert T0 + 60_000 + LIMITS.settle <= told <= T0 + 60_000 + LIMITS.settle + 40_000


def test_a_host_that_comes_and_goes_does_not_put_off_a_start_for_ever() -> None:
    story = Story().claimed().says(Cause.ACCEPTED)

    told = flapping(story, T0 + 20_000)

    assert (story.record.status, story.record.stop_reason) == (S.STOPPING, "start_timeout")
    assert told <= T0 + LIMITS.start + 40_000


def test_a_host_that_was_away_while_the_time_ran_out_gets_time_when_it_is_back() -> None:
    back = T0 + LIMITS.lost_after - 1
    story = Story().running().then(Cause.ABORT).then(reachable=False, now=T0 + 1).then(reachable=True, now=back)

    assert story.record.deadline_at == back + LIMITS.stop_grace + LIMITS.settle


def test_an_abort_of_a_task_out_of_reach_waits_for_the_host_or_its_loss() -> None:
    story = Story().running().then(reachable=False, now=T0 + 5).then(Cause.ABORT, now=T0 + 9)
    assert story.record.deadline_at == T0 + 5 + LIMITS.lost_after

    story.then(reachable=True, now=T0 + 20)
    assert story.record.deadline_at == T0 + 20 + LIMITS.stop_grace + LIMITS.settle


def test_a_task_that_is_not_on_a_host_cannot_be_out_of_reach() -> None:
    assert Story().then(reachable=False).last.verdict is Verdict.STALE


def test_when_a_host_goes_what_never_started_goes_elsewhere_and_the_rest_may_go_on() -> None:
    waiting, running = Story().claimed(), Story().running()

    for story in (waiting, running):
        story.record = story._keep(tasks.apply(story.spec, story.record, tasks.host_gone(story.record, T0)))

    assert (waiting.record.status, waiting.record.host_id) == (S.QUEUED, None)
    assert (running.record.status, running.record.disconnected_since) == (S.RUNNING, T0)


# --- any sequence -------------------------------------------------------------------------------------

causes = st.sampled_from([None, *Cause])
changes = st.fixed_dictionaries(
    {
        "cause": causes,
        "by_host": st.booleans(),
        "host": st.sampled_from(["h1", "h2"]),
        "attempt": st.integers(-1, 1),
        "span": st.none() | st.tuples(st.integers(1, 6), st.integers(0, 3)),
        "reason": st.sampled_from([None, "no_free_slot", "cwd_missing", "idle_timeout", "their_own_code"]),
        "reachable": st.sampled_from([None, None, True, False]),
        "accepted": st.booleans(),
        "later": st.integers(0, 2_000_000),
        "events": st.integers(0, 2),
    }
)


@given(st.lists(changes | st.just("look"), max_size=25))
def test_whatever_happens_a_record_is_sound(happenings: list[Any]) -> None:
    spec = a_spec(queue_ttl=3_000_000)
    applied = tasks.new("t", "s", spec, latest=0)
    record = applied.record
    log = list(applied.events)
    now = T0
    for happening in happenings:
        if happening == "look":
            now = max(now, record.deadline_at or now)
            looked = tasks.overdue(record, now)
            if looked is None:
                assert record.deadline_at is None
                continue
            change = looked
        else:
            now += happening["later"]
            by_host = happening["by_host"]
            change = Change(
                task_id="t",
                now=now,
                cause=happening["cause"],
                attempt=record.attempt + happening["attempt"] if by_host else None,
                host_id=happening["host"] if by_host or happening["cause"] is Cause.CLAIM else None,
                span=(happening["span"][0], sum(happening["span"])) if happening["span"] and by_host else None,
                reason=happening["reason"],
                reachable=None if by_host else happening["reachable"],
                accepted=happening["accepted"],
                accept_by=now + 10_000,
                events=(b'{"type":"log","timestamp":1}',) * happening["events"] if by_host else (),
            )
        before = record
        applied = tasks.apply(spec, before, change)
        record = applied.record
        log += applied.events

        if applied.verdict is not Verdict.TAKEN:
            assert record is before
            assert applied.events == ()
            continue
        if happening == "look":
            # Never looked at twice for the same thing; a task back in the queue may be out of its time there too.
            assert record.deadline_at is None or record.deadline_at > now or record.status is S.QUEUED
        final = record.status in FINAL
        assert (record.deadline_at is None) is final
        assert (record.ended_at is not None) is final
        if final:
            assert (record.reason is None) is (record.status is S.COMPLETED)
            assert record.disconnected_since is None
        if record.status in ON_A_HOST:
            assert record.host_id is not None
            assert record.assigned_at is not None
            assert record.accepted or record.status is not S.RUNNING
        if record.status is S.QUEUED:
            assert (record.host_id, record.accepted, record.heard, record.disconnected_since) == (None, False, 0, None)
        assert (record.status is S.STOPPING) <= (record.stop_requested_at is not None)
        assert record.attempt == before.attempt + (change.cause is Cause.CLAIM)
        assert record.last_event_id == len(log)
        assert (record.rv > before.rv) is (record != before)
        statuses = [msgspec.json.decode(body) for body in applied.events]
        own = [event["data"]["status"] for event in statuses if event["type"] == "status"]
        assert len(own) == len(applied.own)
        if record.status is not before.status:
            assert own[-1] == record.status
            assert applied.shown


# --- what people see ----------------------------------------------------------------------------------


def test_values_of_the_environment_are_not_shown() -> None:
    story = Story(env={"KEY": "secret"})

    assert tasks.show(story.spec, story.record, full_prompt=True).env == {"KEY": "***"}


def test_equal_wishes_have_equal_requirements_whatever_the_order_of_their_labels() -> None:
    one = a_spec(labels=LabelRules(require={"a": "1", "b": "2"}, avoid={"c": "3"}, prefer={"x": "y"}))
    two = a_spec(labels=LabelRules(require={"b": "2", "a": "1"}, avoid={"c": "3"}))

    assert tasks.requirement(one, ("h2", "h1")) == tasks.requirement(two, ("h1", "h2"))


# --- last words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("run_timeout", Cause.TIMED_OUT),
        ("idle_timeout", Cause.TIMED_OUT),
        ("start_timeout", Cause.TIMED_OUT),
        ("aborted_by_user", Cause.STOPPED),
        ("host_restarted", Cause.HOST_LOST),
        ("supervisor_died", Cause.HOST_LOST),
        ("lease_expired", Cause.HOST_LOST),
        ("exit_nonzero", Cause.FAILED),
        ("a_code_of_their_own", Cause.FAILED),
        (None, Cause.FAILED),
    ],
)
def test_a_failure_is_sorted_by_its_reason(reason: str | None, cause: Cause) -> None:
    assert outcome.of_failed(reason) is cause


def test_a_completion_that_proves_the_contrary_is_a_failure() -> None:
    assert outcome.of_completed(TaskResult(success=True)) == (Cause.SUCCEEDED, None)
    assert outcome.of_completed(TaskResult(success=True, exit_code=0)) == (Cause.SUCCEEDED, None)
    assert outcome.of_completed(TaskResult(success=True, exit_code=3)) == (Cause.FAILED, Reason.EXIT_NONZERO)
    assert outcome.of_completed(TaskResult(success=False)) == (Cause.FAILED, Reason.AGENT_ERROR)
