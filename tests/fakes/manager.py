"""A manager on a real WebSocket, for tests of the gateway: it does what docs/protocol.md says and what it is told.

    async with FakeManager().serving() as manager:
        ...a gateway dials manager.url...
        await manager.wait(lambda: manager.greetings)
        await manager.offer("t1", prompt="hi")
        end = await manager.wait_end("t1")

Full dialect unless told `dialect=1`: offers, starts what is accepted, takes spans by an Inbox, confirms them. What
it has committed outlives connections; `cut` breaks one as a network does.
"""

import http
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from shared_types.codec import decode_from_gateway, encode
from shared_types.delivery import Heard, Inbox
from shared_types.events import AgentEvent
from shared_types.messages import (
    FromGateway,
    FromManager,
    GatewayConfig,
    Heartbeat,
    HeartbeatAck,
    LeaseTerms,
    Register,
    Registered,
    Resume,
    TaskAccepted,
    TaskAck,
    TaskCompleted,
    TaskEvent,
    TaskEvents,
    TaskExecute,
    TaskFailed,
    TaskRefused,
    TaskStart,
    TaskStarted,
    Unknown,
)
from shared_types.tasks import PermissionMode, TaskRequest

WITHIN_S = 20.0


@dataclass
class Attempt:
    """What the manager has committed of one attempt."""

    task_id: str
    number: int
    inbox: Inbox = field(default_factory=Inbox)
    events: list[AgentEvent] = field(default_factory=list)
    accepted: bool = False
    refused: TaskRefused | None = None
    started: list[TaskStarted] = field(default_factory=list)
    end: TaskCompleted | TaskFailed | None = None
    uid: str = field(default_factory=lambda: secrets.token_hex(8))  # keepers know their agents by it: never twice

    def texts(self, kind: str) -> list[str]:
        return [event.content or "" for event in self.events if event.type == kind]


