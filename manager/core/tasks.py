"""A task as the manager keeps it: what was asked (never changes), how it stands (changes by `apply` alone).

`apply(spec, record, change)` is the one place where a record changes; every store calls it inside its own
transaction, writes what it returns, and so all stores agree. No clock, no database: `now` comes with the change.

Invariants: `status` moves only by `lifecycle.advance`; every change of status writes one `status` event; a live
state has a `deadline_at` and a final one has none; a final state has a `reason` (a completed one: none needed).

The overlay `disconnected_since` is no state: the host of a live attempt is out of reach since then. It begins with
a Change of `reachable=False` and ends with `reachable=True`, or with any report of the host.
"""

import math
from enum import Enum, auto
from typing import Any, Final

import msgspec

from manager.core.lifecycle import ON_A_HOST, Cause, IllegalTransition, advance
from manager.core.scheduling import Requirement
from shared_types.delivery import Heard, Inbox
from shared_types.events import EventType
from shared_types.tasks import FINAL, LabelRules, PermissionMode, Reason, Task, TaskResult, TaskState

SHORT_PROMPT: Final = 1_000  # characters of a prompt in lists
MOST_NAMED: Final = 10  # hosts in a sentence

# Refusals that pass by themselves: the host is not remembered as one that will not run this task.
PASSING: Final = frozenset({Reason.NO_FREE_SLOT, Reason.DRAINING, Reason.DISK_FULL, Reason.LEASE_EXPIRED})
# How far the clocks of a host and of the manager may be apart, of what they measure: each is right to 1/1000, and the
# manager's may go faster by 1/256, when the time of day was set (runtime/clock.py).
CLOCKS_DIFFER: Final = 6 / 1000
_TIMES: Final = frozenset({Reason.RUN_TIMEOUT, Reason.IDLE_TIMEOUT, Reason.START_TIMEOUT})


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long each live state may last before somebody must act; ms. docs/lifecycle.md says who."""

    start: int = 120_000  # from accepted to started
    longest_run: int = 7 * 24 * 3600_000  # a task without a timeout of its own
    stop_grace: int = 10_000  # TERM to KILL
    kill_budget: int = 15_000
    margin: int = 5_000
    stop_give_up: int = 15 * 60_000  # a connected host that never says that the agent is gone
    host_ttl: int = 90_000  # silence that means death
    host_grace: int = 15 * 60_000  # how long an agent may go on without the manager

    @property
    def settle(self) -> int:
        """From KILL until the manager must have heard of it."""
        return self.kill_budget + self.margin

    @property
    def lost_after(self) -> int:
        return self.lost_after_of(self.host_grace)

    def lost_after_of(self, grace: int) -> int:
        """From the last acknowledged sign of life of a host until nothing runs there any more of a task that may go on
        for `grace` without a lease.
        """
        span = self.host_ttl + grace + self.kill_budget
        return span + max(self.margin, math.ceil(span * CLOCKS_DIFFER))


DEFAULT_LIMITS: Final = Limits()


class Spec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a person asked for. Written once."""

    prompt: str
    agent_type: str  # canonical name
    created_at: int
    cwd: str | None = None
    model: str | None = None
    env: dict[str, str] = {}
    timeout: int | None = None
    idle_timeout: int | None = None
    queue_ttl: int
    permission_mode: PermissionMode = PermissionMode.DEFAULT
    metadata: dict[str, Any] = {}
    pinned_host: str | None = None
    labels: LabelRules = LabelRules()
    priority: int = 5
    actor: str = ""
    trace_id: str = ""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How a task stands. `heard` is the last journal record taken of the current attempt."""

    id: str
    session_id: str
    status: TaskState
    updated_at: int
    rv: int = 1
    host_id: str | None = None
    attempt: int = 0
    uid: str = ""  # names the current attempt beyond doubt
    boot: str | None = None  # `bootId` of its host at the claim; while it is the same, the host knows what it began
    accepted: bool = False  # `task:start` may have been sent: the attempt may have started; see `doubted`
    leased: bool = False  # its host keeps leases: the agent is ended there when the host's is over and `grace` with it
    grace: int = 0  # as its host was told
    heard: int = 0
    reason: str | None = None  # of its end; of the last refusal while it is queued again
    detail: str | None = None
    result: TaskResult | None = None
    agent_session_id: str | None = None
    disconnected_since: int | None = None
    stop_requested_at: int | None = None
    stop_reason: str | None = None
    assigned_at: int | None = None
    started_at: int | None = None
    ended_at: int | None = None
    deadline_at: int | None = None
    refusals: dict[str, str] = {}  # host -> reason of those that will not run it
    first_event_id: int = 1
    last_event_id: int = 0
    asked_at: int = 0  # created or retried: its time in the queue counts from here

    @property
    def excluded_hosts(self) -> tuple[str, ...]:
        return tuple(self.refusals)


class Change(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Something that happened to a task, reported by its host or decided by the manager.

    A host's report names `attempt`, `host_id` and `generation` (its connection); it is taken only while all
    three are current. A report with `span` (first, last) is taken only if `first` is the next record.
    The manager's own changes have `attempt` None and speak of the task as it stands.
    `events` are bodies of AgentEvents, one line of JSON each.
    One that puts a host out of reach says when that gave its last acknowledged sign of life: `seen_at`.
    A claim also says `uid`, `boot` of its host, `leased` when that keeps leases, `accept_by`, and `accepted` for a host
    whose dialect has no acceptance; attempts up to `spent` came to nothing and are not counted again, for a host may
    know them.
    `kill` on an abort: no grace.
    """

    task_id: str
    now: int
    cause: Cause | None = None
    attempt: int | None = None
    host_id: str | None = None
    generation: int | None = None
    span: tuple[int, int] | None = None
    events: tuple[bytes, ...] = ()
    reason: str | None = None
    detail: str | None = None
    result: TaskResult | None = None
    agent_session_id: str | None = None
    reachable: bool | None = None
    seen_at: int | None = None
    kill: bool = False
    uid: str = ""
    boot: str | None = None
    leased: bool = False
    accept_by: int | None = None
    accepted: bool = False
    spent: int = 0


