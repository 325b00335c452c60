"""A gateway of another make: written from the base dialect's tables in docs/protocol.md and from nothing else.

It knows register, heartbeat, task:started, task:event, task:completed and task:failed; it hears registered, ping,
task:execute, task:abort, task:input and config:update; it numbers nothing and confirms nothing. Its agent is a job
built in, which does what the prompt says, one word and its argument a line:

    say TEXT      an event of type message         odd TEXT     an event of a type nobody knows
    ask           wait for input, then say it      end TEXT     complete with this output
    wait          until aborted                    fail TEXT    fail with this error
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Job:
    task: dict[str, Any]
    inputs: "asyncio.Queue[str]" = field(default_factory=asyncio.Queue)
    running: "asyncio.Task[None] | None" = None


@dataclass
class BaseGateway:
    """Connect, register, heartbeat, run, stream, abort, take input. What it says and hears is kept for the tests."""

    url: str
    token: str
    host_id: str
    agents: tuple[str, ...] = ("my-script",)
    slots: int = 1
    heartbeat_s: float = 0.2
    heard: list[dict[str, Any]] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    registered: asyncio.Event = field(default_factory=asyncio.Event)
    close_code: int | None = None
    _socket: aiohttp.ClientWebSocketResponse | None = None
    _to_send: "asyncio.Queue[dict[str, Any]]" = field(default_factory=asyncio.Queue)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator["BaseGateway"]:
        """One connection, registered; jobs outlive it, as agents do, and what they say waits for the next one."""
        async with aiohttp.ClientSession() as session, self._dial(session) as socket:
            self._socket = socket
            self.registered.clear()
            await socket.send_json(
                {
                    "type": "register",
                    "hostId": self.host_id,
                    "capabilities": {
                        "name": f"{self.host_id}, of another make",
                        "agents": list(self.agents),
                        "maxConcurrent": self.slots,
                        "cwd": "/tmp",
                    },
                }
            )
            async with asyncio.TaskGroup() as group:
                loops = [group.create_task(loop) for loop in (self._listen(), self._talk(), self._beat())]
                try:
                    await asyncio.wait_for(self.registered.wait(), 10)
                    yield self
                finally:
                    for loop in loops:
                        loop.cancel()

    @asynccontextmanager
    async def _dial(self, session: aiohttp.ClientSession) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        async with session.ws_connect(
            f"{self.url}/agent/ws",
            params={"hostId": self.host_id},
            headers={"Authorization": f"Bearer {self.token}"},
        ) as socket:
            yield socket

    async def stop_jobs(self) -> None:
        for job in self.jobs.values():
            if job.running is not None:
                job.running.cancel()
                with suppress(asyncio.CancelledError):
                    await job.running

    def say(self, message: dict[str, Any]) -> None:
        self._to_send.put_nowait(message)

    async def say_once(self, message: dict[str, Any]) -> None:
        """On this connection or never."""
        assert self._socket is not None
        with suppress(ConnectionError, aiohttp.ClientError):
            await self._socket.send_json(message)

    async def cut(self) -> None:
        """The network fails: the connection is gone without a word."""
        assert self._socket is not None
        transport = self._socket._response.connection
        assert transport is not None
        assert transport.transport is not None
        transport.transport.abort()

    async def _talk(self) -> None:
        assert self._socket is not None
        await self.registered.wait()
        while True:
            message = await self._to_send.get()
            try:
                await self._socket.send_json(message)
            except (ConnectionError, aiohttp.ClientError):
                self._to_send.put_nowait(message)  # the next connection says it
                return

    async def _beat(self) -> None:
        await self.registered.wait()
        while True:
            self.say({"type": "heartbeat", "timestamp": now_ms()})
            await asyncio.sleep(self.heartbeat_s)

    async def _listen(self) -> None:
        assert self._socket is not None
        async for frame in self._socket:
            if frame.type is aiohttp.WSMsgType.TEXT:
                self._hear(frame.json())
        self.close_code = self._socket.close_code

    def _hear(self, message: dict[str, Any]) -> None:
        self.heard.append(message)
        match message["type"]:
            case "registered" if message["ok"]:
                self.registered.set()
            case "ping":
                self.say({"type": "heartbeat", "timestamp": now_ms()})
            case "task:execute":
                job = Job(message["task"])
                self.jobs[job.task["taskId"]] = job
                job.running = asyncio.get_running_loop().create_task(self._work(job))
            case "task:abort":
                job = self.jobs.get(message["taskId"])
                if job is not None and job.running is not None and job.running.cancel():
                    self.say({"type": "task:failed", "taskId": message["taskId"], "error": "aborted"})
            case "task:input":
                self.jobs[message["taskId"]].inputs.put_nowait(message["content"])

    async def _work(self, job: Job) -> None:
        task_id = job.task["taskId"]
        began = now_ms()

        def event(kind: str, content: str) -> None:
            body = {"type": kind, "content": content, "timestamp": now_ms()}
            self.say({"type": "task:event", "taskId": task_id, "event": body})

        self.say({"type": "task:started", "taskId": task_id, "sessionId": ""})
        for line in job.task["prompt"].splitlines():
            word, _, argument = line.partition(" ")
            match word:
                case "say":
                    event("message", argument)
                case "odd":
                    event("x-weather", argument)
                case "ask":
                    event("message", await job.inputs.get())
                case "wait":
                    await asyncio.Event().wait()
                case "end":
                    result = {"success": True, "exitCode": 0, "output": argument, "duration": now_ms() - began}
                    self.say({"type": "task:completed", "taskId": task_id, "result": result})
                case "fail":
                    details = {"line": line}
                    self.say({"type": "task:failed", "taskId": task_id, "error": argument, "details": details})
