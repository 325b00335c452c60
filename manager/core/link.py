"""The manager's side of one host's conversation, without a socket and without a store.

    welcome(register, records)    who may go on, what to change, what to say first
    hear(message, now)            one thing the host said -> the Change it proposes
    settle(changes, taken)        what became of them -> what to say now that it is committed
    execute(claim, cwd), stop(...) what to say to give or to end an attempt

Two dialects. Full (`protocol: 2`): every word names an attempt, journal records are confirmed after the commit, and
an attempt starts in two steps (`task:accepted`, `task:start`). Base: words name only a task, nothing is
confirmed, `task:execute` means run it; events are taken in the order they arrive.

Invariant: nothing is confirmed before the change that says so is committed, and nothing is started before its claim is.
Invariant: a host that works on something we do not want is told to stop it, not merely ignored.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec

from manager.core import outcome
from manager.core.lifecycle import ON_A_HOST, Cause
from manager.core.tasks import Change, Record, Spec, Verdict
from shared_types.api import InputState
from shared_types.codec import Malformed
from shared_types.events import EventType
from shared_types.messages import (
    PROTOCOL,
    FromGateway,
    FromManager,
    GatewayConfig,
    Heartbeat,
    LeaseTerms,
    Register,
    Registered,
    Resume,
    RunningAttempt,
    TaskAbort,
    TaskAccepted,
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
from shared_types.tasks import PermissionMode, Reason, TaskRequest, TaskState

BASE: Final = 1
FULL: Final = PROTOCOL
MAX_NAME: Final = 128  # characters of a task id
MAX_DETAIL: Final = 2_000  # characters of what a host tells us about a failure

_encode = msgspec.json.Encoder().encode


class _Shape(msgspec.Struct):
    """As much of an event as must be right for everybody who reads it later. What `data` holds is not looked at."""

    type: str
    timestamp: int
    content: str | None = None
    data: dict[str, msgspec.Raw] | None = None


_shape: Final = msgspec.json.Decoder(_Shape)
_text: Final = msgspec.json.Decoder(str)
_REFUSED: Final = b'"refused"'


class Became(Protocol):
    """What a store says about one change (ports.Taken)."""

    @property
    def verdict(self) -> Verdict: ...

    @property
    def heard(self) -> int: ...

    @property
    def record(self) -> Record | None: ...


class Settled(msgspec.Struct, kw_only=True):
    """What follows from a commit."""

    say: list[FromManager] = []
    acks: dict[tuple[str, int], int] = {}  # (task, attempt) -> the last record that is committed
    started: list[Record] = []  # the agent runs now: it can take what was put by for it
    inputs: list[tuple[str, str, InputState]] = []  # (task, input id): the agent has it, or will not get it
    verdicts: dict[Verdict, int] = {}  # of changes that were not taken, for counting
    is_fenced: bool = False  # a newer connection of this host may write, this one may not
    is_broken: bool = False  # records are missing and the host did not say them when it was told


class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `register`, the changes that go with it, and what to say after both."""

    registered: Registered
    changes: tuple[Change, ...] = ()
    say: tuple[FromManager, ...] = ()
    running: tuple[str, ...] = ()  # tasks whose agent may run there: what was put by for it can be said


def agreed_dialect(register: Register) -> int:
    """The best that both sides speak.

    >>> from shared_types.hosts import HostCapabilities
    >>> caps = HostCapabilities(name="h", agents=(), max_concurrent=1, cwd="/")
    >>> [agreed_dialect(Register(host_id="h", capabilities=caps, protocol=n)) for n in (0, 1, 2, 3)]
    [1, 1, 2, 2]
    """
    return FULL if register.protocol >= FULL else BASE


def keeps_leases(register: Register) -> bool:
    """Whether the keepers of this gateway end their agents by themselves when its lease is over."""
    return agreed_dialect(register) == FULL and register.sent is not None


def objection(spec: Spec, dialect: int) -> str | None:
    """Why a task must not be given to a host of this dialect; None when it may.

    The base dialect has no word for permission modes: a mode that holds an agent back would be silently lost.
    """
    if dialect == BASE and spec.permission_mode in (PermissionMode.PLAN, PermissionMode.DENY):
        return f"its gateway speaks the base dialect and cannot keep to permission mode {spec.permission_mode}"
    return None