class Verdict(Enum):
    TAKEN = auto()
    AGAIN = auto()  # these records were taken before: nothing changed, confirm again
    GAP = auto()  # records are missing before these: nothing changed
    STALE = auto()  # not the current attempt, host or connection: nothing changed
    ILLEGAL = auto()  # the cause cannot follow the state: nothing changed
    UNKNOWN = auto()  # no such task


class Applied(msgspec.Struct, frozen=True, gc=False):
    """`record` as it stands now; `events` are the bodies to append, of which those in `own` (indexes) are the
    manager's own. `shown` is true when people see another status or overlay than before.
    """

    verdict: Verdict
    record: Record
    events: tuple[bytes, ...] = ()
    own: frozenset[int] = frozenset()
    shown: bool = False


_encode = msgspec.json.Encoder().encode
_NONE_OWN: Final[frozenset[int]] = frozenset()


def new(task_id: str, session_id: str, spec: Spec, *, latest: int) -> Applied:
    """A task that was just asked for. `latest` is the newest event id of its session."""
    record = Record(
        id=task_id,
        session_id=session_id,
        status=TaskState.QUEUED,
        updated_at=spec.created_at,
        asked_at=spec.created_at,
        deadline_at=spec.created_at + spec.queue_ttl,
        first_event_id=latest + 1,
        last_event_id=latest + 1,
    )
    body = _status_event(record, spec.created_at, "Waits for a host")
    return Applied(Verdict.TAKEN, record, (body,), frozenset({0}), True)


def grace_of(spec: Spec, limits: Limits) -> int:
    """How long the agent of this task may go on after the lease of its host, in ms."""
    return limits.host_grace


def requirement(spec: Spec, excluded: tuple[str, ...] = ()) -> Requirement:
    """What a host must be to run it."""
    return Requirement(
        agent=spec.agent_type,
        host=spec.pinned_host,
        require=tuple(sorted(spec.labels.require.items())),
        avoid=tuple(sorted(spec.labels.avoid.items())),
        excluded=tuple(sorted(excluded)),
    )


def judge(record: Record, change: Change) -> Verdict:
    """Whether the change speaks of the attempt as it stands, and of its next journal records.

    A report said again after the end is AGAIN, so that its sender gets its confirmation and lets go.
    """
    if change.attempt is not None and change.attempt != record.attempt:
        return Verdict.STALE
    if change.host_id is not None and change.cause is not Cause.CLAIM and change.host_id != record.host_id:
        return Verdict.STALE
    if change.span is not None:
        heard = Inbox(record.heard).judge(*change.span)
        if heard is Heard.AGAIN:
            return Verdict.AGAIN
        if heard is Heard.GAP:
            return Verdict.GAP if record.status in ON_A_HOST else Verdict.STALE
    if change.cause is Cause.NEVER_STARTED and change.attempt is None and record.accepted:
        return Verdict.STALE  # whoever wants it looked at the record as it was before its host was ready
    if (change.attempt is not None or change.reachable is not None) and record.status not in ON_A_HOST:
        return Verdict.STALE
    return Verdict.TAKEN


