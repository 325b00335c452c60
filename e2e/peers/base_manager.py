"""A manager of another make: written from the base dialect's tables in docs/protocol.md and from nothing else.

It accepts gateways on `GET /agent/ws?hostId=`, answers `register` with `{"type": "registered", "ok": true}`, sends
task:execute, task:abort, task:input, ping and config:update when a test says so, and keeps all that it hears.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web


@dataclass
class BaseManager:
    token: str
    port: int = 0
    heard: list[dict[str, Any]] = field(default_factory=list)
    handshakes: list[dict[str, str]] = field(default_factory=list)
    _socket: web.WebSocketResponse | None = None
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["BaseManager"]:
        app = web.Application()
        app.router.add_get("/agent/ws", self._link)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            if self._socket is not None:
                await self._socket.close()
            await runner.cleanup()

    async def _link(self, request: web.Request) -> web.StreamResponse:
        self.handshakes.append({"hostId": request.query.get("hostId", ""), **request.headers})
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for frame in socket:
            if frame.type is not WSMsgType.TEXT:
                continue
            message = frame.json()
            if message["type"] == "register":
                self._socket = socket
                await socket.send_json({"type": "registered", "ok": True})
            async with self._changed:
                self.heard.append(message)
                self._changed.notify_all()
        return socket

    async def say(self, message: dict[str, Any]) -> None:
        assert self._socket is not None, "no gateway is registered"
        await self._socket.send_json(message)

    async def execute(self, task_id: str, prompt: str, **more: Any) -> None:
        await self.say({"type": "task:execute", "task": {"taskId": task_id, "prompt": prompt, **more}})

    def of(self, task_id: str) -> list[dict[str, Any]]:
        """All that was said about a task, in order."""
        return [message for message in self.heard if message.get("taskId") == task_id]

    def events(self, task_id: str) -> list[dict[str, Any]]:
        return [message["event"] for message in self.of(task_id) if message["type"] == "task:event"]

    def end(self, task_id: str) -> dict[str, Any] | None:
        ends = [message for message in self.of(task_id) if message["type"] in {"task:completed", "task:failed"}]
        assert len(ends) <= 1, ends
        return ends[0] if ends else None

    async def wait(self, condition: Callable[[], Any], within_s: float = 20) -> Any:
        """The first true value of the condition, looked at after every message."""
        try:
            async with asyncio.timeout(within_s), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            raise AssertionError(f"not within {within_s} s; heard {self.heard}") from None
        return condition()

    async def wait_end(self, task_id: str, within_s: float = 20) -> dict[str, Any]:
        ended: dict[str, Any] = await self.wait(lambda: self.end(task_id), within_s)
        return ended