class Link:
    """What one connection must remember. `generation` fences everything it proposes."""

    __slots__ = ("_attempts", "_gaps", "_inputs", "_retorts", "_strays", "dialect", "generation", "host_id")

    def __init__(self, host_id: str, generation: int, dialect: int) -> None:
        self.host_id = host_id
        self.generation = generation
        self.dialect = dialect
        self._attempts: dict[str, int] = {}  # base: which attempt a task's words are about
        self._inputs: list[tuple[tuple[str, int, int], str, InputState]] = []  # (task, attempt, record): not settled
        self._gaps: dict[tuple[str, int], int] = {}
        self._retorts: list[FromManager] = []
        self._strays: dict[str, None] = {}

    def __repr__(self) -> str:
        return f"<Link {self.host_id} generation={self.generation} dialect={self.dialect}>"

    # --- at the beginning -----------------------------------------------------------------------------

    def welcome(
        self,
        register: Register,
        records: Sequence[Record],
        now: int,
        *,
        is_same_instance: bool,
        heartbeat_interval: int | None = None,
        config: GatewayConfig | None = None,
        lease: LeaseTerms | None = None,
    ) -> Welcome:
        """Compare what we believe with what the host reports. `records` hold its slots; `is_same_instance`: this
        gateway process is the one that we talked to last, so what it does not name it never began. Nor did another
        process under the same `boot_id`: what a gateway begins it keeps on disk first. `lease` is for a host that keeps
        leases: that it is connected is written down by now.
        """
        if self.dialect == BASE:
            return self._welcome_base(records)
        reported = {(said.task_id, said.attempt): said for said in register.running}
        changes: list[Change] = []
        say: list[FromManager] = []
        running: list[str] = []
        resume: list[Resume] = []
        for record in records:
            said = reported.pop((record.id, record.attempt), None)
            if said is None or said.uid != record.uid:
                remembers = bool(record.boot) and record.boot == register.boot_id
                changes.append(self._missing(record, now, is_same_instance or remembers))
                if said is not None:
                    resume.append(_stop(said))
                continue
            resume.append(
                Resume(
                    task_id=record.id,
                    attempt=record.attempt,
                    acked_seq=record.heard,
                    verdict="keep",
                    started=record.accepted,
                )
            )
            if not record.accepted:
                changes.append(self._change(record, now, cause=Cause.ACCEPTED))
            elif record.disconnected_since is not None:
                changes.append(self._change(record, now, reachable=True))
            if record.stop_requested_at is not None:
                say.append(self.stop(record, reason=record.stop_reason))
            elif record.started_at is not None:
                running.append(record.id)
        resume += [_stop(said) for said in reported.values()]
        registered = Registered(
            ok=True,
            protocol=FULL,
            heartbeat_interval=heartbeat_interval,
            resume=tuple(resume),
            config=config,
            lease=lease if keeps_leases(register) else None,
        )
        return Welcome(registered=registered, changes=tuple(changes), say=tuple(say), running=tuple(running))

    def _welcome_base(self, records: Sequence[Record]) -> Welcome:
        """It cannot say what it still runs, so we wait: whatever it says of a task it had is taken as it comes,
        and the deadline of the lost decides about the rest.
        """
        self._attempts = {record.id: record.attempt for record in records}
        stopping = [record for record in records if record.stop_requested_at is not None]
        running = [record.id for record in records if record.started_at is not None and record not in stopping]
        return Welcome(
            registered=Registered(ok=True),
            say=tuple(self.stop(record, reason=record.stop_reason) for record in stopping),
            running=tuple(running),
        )

    def _missing(self, record: Record, now: int, remembers: bool) -> Change:
        """We believe that the host has it; the host does not name it. `remembers`: it would know what it began."""
        never_heard_of = record.heard == 0 and record.started_at is None
        if not record.accepted or (remembers and never_heard_of):
            detail = f"Host {self.host_id} came back without it; it was not started"
            return self._change(record, now, cause=Cause.NEVER_STARTED, detail=detail)
        detail = f"Host {self.host_id} came back and no longer knows it"
        return self._change(record, now, cause=Cause.HOST_LOST, reason=Reason.HOST_RESTARTED, detail=detail)

    def _change(self, record: Record, now: int, **fields: Any) -> Change:
        return Change(
            task_id=record.id,
            now=now,
            attempt=record.attempt,
            host_id=self.host_id,
            generation=self.generation,
            **fields,
        )

    # --- what to say ----------------------------------------------------------------------------------

    def execute(self, spec: Spec, record: Record, cwd: str) -> TaskExecute:
        """Give it this attempt. `cwd` is the host's own default, for a task that names none."""
        is_full = self.dialect == FULL
        if not is_full:
            self._attempts[record.id] = record.attempt
        request = TaskRequest(
            task_id=record.id,
            prompt=spec.prompt,
            cwd=spec.cwd or cwd,
            agent_type=spec.agent_type,
            model=spec.model,
            env=spec.env or None,
            timeout=spec.timeout,
            metadata=spec.metadata or None,
            permission_mode=spec.permission_mode if is_full else PermissionMode.DEFAULT,
            idle_timeout=spec.idle_timeout if is_full else None,
            grace=record.grace if record.leased else None,
        )
        if not is_full:
            return TaskExecute(task=request)
        return TaskExecute(task=request, attempt=record.attempt, uid=record.uid)

    def stop(self, record: Record, *, reason: str | None = None, kill: bool = False) -> TaskAbort:
        if self.dialect == BASE:
            return TaskAbort(task_id=record.id)
        return TaskAbort(task_id=record.id, attempt=record.attempt, reason=reason, grace_ms=0 if kill else None)

    def never_said(self, record: Record, now: int) -> Change:
        """The attempt was given to this host and did not reach the wire."""
        detail = f"Host {self.host_id} was not told of it"
        return self._change(record, now, cause=Cause.NEVER_STARTED, detail=detail)

    def input(self, task_id: str, input_id: str, content: str) -> TaskInput:
        return TaskInput(task_id=task_id, content=content, input_id=input_id if self.dialect == FULL else None)

    def retorts(self) -> list[FromManager]:
        """What to answer at once to what was heard and led to no change."""
        retorts, self._retorts = self._retorts, []
        return retorts

    # --- what was heard -------------------------------------------------------------------------------

    def hear(self, message: FromGateway, now: int) -> Change | None:
        """The change that the host proposes; None when there is nothing to change. Raises Malformed."""
        match message:
            case TaskEvents(task_id=task_id, attempt=attempt, first=first, last=last, events=events):
                if not 1 <= first <= last:
                    raise Malformed(f"task:events: records {first}..{last}")
                bodies = self._bodies(task_id, attempt, last, events)
                return self._reported(task_id, attempt, now, span=(first, last), events=bodies)
            case TaskEvent(task_id=task_id, attempt=attempt, seq=seq, event=event):
                if attempt is not None and seq is not None:
                    span = _one(seq)
                    bodies = self._bodies(task_id, attempt, seq, (event,))
                    return self._reported(task_id, attempt, now, span=span, events=bodies)
                return self._reported(task_id, attempt, now, events=(_recast(event, now),))
            case TaskStarted(task_id=task_id, attempt=attempt, session_id=session_id):
                return self._reported(task_id, attempt, now, cause=Cause.STARTED, agent_session_id=session_id or None)
            case TaskCompleted(task_id=task_id, attempt=attempt, seq=seq, result=result, events=events):
                cause, reason = outcome.of_completed(result)
                return self._reported(
                    task_id,
                    attempt,
                    now,
                    cause=cause,
                    reason=reason,
                    span=None if seq is None else _one(seq),
                    events=self._bodies(task_id, attempt, seq, events),
                    result=result,
                )
            case TaskFailed(task_id=task_id, attempt=attempt, seq=seq, events=events):
                return self._reported(
                    task_id,
                    attempt,
                    now,
                    cause=outcome.of_failed(message.reason),
                    reason=message.reason,
                    detail=_detail(message.error, message.details),
                    span=None if seq is None else _one(seq),
                    events=self._bodies(task_id, attempt, seq, events),
                    result=message.result,
                )
            case TaskAccepted(task_id=task_id, attempt=attempt):
                return self._reported(task_id, attempt, now, cause=Cause.ACCEPTED)
            case TaskRefused(task_id=task_id, attempt=attempt, reason=reason, details=details):
                return self._reported(
                    task_id, attempt, now, cause=Cause.REFUSED, reason=reason, detail=_detail(details or reason, None)
                )
            case Heartbeat() | Register():
                return None

    def _reported(self, task_id: str, attempt: int | None, now: int, **fields: Any) -> Change | None:
        if attempt is None:
            attempt = self._attempts.get(task_id)
            if attempt is None:
                self._stray(task_id)
                return None
        return Change(
            task_id=task_id, now=now, attempt=attempt, host_id=self.host_id, generation=self.generation, **fields
        )

    def _stray(self, task_id: str) -> None:
        """A base host speaks of a task that is not (or no longer) its own: it is to stop it, said once."""
        if len(task_id) > MAX_NAME:
            return  # no name of ours, and nothing to remember
        if task_id not in self._strays and len(self._strays) < 10_000:
            self._strays[task_id] = None
            self._retorts.append(TaskAbort(task_id=task_id))

    def _bodies(
        self, task_id: str, attempt: int | None, last: int | None, events: tuple[msgspec.Raw, ...]
    ) -> tuple[bytes, ...]:
        """The events as they came. Raises Malformed for one that readers could not read."""
        for event in events:
            try:
                shape = _shape.decode(event)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise Malformed(f"an event of {task_id[:64]}: {error}") from error
            if attempt is None or last is None:
                continue  # the base dialect has no names for inputs
            if shape.type == EventType.INPUT and shape.data is not None and "inputId" in shape.data:
                self._dealt_with((task_id, attempt, last), shape.data)
        return tuple(map(bytes, events))

    def _dealt_with(self, where: tuple[str, int, int], data: dict[str, msgspec.Raw]) -> None:
        state = InputState.REFUSED if bytes(data.get("state", b"")) == _REFUSED else InputState.TAKEN
        try:
            self._inputs.append((where, _text.decode(data["inputId"]), state))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Malformed(f"an input event of {where[0][:64]}: {error}") from error

    # --- what became of it ----------------------------------------------------------------------------

    def settle(self, changes: Iterable[Change], taken: Iterable[Became]) -> Settled:
        """`taken` answers `changes` one by one. Nothing of it may be said before the commit."""
        settled = Settled(say=[], acks={}, started=[], inputs=[], verdicts={})
        for change, became in zip(changes, taken, strict=True):
            verdict = became.verdict
            if self._inputs:
                self._settle_inputs(settled, change, verdict)
            if verdict is Verdict.TAKEN:
                assert became.record is not None
                self._settle_taken(settled, change, became.record, became.heard)
                continue
            settled.verdicts[verdict] = settled.verdicts.get(verdict, 0) + 1
            if verdict is Verdict.AGAIN:
                self._ack(settled, change, became.heard)
            elif verdict is Verdict.GAP:
                self._settle_gap(settled, change, became.heard)
            elif verdict in (Verdict.STALE, Verdict.UNKNOWN):
                self._settle_stale(settled, change, became.record)
        return settled

    def _settle_inputs(self, settled: Settled, change: Change, verdict: Verdict) -> None:
        """They stand in the order of the changes. What a stale report says of inputs is not believed either."""
        if change.span is None or change.attempt is None:
            return
        where = (change.task_id, change.attempt, change.span[1])
        while self._inputs and self._inputs[0][0] == where:
            _, input_id, state = self._inputs.pop(0)
            if verdict in (Verdict.TAKEN, Verdict.AGAIN):
                settled.inputs.append((change.task_id, input_id, state))

    def _settle_taken(self, settled: Settled, change: Change, record: Record, heard: int) -> None:
        self._ack(settled, change, heard)
        if change.cause is Cause.ACCEPTED:
            if record.status is TaskState.ASSIGNED:
                settled.say.append(TaskStart(task_id=record.id, attempt=record.attempt))
            elif record.status is TaskState.STOPPING:
                settled.say.append(self.stop(record, reason=record.stop_reason))
        elif change.cause is Cause.STARTED and record.status is TaskState.RUNNING:
            settled.started.append(record)
        if self._attempts and record.status not in ON_A_HOST:
            self._attempts.pop(record.id, None)

    def _ack(self, settled: Settled, change: Change, heard: int) -> None:
        if change.span is not None and change.attempt is not None and self.dialect == FULL:
            settled.acks[change.task_id, change.attempt] = heard
            if self._gaps:
                self._gaps.pop((change.task_id, change.attempt), None)

    def _settle_gap(self, settled: Settled, change: Change, heard: int) -> None:
        """Tell it where we are. A host that goes on regardless must begin again, on a fresh connection."""
        assert change.attempt is not None
        where = (change.task_id, change.attempt)
        if where in settled.acks:
            return  # the rest of what was on its way when we told it
        settled.acks[where] = heard
        if self._gaps.get(where) == heard:
            settled.is_broken = True
        self._gaps[where] = heard

    def _settle_stale(self, settled: Settled, change: Change, record: Record | None) -> None:
        is_current = (
            record is not None
            and record.status in ON_A_HOST
            and record.attempt == change.attempt
            and record.host_id == self.host_id
        )
        if is_current:
            settled.is_fenced = True  # the attempt is right, so it is this connection that is not
        elif self.dialect == BASE:
            self._attempts.pop(change.task_id, None)
            if change.cause not in _ENDS:
                settled.say.append(TaskAbort(task_id=change.task_id))
        elif change.cause in _ENDS:
            if change.span is not None and change.attempt is not None:
                settled.acks[change.task_id, change.attempt] = change.span[1]  # nothing runs there: it may let go
        else:
            stop = TaskAbort(task_id=change.task_id, attempt=change.attempt, reason="stale")
            if stop not in settled.say:
                settled.say.append(stop)