def apply(
    spec: Spec, record: Record, change: Change, *, latest: int | None = None, limits: Limits = DEFAULT_LIMITS
) -> Applied:
    """What becomes of the task. `latest` is the newest event id of its session; without it, of the task.

    The store has checked the generation. Nothing but TAKEN changes anything.
    """
    verdict = judge(record, change)
    if verdict is not Verdict.TAKEN:
        return Applied(verdict, record)
    cause = _meant(record, change)
    try:
        state = record.status if cause is None else advance(record.status, cause)
    except IllegalTransition:
        return Applied(Verdict.ILLEGAL, record)

    latest = record.last_event_id if latest is None else latest
    events: tuple[bytes, ...] = change.events
    own = _NONE_OWN
    shown = False
    fields: dict[str, Any] = {}
    if change.span is not None:
        fields["heard"] = change.span[1]

    # A report proves that its host is within reach.
    reachable = True if change.attempt is not None else change.reachable
    if reachable is not None and reachable is not (record.disconnected_since is None):
        record = _reached(spec, record, change, reachable, limits)
        events = (_status_event(record, change.now, _reach_sentence(record)), *events)
        own = frozenset({0})
        shown = True
        fields["updated_at"] = change.now
    elif reachable is False and record.leased and _lost_at(record, change, limits) > (record.deadline_at or 0):
        # Out of reach as before, but its lease was prolonged, or may have been: a manager that starts cannot know.
        fields["deadline_at"] = _lost_at(record, change, limits)

    if cause is not None:
        fields |= _consequences(spec, record, change, cause, state, limits)
        if state is not record.status:
            fields["status"] = state
            after = msgspec.structs.replace(record, **fields)
            own |= {len(events)}
            events = (*events, _status_event(after, change.now, _sentence(record, after, cause)))
            shown = True

    if not fields and not events:
        return Applied(Verdict.TAKEN, record)
    fields["rv"] = record.rv + 1
    fields["updated_at"] = change.now
    if events:
        fields["last_event_id"] = latest + len(events)
    return Applied(Verdict.TAKEN, msgspec.structs.replace(record, **fields), events, own, shown)


def _meant(record: Record, change: Change) -> Cause | None:
    """A run that was stopped because its time was over has timed out, whatever word its host has for that. One that
    was to be stopped, and that its host ended with its lease, is stopped.
    """
    cause = change.cause
    if record.status is TaskState.STOPPING and cause is Cause.HOST_LOST and change.reason == Reason.LEASE_EXPIRED:
        cause = Cause.STOPPED
    stopped = (Cause.STOPPED, Cause.FAILED, Cause.REFUSED, Cause.NEVER_STARTED)
    if record.status is TaskState.STOPPING and record.stop_reason in _TIMES and cause in stopped:
        return Cause.TIMED_OUT
    return cause


def _consequences(
    spec: Spec, record: Record, change: Change, cause: Cause, state: TaskState, limits: Limits
) -> dict[str, Any]:
    """The fields that this cause changes on the way to `state`, the status itself aside."""
    if cause is Cause.CLAIM:
        return _claimed(spec, record, change, limits)
    if cause is Cause.RETRY:
        return _NOT_ON_A_HOST | {
            "result": None,
            "agent_session_id": None,
            "reason": None,
            "detail": None,
            "ended_at": None,
            "refusals": {},
            "asked_at": change.now,
            "deadline_at": change.now + spec.queue_ttl,
        }
    if state is TaskState.QUEUED:
        return _NOT_ON_A_HOST | {
            "reason": change.reason,
            "detail": change.detail,
            "refusals": _refusals(record, change, cause),
            "deadline_at": record.asked_at + spec.queue_ttl,
        }
    if state in FINAL:
        return _ended(record, change, cause, state)
    if cause in (Cause.ABORT, Cause.OVERDUE):
        return _told_to_stop(record, change, cause, limits)
    fields: dict[str, Any] = {}
    if cause is Cause.ACCEPTED and state is TaskState.ASSIGNED and not record.accepted:
        fields["accepted"] = True
        fields["deadline_at"] = change.now + limits.start
    if cause is Cause.STARTED:
        if record.started_at is None:
            fields["started_at"] = change.now
            fields["accepted"] = True
            if state is TaskState.RUNNING:
                fields["deadline_at"] = _run_until(spec, change.now, limits)
        if change.agent_session_id and change.agent_session_id != record.agent_session_id:
            fields["agent_session_id"] = change.agent_session_id
    return fields