@dataclass
class FakeManager:
    """`refusal`: answer greetings with it. `status`: answer handshakes with it. `confirms`: False keeps acks back.
    `lease`: what it grants; `acknowledges`: False, and signs of life prolong it no more.
    """

    dialect: int = 2
    token: str = "a-token"
    refusal: Registered | None = None
    status: int | None = None
    status_body: bytes = b""
    confirms: bool = True
    starts: bool = True
    config: GatewayConfig | None = None
    heartbeat_interval: int | None = None
    lease: LeaseTerms | None = None
    acknowledges: bool = True
    port: int = 0
    heard: list[FromGateway] = field(default_factory=list)
    greetings: list[Register] = field(default_factory=list)
    handshakes: list[dict[str, str]] = field(default_factory=list)
    attempts: dict[str, Attempt] = field(default_factory=dict)  # the newest of each task
    _socket: ServerConnection | None = None
    _changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/agent/ws"

    @property
    def is_connected(self) -> bool:
        return self._socket is not None

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeManager"]:
        async with serve(
            self._talk, "127.0.0.1", self.port, process_request=self._handshake, max_size=2**20, close_timeout=1
        ) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            yield self
            if self._socket is not None:
                self._socket.transport.abort()

    # what a test does

    async def say(self, message: FromManager) -> None:
        assert self._socket is not None, "no gateway is connected"
        await self._socket.send(encode(message), text=True)

    async def say_raw(self, data: str) -> None:
        assert self._socket is not None, "no gateway is connected"
        await self._socket.send(data)

    async def offer(
        self, task_id: str, *, agent: str = "fake", cwd: str = "", prompt: str = "hi", **more: Any
    ) -> Attempt:
        """Give the gateway a new attempt of this task."""
        number = self.attempts[task_id].number + 1 if task_id in self.attempts else 1
        attempt = self.attempts[task_id] = Attempt(task_id, number)
        mode = more.pop("mode", PermissionMode.DEFAULT)
        task = TaskRequest(task_id=task_id, prompt=prompt, cwd=cwd, agent_type=agent, permission_mode=mode, **more)
        if self.dialect == 1:
            await self.say(TaskExecute(task=task))
        else:
            await self.say(TaskExecute(task=task, attempt=number, uid=attempt.uid))
        return attempt

    def cut(self) -> None:
        """The wire breaks, without a word."""
        assert self._socket is not None, "no gateway is connected"
        self._socket.transport.abort()

    async def close(self, code: int, reason: str = "") -> None:
        assert self._socket is not None, "no gateway is connected"
        await self._socket.close(code, reason)

    async def wait(self, condition: Callable[[], Any], within_s: float = WITHIN_S) -> Any:
        """The first true value of `condition()`, looked at whenever something was heard."""
        with anyio.move_on_after(within_s):
            while not (value := condition()):
                await self._changed.wait()
            return value
        raise AssertionError(f"not within {within_s} s; heard last: {self.heard[-5:]}")

    async def wait_end(self, task_id: str) -> TaskCompleted | TaskFailed:
        end: TaskCompleted | TaskFailed = await self.wait(lambda: self.attempts[task_id].end)
        return end

    async def wait_connected(self, times: int = 1) -> Register:
        """The greeting of the `times`-th connection."""
        await self.wait(lambda: len(self.greetings) >= times and self._socket is not None)
        return self.greetings[times - 1]

    def said(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]

    # what it does by itself

    def _handshake(self, connection: ServerConnection, request: Request) -> Response | None:
        self.handshakes.append({"path": request.path, **dict(request.headers.raw_items())})
        status = self.status or (401 if request.headers.get("Authorization") != f"Bearer {self.token}" else None)
        self._note()
        if status is None:
            return None
        return Response(status, http.HTTPStatus(status).phrase, Headers(), self.status_body)

    async def _talk(self, socket: ServerConnection) -> None:
        try:
            async for data in socket:
                message = decode_from_gateway(data)
                assert not isinstance(message, Unknown), message
                for answer in self._answers(message):
                    await socket.send(encode(answer), text=True)
                self.heard.append(message)
                if isinstance(message, Register):
                    self.greetings.append(message)
                    self._socket = socket
                self._note()
        except ConnectionClosed:
            pass
        finally:
            if self._socket is socket:
                self._socket = None
            self._note()

    def _note(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _answers(self, message: FromGateway) -> list[FromManager]:
        match message:
            case Register():
                return [self.refusal or self._welcome(message)]
            case Heartbeat(sent=int(sent)) if self.lease is not None and self.acknowledges:
                return [HeartbeatAck(sent=sent)]
            case Heartbeat():
                return []
        attempt = self.attempts.get(message.task_id)
        if attempt is None or message.attempt not in (None, attempt.number):
            return []
        match message:
            case TaskAccepted():
                attempt.accepted = True
                return [TaskStart(task_id=attempt.task_id, attempt=attempt.number)] if self.starts else []
            case TaskRefused():
                attempt.refused = message
            case TaskStarted():
                attempt.started.append(message)
            case TaskEvent(event=event):
                attempt.events.append(msgspec.json.decode(event, type=AgentEvent))
            case TaskEvents(first=first, last=last, events=events):
                return self._take(attempt, first, last, events)
            case TaskCompleted() | TaskFailed():
                if message.seq is None:
                    attempt.end = message
                    return []
                if attempt.inbox.judge(message.seq, message.seq) is Heard.NEXT:
                    attempt.end = message
                return self._take(attempt, message.seq, message.seq, message.events)
        return []

    def _welcome(self, register: Register) -> Registered:
        if self.dialect == 1:
            return Registered(ok=True)
        resume = []
        for running in register.running:
            attempt = self.attempts.get(running.task_id)
            keep = attempt is not None and attempt.uid == running.uid and attempt.end is None
            resume.append(
                Resume(
                    task_id=running.task_id,
                    attempt=running.attempt,
                    acked_seq=attempt.inbox.heard if attempt is not None else 0,
                    verdict="keep" if keep else "stop",
                )
            )
        return Registered(
            ok=True,
            protocol=2,
            resume=tuple(resume),
            config=self.config,
            heartbeat_interval=self.heartbeat_interval,
            lease=self.lease,
        )

    def _take(self, attempt: Attempt, first: int, last: int, events: tuple[msgspec.Raw, ...]) -> list[FromManager]:
        judged = attempt.inbox.judge(first, last)
        assert judged is not Heard.GAP, f"{attempt.uid}: records {first}..{last} after {attempt.inbox.heard}"
        if judged is Heard.NEXT:
            attempt.inbox.take(last)
            attempt.events += [msgspec.json.decode(event, type=AgentEvent) for event in events]
        if not self.confirms:
            return []
        return [TaskAck(task_id=attempt.task_id, attempt=attempt.number, seq=attempt.inbox.heard)]
