"""One gateway's conversation with its manager, without a socket.

    what happened                        what to do about it
    -------------                        -------------------
    opened(greeting)                     next_frame(now)   the one message to write now, most urgent first
    heard(message, boot_ms)              next_at()         when to ask again, if nothing happens before
    closed()                             orders()          what the manager wants of this host
    consider, accept, refuse, started, tell, ended, beat

runtime/uplink.py owns the socket and calls the left side; runtime/crew.py carries out the orders. A frame is
pulled only when the socket can take it, so what waits here is the send queue, and `room` bounds it.

Two dialects. Full (`protocol: 2`): records are confirmed, an attempt is prepared, then started, and after a
reconnect the manager's verdict says where to go on. Base: `task:execute` means run it, events travel one by one,
what was written to the socket is said, and nothing is said twice.

Invariant: nothing is forgotten before the manager has confirmed it (full), or before it was written (base).
Invariant: on a fresh connection nothing is said before we are registered, and nothing of an attempt before the
manager has said that it wants it.
Invariant: the end of an attempt is said after all its events.
Invariant: without a fresh lease (core/lease.py) nothing is taken on and nothing started.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum, auto
from typing import Any, Final, assert_never

from gateway.core.coalesce import fit
from gateway.core.lease import Lease as HostLease
from gateway.core.line import Ending, Line
from gateway.core.orders import (
    Abort,
    Configure,
    Dismiss,
    Forget,
    Input,
    Lease,
    Order,
    Prepare,
    Room,
    Start,
    Stop,
)
from shared_types.events import AgentEvent
from shared_types.hosts import EffectiveConfig, Vitals
from shared_types.messages import (
    PROTOCOL,
    ConfigUpdate,
    FromGateway,
    FromManager,
    GatewayConfig,
    Heartbeat,
    HeartbeatAck,
    Ping,
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
from shared_types.tasks import Reason, TaskResult

BASE: Final = 1
FULL: Final = 2
_STALE: Final = "this host has had no word of the manager for too long"


class Phase(Enum):
    AWAY = auto()
    GREETING = auto()
    TALKING = auto()


class Link:
    def __init__(self, host_id: str) -> None:
        self.phase = Phase.AWAY
        self.dialect = FULL
        self.refusal: Registered | None = None  # why the manager does not want us, after ok=false
        self.answer: Registered | None = None  # the manager's welcome on this connection
        self._lease = HostLease()
        self._host_id = host_id
        self._urgent: deque[FromGateway] = deque()
        self._orders: list[Order] = []
        self._lines: dict[str, Line] = {}
        self._turns: deque[str] = deque()  # whose turn it is to send bulk

    def __repr__(self) -> str:
        unsaid = sum(len(line.outbox.unconfirmed()) for line in self._lines.values())
        return f"<Link {self._host_id} {self.phase.name} attempts={len(self._lines)} unconfirmed={unsaid}>"

    @property
    def is_talking(self) -> bool:
        return self.phase is Phase.TALKING

    @property
    def backlog(self) -> int:
        """Answers that wait for a manager to take them."""
        return len(self._urgent)

    # what happened: the connection

    def running(self) -> tuple[RunningAttempt, ...]:
        """Every attempt that a greeting must name."""
        return tuple(
            RunningAttempt(
                task_id=line.task_id,
                attempt=line.attempt,
                uid=line.uid,
                seq=max(line.told, line.newest),
                state=line.state,
            )
            for line in self._lines.values()
            if line.begun and line.attempt is not None
        )

    def opened(self, greeting: Register) -> None:
        """A fresh connection. `greeting` should hold what `running` says."""
        self.phase = Phase.GREETING
        self.refusal = self.answer = None
        self._urgent = deque([greeting])
        self._lease.opened(greeting.sent)

    def closed(self) -> None:
        """The connection is gone. What was accepted and not started is given back: nothing was spawned, and
        the next greeting does not name it, so the manager knows.
        """
        self.phase = Phase.AWAY
        self._urgent.clear()
        for line in list(self._lines.values()):
            line.wanted = False
            if not line.begun:
                self._orders.append(Dismiss(line.uid))
                self._drop(line.uid)

    def heard(self, message: FromManager, boot_ms: int = 0) -> None:
        """`boot_ms` is CLOCK_BOOTTIME now, for the lease."""
        match message:
            case Registered():
                self._registered(message)
            case _ if self.phase is not Phase.TALKING:
                return  # a manager that speaks before its welcome is not listened to
            case TaskExecute():
                self._execute(message, boot_ms)
            case TaskStart(task_id=task_id, attempt=attempt):
                self._start(task_id, attempt, boot_ms)
            case TaskAbort():
                self._abort(message)
            case TaskInput(task_id=task_id, content=content, input_id=input_id):
                if line := self._find(task_id, None):
                    self._orders.append(Input(line.uid, input_id, content))
            case TaskAck(task_id=task_id, attempt=attempt, seq=seq):
                if line := self._find(task_id, attempt):
                    self._confirmed(line, seq)
            case HeartbeatAck(sent=sent):
                if self._lease.acknowledged(sent):
                    self._push_lease()
            case ConfigUpdate(config=config):
                self._orders.append(Configure(config))
            case Ping():
                pass  # the uplink answers with a heartbeat: it has the vitals and the time
            case _:
                assert_never(message)

    def _registered(self, message: Registered) -> None:
        if self.phase is not Phase.GREETING:
            return
        if not message.ok:
            self.refusal = message
            return
        self.phase = Phase.TALKING
        self.answer = message
        self.dialect = FULL if message.protocol >= PROTOCOL else BASE
        self._lease.granted(message.lease if self.dialect == FULL else None)
        verdicts = {(resume.task_id, resume.attempt): resume for resume in message.resume}
        for line in list(self._lines.values()):
            if self.dialect == BASE:
                self._go_on_in_base(line)
            elif line.attempt is None:
                self._unwanted(line)  # begun under a manager that numbers nothing: this one cannot know it
            else:
                self._judged(line, verdicts.get((line.task_id, line.attempt)))
        self._push_lease()
        if message.heartbeat_interval is not None:
            self._orders.append(Configure(GatewayConfig(heartbeat_interval=message.heartbeat_interval)))
        if message.config is not None:
            self._orders.append(Configure(message.config))

    def _push_lease(self) -> None:
        """To every agent that may run."""
        for line in self._lines.values():
            if line.begun and line.is_spawned and line.ending is None:
                self._orders.append(Lease(line.uid, self._lease.until(line.grace)))

    def _judged(self, line: Line, verdict: Resume | None) -> None:
        """An attempt that the manager does not name is one that it does not know."""
        if verdict is None or verdict.verdict != "keep":
            self._unwanted(line)
            return
        if not line.is_spawned:
            self._forget(line)
            detail = "the gateway was restarted before it was started"
            self.refuse(line.task_id, line.attempt, Reason.DRAINING, detail)
            return
        line.wanted = line.judged = True
        line.singles.clear()
        line.ending_said = False
        line.started_unsaid = line.pid is not None or bool(line.session_id)
        if line.can_go_on_after(verdict.acked_seq):
            line.outbox.confirm(verdict.acked_seq)
            line.unsaid = deque(line.outbox.unconfirmed())
        else:
            line.begin_after(verdict.acked_seq)
        self._orders.append(Room(line.uid))

    def _go_on_in_base(self, line: Line) -> None:
        """What was written is said. Spans that a full manager did not confirm are said to this one."""
        if not line.judged:
            line.begin_after(line.said_before)
        line.wanted = line.judged = True
        line.ending_said = False
        self._orders.append(Room(line.uid))

    def _unwanted(self, line: Line) -> None:
        self._orders.append(Stop(line.uid) if line.begun else Dismiss(line.uid))
        self._drop(line.uid)

    def _execute(self, message: TaskExecute, boot_ms: int) -> None:
        task, attempt = message.task, message.attempt
        line = self._find(task.task_id, None)
        if line is None and not self._lease.is_fresh(boot_ms):
            self.refuse(task.task_id, attempt, Reason.LEASE_EXPIRED, _STALE)
        elif line is None:
            at_once = attempt is None or self.dialect == BASE
            self._orders.append(Prepare(task, attempt, message.uid, at_once))
        elif line.attempt != attempt:
            # Two attempts of one task never run at the same time: the old one goes first, this one comes again.
            self._unwanted(line)
            self.refuse(task.task_id, attempt, Reason.NO_FREE_SLOT, "an older attempt of this task is still here")
        elif attempt is not None and not line.begun and line.accepted:
            self._urgent.append(TaskAccepted(task_id=task.task_id, attempt=attempt))

    def _abort(self, message: TaskAbort) -> None:
        line = self._find(message.task_id, message.attempt)
        if line is None:
            # Whoever waits for its end must hear that nothing runs; to an attempt that has ended this is stale.
            if message.attempt is not None:
                detail = "this attempt is not on this host"
                self.refuse(message.task_id, message.attempt, Reason.ABORTED_BY_USER, detail)
        elif line.begun:
            self._orders.append(Abort(line.uid, message.reason, message.grace_ms))
        else:
            self._unwanted(line)
            self.refuse(line.task_id, line.attempt, Reason.ABORTED_BY_USER, "stopped before it was started")

    def _start(self, task_id: str, attempt: int, boot_ms: int) -> None:
        line = self._find(task_id, attempt)
        if line is None:
            # Prepared on an earlier connection, or never: whoever waits for it must hear that it will not run.
            self.refuse(task_id, attempt, Reason.NO_FREE_SLOT, "its place on this host was given back")
        elif not line.begun and line.accepted and not self._lease.is_fresh(boot_ms):
            self._unwanted(line)
            self.refuse(task_id, attempt, Reason.LEASE_EXPIRED, _STALE)
        elif not line.begun and line.accepted:
            line.begun = True
            self._orders.append(Start(line.uid, self._lease.until(line.grace)))

    def _confirmed(self, line: Line, seq: int) -> None:
        had_room = line.outbox.has_room
        line.outbox.confirm(seq)
        if line.ending is not None and line.ending_said and seq >= line.ending.seq:
            self._forget(line)
        elif not had_room and line.outbox.has_room:
            self._orders.append(Room(line.uid))

    def _forget(self, line: Line) -> None:
        self._orders.append(Forget(line.uid))
        self._drop(line.uid)

    def _find(self, task_id: str, attempt: int | None) -> Line | None:
        for line in self._lines.values():
            if line.task_id == task_id and attempt in (None, line.attempt):
                return line
        return None

    # what happened: on this host

    def consider(
        self, uid: str, task_id: str, attempt: int | None, *, at_once: bool = False, grace: int | None = None
    ) -> None:
        """The attempt has its place in the conversation, and this host looks whether it can run it: `accept` or
        `spawn_failed` follows, unless the line breaks or somebody thinks better of it (`Dismiss`, `Abort`, `Stop`).
        """
        wanted = self.phase is Phase.TALKING
        self._lines[uid] = Line(uid, task_id, attempt, grace, begun=at_once, accepted=False, wanted=wanted)
        self._turns.append(uid)

    def accept(self, uid: str) -> None:
        """The attempt is prepared."""
        line = self._lines[uid]
        line.accepted = True
        if line.attempt is not None and not line.begun:
            self._urgent.append(TaskAccepted(task_id=line.task_id, attempt=line.attempt))

    def refuse(self, task_id: str, attempt: int | None, reason: str, detail: str) -> None:
        """Nothing was spawned and nothing will be."""
        if self.phase is not Phase.TALKING:
            return  # it is not named in the next greeting: that says the same
        if attempt is not None:
            refused = TaskRefused(task_id=task_id, attempt=attempt, reason=reason, details=detail)
            self._urgent.append(refused)
        else:
            self._urgent.append(TaskFailed(task_id=task_id, error=detail, reason=reason))

    def adopt(
        self,
        uid: str,
        task_id: str,
        attempt: int | None,
        *,
        said: int = 0,
        is_spawned: bool = True,
        grace: int | None = None,
    ) -> None:
        """An attempt that an earlier gateway was to start; the manager's verdict decides about it. `said`: how far
        it was said to a base manager, which gives no verdicts. Not `is_spawned`: that gateway died before.
        """
        self._lines[uid] = Line(
            uid,
            task_id,
            attempt,
            grace,
            begun=True,
            judged=False,
            said_before=said,
            is_spawned=is_spawned,
            state="running" if is_spawned else "dead",
        )
        self._turns.append(uid)

    def spawn_failed(self, uid: str, reason: str, detail: str) -> None:
        """It was considered, or to be started, and cannot be: nothing ran."""
        if (line := self._lines.get(uid)) is None:
            return
        if line.attempt is None:  # a base manager learns of it by an end, now or when it is back
            line.end(Ending(line.told + 1, TaskResult(success=False), reason, detail))
            return
        self._drop(uid)
        self.refuse(line.task_id, line.attempt, reason, detail)

    def give_back(self, uid: str) -> None:
        """What was accepted was never started: the manager has forgotten it, or its word was lost."""
        if (line := self._lines.get(uid)) is not None and not line.begun:
            self._unwanted(line)
            self.refuse(line.task_id, line.attempt, Reason.NO_FREE_SLOT, "no word to start it came")

    def started(self, uid: str, pid: int | None, session_id: str) -> None:
        """The agent runs; said again when its session id is learned."""
        if (line := self._lines.get(uid)) is None or (line.pid, line.session_id) == (pid, session_id):
            return
        line.pid, line.session_id, line.started_unsaid = pid, session_id, True

    def grown(self, uid: str, seq: int) -> None:
        """The journal of this attempt has reached record `seq`."""
        if (line := self._lines.get(uid)) is not None:
            line.newest = seq

    def told(self, uid: str) -> int | None:
        """The last record that was told of this attempt; None when nobody wants to hear of it any more."""
        line = self._lines.get(uid)
        return None if line is None else line.told

    def room(self, uid: str) -> bool:
        """Whether more may be told now. What does not fit stays in the journal."""
        line = self._lines.get(uid)
        return line is not None and line.judged and line.outbox.has_room

    def confirmed(self, uid: str) -> int:
        """How far the manager has this attempt, as far as we know."""
        line = self._lines.get(uid)
        return 0 if line is None else line.outbox.confirmed

    def tell(self, uid: str, seq: int, events: Sequence[AgentEvent], now: float) -> None:
        """The events derived from record `seq`, which follows what was told."""
        line = self._lines[uid]
        fitted = fit(events)
        if not line.batch.takes(fitted):
            line.close_batch()
        line.batch.add(seq, fitted, now)

    def ended(self, uid: str, ending: Ending, *, is_dead: bool = False) -> None:
        """The attempt is over. Its message follows when everything before it was said. `is_dead`: its keeper is
        gone without an exit record.
        """
        if (line := self._lines.get(uid)) is not None:
            line.end(ending)
            line.state = "dead" if is_dead else "exited"

    def broke(self, uid: str, reason: str, detail: str) -> None:
        """This host failed at the attempt, of which nothing runs any more: what was told is its log."""
        if (line := self._lines.get(uid)) is not None:
            self.ended(uid, Ending(line.told + 1, TaskResult(success=False), reason, detail), is_dead=True)

    def beat(
        self, timestamp: int, vitals: Vitals | None, config: EffectiveConfig | None = None, sent: int | None = None
    ) -> None:
        """A sign of life; one that still waits is replaced. `sent` is CLOCK_BOOTTIME in ms."""
        if self.phase is not Phase.TALKING:
            return
        if self.dialect == BASE:
            vitals = config = sent = None
        if sent is not None:
            self._lease.said(sent)
        for waiting in [m for m in self._urgent if isinstance(m, Heartbeat)]:
            self._urgent.remove(waiting)
            config = config or waiting.config
        self._urgent.append(Heartbeat(timestamp=timestamp, vitals=vitals, config=config, sent=sent))

    def _drop(self, uid: str) -> None:
        del self._lines[uid]
        self._turns.remove(uid)

    # what to do about it

    def orders(self) -> list[Order]:
        orders, self._orders = self._orders, []
        return orders

    def next_frame(self, now: float) -> FromGateway | None:
        """The message to write now. Signs of life, answers, starts and ends go before events; attempts take turns."""
        if self._urgent:
            return self._urgent.popleft()
        if self.phase is not Phase.TALKING:
            return None
        for line in self._lines.values():
            if line.wanted and line.started_unsaid:
                return self._say_started(line)
        if (ending := self._next_ending()) is not None:
            return ending
        for _ in range(len(self._turns)):
            line = self._lines[self._turns[0]]
            self._turns.rotate(-1)
            if line.wanted and (frame := self._bulk(line, now)) is not None:
                return frame
        return self._next_ending()  # base: records of which nothing is said may have been all that was before it

    def _next_ending(self) -> FromGateway | None:
        for line in list(self._lines.values()):
            if line.wanted and line.ending_is_next:
                return self._say_ending(line)
        return None

    def next_at(self) -> float:
        """When a batch will be due that is not yet; inf when nothing waits."""
        if self.phase is not Phase.TALKING:
            return math.inf
        return min((line.batch.due_at for line in self._lines.values() if line.wanted), default=math.inf)

    def _bulk(self, line: Line, now: float) -> FromGateway | None:
        while True:
            if line.singles:
                return TaskEvent(task_id=line.task_id, event=line.singles.popleft())
            if not line.unsaid and line.has_due_batch(now):
                line.close_batch()
            if not line.unsaid:
                return None
            span = line.unsaid.popleft()
            if self.dialect == FULL:
                assert line.attempt is not None, "a full manager hears only of attempts that it numbered"
                return TaskEvents(
                    task_id=line.task_id, attempt=line.attempt, first=span.first, last=span.last, events=span.body
                )
            had_room = line.outbox.has_room
            line.outbox.confirm(span.last)
            line.singles.extend(span.body)
            if not had_room:
                self._orders.append(Room(line.uid))

    def _say_started(self, line: Line) -> TaskStarted:
        line.started_unsaid = False
        full = self.dialect == FULL
        return TaskStarted(
            task_id=line.task_id,
            session_id=line.session_id,
            attempt=line.attempt if full else None,
            pid=line.pid if full else None,
        )

    def _say_ending(self, line: Line) -> FromGateway:
        assert line.ending is not None
        ending = line.ending
        if self.dialect == BASE:
            if ending.events:  # one by one, then the end itself
                line.singles.extend(ending.events)
                line.ending = replace(ending, events=())
                return TaskEvent(task_id=line.task_id, event=line.singles.popleft())
            self._forget(line)
            return _final(line.task_id, ending)
        line.ending_said = True
        return _final(line.task_id, ending, attempt=line.attempt, seq=ending.seq, events=ending.events)


def _final(task_id: str, ending: Ending, **full: Any) -> TaskCompleted | TaskFailed:
    if ending.reason is None:
        return TaskCompleted(task_id=task_id, result=ending.result, **full)
    return TaskFailed(task_id=task_id, error=ending.error, reason=ending.reason, result=ending.result, **full)