_NOT_ON_A_HOST: Final[dict[str, Any]] = {
    "host_id": None,
    "uid": "",
    "boot": None,
    "accepted": False,
    "leased": False,
    "grace": 0,
    "heard": 0,
    "disconnected_since": None,
    "stop_requested_at": None,
    "stop_reason": None,
    "assigned_at": None,
    "started_at": None,
}


def _claimed(spec: Spec, record: Record, change: Change, limits: Limits) -> dict[str, Any]:
    return {
        "host_id": change.host_id,
        "attempt": max(record.attempt, change.spent) + 1,
        "uid": change.uid,
        "boot": change.boot,
        "accepted": change.accepted,
        "leased": change.leased,
        "grace": grace_of(spec, limits),
        "heard": 0,
        "reason": None,
        "detail": None,
        "assigned_at": change.now,
        "deadline_at": change.now + limits.start if change.accepted or change.accept_by is None else change.accept_by,
    }


def _refusals(record: Record, change: Change, cause: Cause) -> dict[str, str]:
    """Silence and a passing lack of room are no refusal of this task."""
    host = record.host_id
    if cause is not Cause.REFUSED or change.reason in PASSING or host is None or host in record.refusals:
        return record.refusals
    return {**record.refusals, host: change.reason or Reason.REFUSED_EVERYWHERE}


def _told_to_stop(record: Record, change: Change, cause: Cause, limits: Limits) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if record.stop_requested_at is None:
        default = Reason.ABORTED_BY_USER if cause is Cause.ABORT else Reason.RUN_TIMEOUT
        fields["stop_requested_at"] = change.now
        fields["stop_reason"] = change.reason or default
        fields["detail"] = change.detail
    if record.disconnected_since is None:
        until = change.now + limits.settle + (0 if change.kill else limits.stop_grace)
        if cause is Cause.ABORT and record.status is TaskState.STOPPING and record.deadline_at is not None:
            until = min(until, record.deadline_at)  # wishing it again and again must not keep the watchdog away
        fields["deadline_at"] = until
    return fields


_REASONS: Final = {
    Cause.FAILED: Reason.AGENT_ERROR,
    Cause.TIMED_OUT: Reason.RUN_TIMEOUT,
    Cause.STOPPED: Reason.ABORTED_BY_USER,
    Cause.ABORT: Reason.ABORTED_BY_USER,
    Cause.REFUSED: Reason.ABORTED_BY_USER,
    Cause.NEVER_STARTED: Reason.ABORTED_BY_USER,
    Cause.HOST_LOST: Reason.HOST_LOST,
    Cause.EXPIRE: Reason.QUEUE_EXPIRED,
    Cause.GIVE_UP: Reason.REFUSED_EVERYWHERE,
}


def _ended(record: Record, change: Change, cause: Cause, state: TaskState) -> dict[str, Any]:
    reason: str | None
    if state is TaskState.COMPLETED:
        reason = None
    elif state is TaskState.ABORTED and record.stop_reason is not None:
        reason = record.stop_reason  # it ended because somebody wished so, whatever broke on the way down
    elif state is TaskState.TIMEOUT:
        told = record.stop_reason if record.stop_reason in _TIMES else None
        reason = change.reason if change.reason in _TIMES else told or Reason.RUN_TIMEOUT
    else:
        reason = change.reason or _REASONS[cause]
    return {
        "reason": reason,
        "detail": None if state is TaskState.COMPLETED else change.detail or record.detail,
        "result": change.result,
        "agent_session_id": change.agent_session_id or record.agent_session_id,
        "disconnected_since": None,
        "ended_at": change.now,
        "deadline_at": None,
    }


def _run_until(spec: Spec, started_at: int, limits: Limits) -> int:
    return started_at + (spec.timeout or limits.longest_run) + limits.settle


