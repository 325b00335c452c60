"""A far end for managers: a simulated gateway that speaks the link and spawns nothing.

    Line         one connection, hand-held: a test says messages and waits for those it expects
    FakeHost     a gateway by itself: accepts, starts, tells n events, ends; keeps what was not confirmed, and says it
                 again when it is told to go on. `plan` decides per task what it does
    memory_line  a Line and the manager's Wire that belongs to it, without a socket
    dial         the same over a real WebSocket

It knows the words of shared_types and, of the manager's code, what a Wire is.
"""

import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol, TypeVar

import anyio
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from manager.runtime.host_link import WireClosed
from shared_types.codec import decode_from_manager, encode
from shared_types.delivery import Outbox, Span
from shared_types.hosts import AgentInfo, EffectiveConfig, HostCapabilities
from shared_types.messages import (
    FromGateway,
    FromManager,
    Heartbeat,
    HeartbeatAck,
    Ping,
    Register,
    Registered,
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
    Unknown,
)
from shared_types.tasks import Reason, TaskRequest, TaskResult

M = TypeVar("M", bound=FromManager)
PATIENCE_S: Final = 10.0
NOW: Final = 1_700_000_000_000


class LineClosed(Exception):
    """The manager hung up, or the line was cut. `code` is the manager's close code; 0: cut."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class Line(Protocol):
    """A connection to a manager, as frames of text."""

    async def send(self, frame: bytes) -> None:
        """Raises LineClosed."""
        ...

    async def receive(self) -> bytes | str:
        """Raises LineClosed."""
        ...


# --- lines ----------------------------------------------------------------------------------------------


class _Pipe:
    """Frames one way, first in, first out. `room`: how many may wait; then `put` waits, as with a socket's buffer."""

    def __init__(self, room: float) -> None:
        self._frames: deque[bytes] = deque()
        self._room = room
        self._news: anyio.Event | None = None
        self.is_closed = False

    async def put(self, frame: bytes) -> bool:
        """False when the pipe is closed."""
        while len(self._frames) >= self._room and not self.is_closed:
            await self._wait()
        if self.is_closed:
            return False
        self._frames.append(frame)
        self._stir()
        return True

    async def get(self) -> bytes | None:
        """None when the pipe is closed and empty."""
        while not self._frames:
            if self.is_closed:
                return None
            await self._wait()
        frame = self._frames.popleft()
        self._stir()
        return frame

    def close(self) -> None:
        self.is_closed = True
        self._stir()

    async def _wait(self) -> None:
        if self._news is None:
            self._news = anyio.Event()
        await self._news.wait()

    def _stir(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None


class MemoryLine:
    """The host's end of an in-memory connection."""

    def __init__(self, to_manager: _Pipe, from_manager: _Pipe) -> None:
        self._to = to_manager
        self._from = from_manager
        self.closed: tuple[int, str] = (0, "cut")

    async def send(self, frame: bytes) -> None:
        if not await self._to.put(frame):
            raise LineClosed(*self.closed)

    async def receive(self) -> bytes:
        frame = await self._from.get()
        if frame is None:
            raise LineClosed(*self.closed)
        return frame

    def cut(self) -> None:
        """The cable is pulled; what was sent before may still arrive."""
        self._to.close()
        self._from.close()


class MemoryWire:
    """The manager's end."""

    def __init__(self, line: MemoryLine, inbound: _Pipe, outbound: _Pipe) -> None:
        self._line = line
        self._in = inbound
        self._out = outbound

    async def receive(self) -> bytes | None:
        return await self._in.get()

    async def send(self, data: bytes) -> None:
        if not await self._out.put(data):
            raise WireClosed

    async def close(self, code: int, reason: str) -> None:
        if not self._out.is_closed:
            self._line.closed = (code, reason)
        self._out.close()
        self._in.close()


def memory_line(room: float = math.inf) -> tuple[MemoryLine, MemoryWire]:
    """Both ends of a connection. What goes to the manager never waits; what it sends waits when `room` is used up."""
    to_manager, from_manager = _Pipe(math.inf), _Pipe(room)
    line = MemoryLine(to_manager, from_manager)
    return line, MemoryWire(line, to_manager, from_manager)


class SocketLine:
    """The host's end of a WebSocket."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def send(self, frame: bytes) -> None:
        try:
            await self._socket.send(frame.decode())
        except ConnectionClosed as error:
            raise _closed(error) from None

    async def receive(self) -> bytes | str:
        try:
            return await self._socket.recv()
        except ConnectionClosed as error:
            raise _closed(error) from None

    def cut(self) -> None:
        self._socket.transport.abort()


def _closed(error: ConnectionClosed) -> LineClosed:
    return LineClosed(0, "cut") if error.rcvd is None else LineClosed(error.rcvd.code, error.rcvd.reason)


@asynccontextmanager
async def dial(url: str, token: str) -> AsyncIterator[SocketLine]:
    """A connection to a real manager: `url` is its ws:// address without the path."""
    headers = {"Authorization": f"Bearer {token}"}
    async with connect(
        f"{url}/agent/ws", additional_headers=headers, compression=None, max_size=4 * 1024 * 1024, proxy=None
    ) as socket:
        yield SocketLine(socket)


# --- by hand --------------------------------------------------------------------------------------------


def capabilities(
    name: str = "h1", agents: Sequence[str] = ("opencode",), slots: int = 2, labels: dict[str, str] | None = None
) -> HostCapabilities:
    return HostCapabilities(name=name, agents=tuple(agents), max_concurrent=slots, cwd="/work", labels=labels or {})


class Hand:
    """Says what the test wants said, and waits for what the test expects."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.heard: list[FromManager] = []

    async def say(self, *messages: FromGateway) -> None:
        for message in messages:
            await self.line.send(encode(message))

    async def say_raw(self, frame: bytes) -> None:
        await self.line.send(frame)

    async def next(self) -> FromManager:
        with anyio.fail_after(PATIENCE_S):
            message = decode_from_manager(await self.line.receive())
        assert not isinstance(message, Unknown), message
        self.heard.append(message)
        return message

    async def expect(self, kind: type[M]) -> M:
        """The next message of this kind; others are passed over and stay in `heard`."""
        while True:
            message = await self.next()
            if isinstance(message, kind):
                return message

    async def hangs_up(self, after: bytes | None = None) -> LineClosed:
        """Waits until the manager closes, which it may do while it is told `after`; why it did."""
        try:
            if after is not None:
                await self.line.send(after)
            while True:
                await self.next()
        except LineClosed as closed:
            return closed

    async def register(self, message: Register) -> Registered:
        await self.say(message)
        return await self.expect(Registered)


# --- by itself ------------------------------------------------------------------------------------------


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of one task. `refuse` and `fail` are reasons; `holds`: it runs until it is told to stop."""

    events: int = 3
    refuse: str | None = None
    fail: str | None = None
    holds: bool = False


class Attempt:
    """One attempt that runs nowhere. Records are numbered as a journal's; the last one is the end."""

    def __init__(self, request: TaskRequest, number: int, uid: str) -> None:
        self.request = request
        self.number = number
        self.uid = uid
        self.is_started = False
        self.seq = 0
        self.outbox: Outbox[FromGateway] = Outbox(window_bytes=1 << 40, window_spans=1 << 30)
        self.is_over = False

    def put(self, message: FromGateway, count: int = 1) -> FromGateway:
        first, self.seq = self.seq + 1, self.seq + count
        self.outbox.put(Span(first=first, last=self.seq, body=message, size=0))
        return message


class FakeHost:
    """A gateway of the full dialect that outlives its connections; give each new one to `run`."""

    def __init__(
        self,
        host_id: str = "h1",
        *,
        agents: Sequence[str] = ("opencode",),
        slots: int = 4,
        labels: dict[str, str] | None = None,
        found: tuple[AgentInfo, ...] = (),
        plan: Callable[[TaskRequest], Plan] = lambda _: Plan(),
        event_bytes: int = 100,
        input_state: str = "taken",
    ) -> None:
        self.host_id = host_id
        self.capabilities = capabilities(host_id, agents, slots, labels)
        self.found = found
        self.plan = plan
        self.instance = "instance-1"
        self.boot_id = "boot-1"
        self.input_state = input_state
        self.config: EffectiveConfig | None = None
        self.attempts: dict[str, Attempt] = {}
        self.executed: list[str] = []  # task ids, in the order they came
        self.started: list[tuple[str, int]] = []  # (task, attempt) that was spawned, had this been a real host
        self.inputs: list[tuple[str, str]] = []
        self.welcomes: list[Registered] = []
        self.sent = 0  # its CLOCK_BOOTTIME, were it a machine
        self.acknowledged = 0  # the newest of what it said that the manager has written down
        self.online = anyio.Event()
        self._event = msgspec.Raw(
            b'{"type":"message","timestamp":%d,"content":"%b"}' % (NOW, b"x" * max(1, event_bytes - 55))
        )
        self._line: Line | None = None

    def __repr__(self) -> str:
        return f"<FakeHost {self.host_id} attempts={len(self.attempts)}>"

    async def run(self, line: Line) -> LineClosed:
        """One connection, until it ends; why it did."""
        self._line = line
        # What was accepted and not started is given back by not naming it.
        self.attempts = {task_id: attempt for task_id, attempt in self.attempts.items() if attempt.is_started}
        try:
            await line.send(encode(self.greeting()))
            while True:
                message = decode_from_manager(await line.receive())
                for answer in self.heard(message):
                    await line.send(encode(answer))
        except LineClosed as closed:
            return closed
        finally:
            self.online = anyio.Event()

    def beat(self) -> Heartbeat:
        self.sent += 1
        return Heartbeat(timestamp=NOW, sent=self.sent)

    def greeting(self) -> Register:
        self.sent += 1
        return Register(
            host_id=self.host_id,
            capabilities=self.capabilities,
            protocol=2,
            version="fake",
            boot_id=self.boot_id,
            instance=self.instance,
            agents=self.found,
            config=self.config,
            sent=self.sent,
            running=tuple(
                RunningAttempt(
                    task_id=task_id,
                    attempt=attempt.number,
                    uid=attempt.uid,
                    seq=attempt.seq,
                    state="exited" if attempt.is_over else "running",
                )
                for task_id, attempt in self.attempts.items()
                if attempt.is_started
            ),
        )

    def restarted(self) -> None:
        """The gateway process is another one; it found its attempts again."""
        self.instance += "'"

    def heard(self, message: FromManager | Unknown) -> list[FromGateway]:
        match message:
            case TaskExecute():
                return self._execute(message)
            case TaskStart(task_id=task_id, attempt=number):
                return self._start(task_id, number)
            case TaskAck(task_id=task_id, attempt=number, seq=seq):
                attempt = self._find(task_id, number)
                if attempt is not None:
                    attempt.outbox.confirm(seq)
                    if attempt.is_over and seq >= attempt.seq:
                        del self.attempts[task_id]
                return []
            case TaskAbort(task_id=task_id, attempt=number):
                return self._abort(task_id, number)
            case TaskInput(task_id=task_id, content=content, input_id=input_id):
                return self._input(task_id, content, input_id)
            case Ping():
                return [self.beat()]
            case HeartbeatAck(sent=sent):
                self.acknowledged = sent
                return []
            case Registered():
                return self._registered(message)
        return []

    def _registered(self, message: Registered) -> list[FromGateway]:
        self.welcomes.append(message)
        if not message.ok:
            return []
        self.online.set()
        verdicts = {(resume.task_id, resume.attempt): resume for resume in message.resume}
        answers: list[FromGateway] = []
        for task_id, attempt in list(self.attempts.items()):
            verdict = verdicts.get((task_id, attempt.number))
            if verdict is None or verdict.verdict != "keep":
                del self.attempts[task_id]
                continue
            attempt.outbox.confirm(verdict.acked_seq)
            answers.append(TaskStarted(task_id=task_id, session_id="", attempt=attempt.number))
            answers += [span.body for span in attempt.outbox.unconfirmed()]
        return answers

    def _execute(self, message: TaskExecute) -> list[FromGateway]:
        task, number = message.task, message.attempt
        assert number is not None
        self.executed.append(task.task_id)
        refuse = self.plan(task).refuse
        if refuse is not None:
            return [TaskRefused(task_id=task.task_id, attempt=number, reason=refuse, details=f"plan: {refuse}")]
        self.attempts[task.task_id] = Attempt(task, number, message.uid or "")
        return [TaskAccepted(task_id=task.task_id, attempt=number)]

    def _start(self, task_id: str, number: int) -> list[FromGateway]:
        attempt = self._find(task_id, number)
        if attempt is None:
            return [TaskRefused(task_id=task_id, attempt=number, reason=Reason.SPAWN_FAILED)]
        if attempt.is_started:
            return []
        attempt.is_started = True
        self.started.append((task_id, number))
        plan = self.plan(attempt.request)
        answers: list[FromGateway] = [TaskStarted(task_id=task_id, session_id="s-" + task_id, attempt=number)]
        if plan.events:
            events = TaskEvents(
                task_id=task_id, attempt=number, first=1, last=plan.events, events=(self._event,) * plan.events
            )
            answers.append(attempt.put(events, plan.events))
        if not plan.holds:
            answers.append(self._end(task_id, attempt, plan.fail))
        return answers

    def _end(self, task_id: str, attempt: Attempt, reason: str | None) -> FromGateway:
        seq = attempt.seq + 1
        attempt.is_over = True
        if reason is None:
            result = TaskResult(success=True, exit_code=0, output="done", duration=1)
            return attempt.put(TaskCompleted(task_id=task_id, result=result, attempt=attempt.number, seq=seq))
        return attempt.put(
            TaskFailed(task_id=task_id, error=f"plan: {reason}", reason=reason, attempt=attempt.number, seq=seq)
        )

    def _abort(self, task_id: str, number: int | None) -> list[FromGateway]:
        attempt = self._find(task_id, number)
        if attempt is None:
            if number is None:
                return []
            return [TaskRefused(task_id=task_id, attempt=number, reason=Reason.ABORTED_BY_USER)]
        if not attempt.is_started:
            del self.attempts[task_id]
            return [TaskRefused(task_id=task_id, attempt=attempt.number, reason=Reason.ABORTED_BY_USER)]
        return [] if attempt.is_over else [self._end(task_id, attempt, Reason.ABORTED_BY_USER)]

    def _input(self, task_id: str, content: str, input_id: str | None) -> list[FromGateway]:
        attempt = self._find(task_id, None)
        if attempt is None or attempt.is_over:
            return []
        self.inputs.append((task_id, content))
        data = {"inputId": input_id, "state": self.input_state}
        event = msgspec.Raw(encode({"type": "input", "timestamp": NOW, "content": content, "data": data}))
        seq = attempt.seq + 1
        return [attempt.put(TaskEvents(task_id=task_id, attempt=attempt.number, first=seq, last=seq, events=(event,)))]

    async def finish(self, task_id: str, reason: str | None = None) -> None:
        """A task that `holds` ends now, well or with this reason."""
        assert self._line is not None
        await self._line.send(encode(self._end(task_id, self.attempts[task_id], reason)))

    async def tell(self, task_id: str, content: str) -> None:
        """A task that runs tells one more event."""
        assert self._line is not None
        attempt = self.attempts[task_id]
        event = msgspec.Raw(encode({"type": "message", "timestamp": NOW, "content": content}))
        seq = attempt.seq + 1
        message = TaskEvents(task_id=task_id, attempt=attempt.number, first=seq, last=seq, events=(event,))
        await self._line.send(encode(attempt.put(message)))

    def _find(self, task_id: str, number: int | None) -> Attempt | None:
        attempt = self.attempts.get(task_id)
        return attempt if attempt is not None and number in (None, attempt.number) else None


__all__ = ["FakeHost", "Hand", "LineClosed", "Plan", "TaskEvent", "capabilities", "dial", "memory_line"]