_ENDS: Final = frozenset(
    {
        Cause.SUCCEEDED,
        Cause.FAILED,
        Cause.TIMED_OUT,
        Cause.STOPPED,
        Cause.HOST_LOST,
        Cause.REFUSED,
        Cause.NEVER_STARTED,
    }
)


def _stop(said: RunningAttempt) -> Resume:
    return Resume(task_id=said.task_id, attempt=said.attempt, acked_seq=said.seq, verdict="stop")


def _one(seq: int) -> tuple[int, int]:
    if seq < 1:
        raise Malformed(f"seq {seq}: records count from 1")
    return (seq, seq)


def _detail(error: str, details: Any) -> str:
    """What a host says about a failure, as one text of bounded length."""
    text = error.strip()
    if details is not None and (more := _in_words(details)):
        text = f"{text.rstrip('.')}: {more}" if text else more
    return text[:MAX_DETAIL]


def _in_words(details: Any) -> str:
    if isinstance(details, str):
        return details.strip()
    try:
        return _encode(details).decode()
    except RecursionError:  # what could just be read is too deep to be written
        return "details that are nested too deeply"


def _recast(event: msgspec.Raw, now: int) -> bytes:
    """An event of the base dialect as ours: one line, with a timestamp, whatever else it holds kept.

    >>> _recast(msgspec.Raw(b'{"type": "log",\\n "content": 5, "more": true}'), 7)
    b'{"type":"log","content":"5","more":true,"timestamp":7}'
    """
    try:
        fields = msgspec.json.decode(event)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"task:event: {error}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("type"), str):
        raise Malformed("task:event: an event is an object with a type")
    content, data, timestamp = fields.get("content"), fields.get("data"), fields.get("timestamp")
    if content is not None and not isinstance(content, str):
        fields["content"] = _in_words(content)
    if data is not None and not isinstance(data, dict):
        fields["data"] = {"value": data}
    is_time = isinstance(timestamp, int | float) and not isinstance(timestamp, bool) and 0 <= timestamp < 1 << 53
    fields["timestamp"] = int(timestamp or 0) if is_time else now
    try:
        return _encode(fields)
    except RecursionError as error:
        raise Malformed("task:event: an event is nested too deeply") from error