def _reached(spec: Spec, record: Record, change: Change, reachable: bool, limits: Limits) -> Record:
    """The record with the overlay put on or taken off, and the deadline that belongs to it."""
    now = change.now
    if not reachable:
        return msgspec.structs.replace(record, disconnected_since=now, deadline_at=_lost_at(record, change, limits))
    until = _due_again(spec, record, now, limits)
    return msgspec.structs.replace(record, disconnected_since=None, deadline_at=until)


def _lost_at(record: Record, change: Change, limits: Limits) -> int:
    """When nothing of it runs any more where its host keeps leases; elsewhere, when we stop hoping."""
    if record.leased:
        return (change.now if change.seen_at is None else change.seen_at) + limits.lost_after_of(record.grace)
    return change.now + limits.lost_after


def _due_again(spec: Spec, record: Record, now: int, limits: Limits) -> int:
    """The deadline of a task whose host is back. It may have ended while nobody could hear it, so there is time to say
    so, even beyond the time it had in the first place: but once, or a host that comes and goes puts it off for ever.
    """
    if record.status is TaskState.STOPPING:
        had = (record.stop_requested_at or now) + limits.stop_give_up
        until = now + limits.stop_grace + limits.settle
    elif record.started_at is not None:
        had = _run_until(spec, record.started_at, limits)
        until = max(had, now + limits.settle)
    else:
        had = (record.assigned_at or now) + limits.start
        until = now + limits.start
    was_here_after = record.disconnected_since is not None and record.disconnected_since >= had
    return now if was_here_after else until


# --- what the manager decides by itself ---------------------------------------------------------------


def overdue(record: Record, now: int, limits: Limits = DEFAULT_LIMITS) -> Change | None:
    """What to do about a task whose deadline has passed. Applied, it always leaves a later deadline or none.

    After a change to STOPPING, and after OVERDUE on a stopping task, the host is to be told (again).
    """
    if record.deadline_at is None or now < record.deadline_at:
        return None

    def change(cause: Cause, reason: Reason, detail: str) -> Change:
        # With the host, so that it changes nothing if the task went elsewhere in the meantime.
        host_id = None if record.status is TaskState.QUEUED else record.host_id
        return Change(task_id=record.id, now=now, cause=cause, host_id=host_id, reason=reason, detail=detail)

    if record.status is TaskState.QUEUED:
        return change(Cause.EXPIRE, Reason.QUEUE_EXPIRED, "No host could take it before its time in the queue was over")
    if not record.accepted:
        detail = f"Host {record.host_id} did not get ready for it in time"
        return change(Cause.NEVER_STARTED, Reason.START_TIMEOUT, detail)
    if record.disconnected_since is not None:
        return change(Cause.HOST_LOST, Reason.HOST_LOST, f"Host {record.host_id} did not come back in time")
    if record.status is TaskState.STOPPING:
        asked = record.stop_requested_at or now
        if now >= asked + limits.stop_give_up:
            detail = f"Host {record.host_id} is connected but never said that the agent ended"
            return change(Cause.HOST_LOST, Reason.HOST_LOST, detail)
        return change(Cause.OVERDUE, Reason.RUN_TIMEOUT, "")
    if record.status is TaskState.ASSIGNED:
        detail = f"Host {record.host_id} did not say in time that the agent runs"
        return change(Cause.OVERDUE, Reason.START_TIMEOUT, detail)
    return change(Cause.OVERDUE, Reason.RUN_TIMEOUT, "It ran longer than it may")


def host_gone(record: Record, now: int, seen_at: int | None = None) -> Change:
    """What it means for a task that the connection of its host ended, whose last acknowledged sign of life was at
    `seen_at` (None: now): an attempt that was not accepted has not
    started (`task:start` was never said) and may go elsewhere at once; any other may go on out of our sight.
    """
    if record.accepted:
        return Change(task_id=record.id, now=now, host_id=record.host_id, reachable=False, seen_at=seen_at)
    detail = f"Host {record.host_id} went away before it was ready"
    return Change(task_id=record.id, now=now, host_id=record.host_id, cause=Cause.NEVER_STARTED, detail=detail)


def given_up(record: Record, now: int) -> Change:
    """No known host is left that has not refused it. When all gave the same reason, that is the reason of its end."""
    reasons = set(record.refusals.values())
    reason = reasons.pop() if len(reasons) == 1 else Reason.REFUSED_EVERYWHERE
    last = record.detail or record.reason or "no reason given"
    named = [f"{host} ({why})" for host, why in record.refusals.items()]
    if len(named) == 1:
        detail = f"Host {record.excluded_hosts[0]} refused it, and no other could run it: {last}"
    else:
        more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
        detail = f"Every host that could run it refused: {', '.join(named[:MOST_NAMED])}{more}; the last said: {last}"
    return Change(task_id=record.id, now=now, cause=Cause.GIVE_UP, reason=reason, detail=detail)


def doubted(record: Record, limits: Limits = DEFAULT_LIMITS) -> Record:
    """An assigned task as it was found after a crash, or after a commit that failed. `task:start` is said as soon as
    its claim is durable, and that its host is ready may not have been: so it may have started.
    """
    if record.status is not TaskState.ASSIGNED or record.accepted:
        return record
    until = (record.assigned_at or 0) + limits.start  # as if it was accepted at once
    return msgspec.structs.replace(record, accepted=True, deadline_at=max(record.deadline_at or 0, until))


# --- what people see ----------------------------------------------------------------------------------


class _StatusData(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True, gc=False):
    status: TaskState
    reason: str | None = None
    host_id: str | None = None
    attempt: int = 0
    disconnected: bool | msgspec.UnsetType = msgspec.UNSET
    result: TaskResult | None = None


class _StatusEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """AgentEvent with typed data."""

    type: str
    timestamp: int
    content: str
    data: _StatusData


def _status_event(record: Record, now: int, sentence: str) -> bytes:
    live_host = record.status in ON_A_HOST
    return _encode(
        _StatusEvent(
            type=EventType.STATUS.value,
            timestamp=now,
            content=sentence.rstrip(". ") + ".",
            data=_StatusData(
                status=record.status,
                reason=record.reason or (record.stop_reason if live_host else None),
                host_id=record.host_id,
                attempt=record.attempt,
                disconnected=record.disconnected_since is not None if live_host else msgspec.UNSET,
                result=record.result,
            ),
        )
    )


def _reach_sentence(record: Record) -> str:
    if record.disconnected_since is None:
        return f"Host {record.host_id} is within reach again"
    return f"Host {record.host_id} is out of reach; the agent may go on there"


def _sentence(before: Record, after: Record, cause: Cause) -> str:
    """Why, for people."""
    host = before.host_id or after.host_id
    why = (after.detail or after.reason or "no reason given").rstrip(". ")
    match after.status:
        case TaskState.QUEUED:
            match cause:
                case Cause.REFUSED:
                    return f"Host {host} refused it ({why}); waits for a host"
                case Cause.NEVER_STARTED:
                    return f"Host {host} did not start it ({why}); waits for a host"
                case _:
                    return "Another attempt is asked for; waits for a host"
        case TaskState.ASSIGNED:
            return f"Given to host {host} as attempt {after.attempt}"
        case TaskState.RUNNING:
            return f"Runs on host {host}"
        case TaskState.STOPPING:
            return f"Told to stop ({after.detail or after.stop_reason})"
        case TaskState.COMPLETED:
            return "Completed"
        case state:
            return f"{state.value.capitalize()}: {why}"


def show(spec: Spec, record: Record, *, full_prompt: bool) -> Task:
    """The task as the API shows it. Values of its environment stay hidden."""
    return Task(
        id=record.id,
        session_id=record.session_id,
        status=record.status,
        prompt=spec.prompt if full_prompt else spec.prompt[:SHORT_PROMPT],
        agent_type=spec.agent_type,
        created_at=spec.created_at,
        updated_at=record.updated_at,
        rv=record.rv,
        priority=spec.priority,
        cwd=spec.cwd,
        model=spec.model,
        env=dict.fromkeys(spec.env, "***"),
        timeout=spec.timeout,
        idle_timeout=spec.idle_timeout,
        queue_ttl=spec.queue_ttl,
        permission_mode=spec.permission_mode,
        metadata=spec.metadata,
        pinned_host=spec.pinned_host,
        labels=spec.labels,
        host_id=record.host_id,
        attempt=record.attempt,
        reason=record.reason,
        detail=record.detail,
        result=record.result,
        agent_session_id=record.agent_session_id,
        disconnected_since=record.disconnected_since,
        stop_requested_at=record.stop_requested_at,
        assigned_at=record.assigned_at,
        started_at=record.started_at,
        ended_at=record.ended_at,
        deadline_at=record.deadline_at,
        excluded_hosts=record.excluded_hosts,
        actor=spec.actor,
        trace_id=spec.trace_id,
        first_event_id=record.first_event_id,
        last_event_id=record.last_event_id,
    )
