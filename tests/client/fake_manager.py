"""A manager's event stream on a real socket that cuts wherever a test says: for the SDK's tests.

It speaks as much HTTP as a GET needs, by hand, so that a cut can fall on any byte. Its log outlives connections;
`budgets` says how many bytes of a body each next connection may send before it is cut; then there is no limit.
"""

import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import SocketStream

Json = dict[str, Any]


def a_task(**more: Any) -> Json:
    task: Json = {
        "id": "task_01hf7yat000000000000000000",
        "sessionId": "ses_1",
        "status": "running",
        "prompt": "hi",
        "agentType": "claude-code",
        "createdAt": 1_700_000_000_000,
        "updatedAt": 1_700_000_000_000,
        "rv": 1,
        "lastEventId": 0,
    }
    return {**task, **more}


def an_event(id: int, kind: str = "message", **more: Any) -> Json:
    return {
        "type": kind,
        "timestamp": 1_700_000_000_000 + id,
        "content": f"text {id} ü 漢\u2028",
        "id": id,
        "taskId": "task_01hf7yat000000000000000000",
        "attempt": 1,
        **more,
    }


@dataclass
class FakeManager:
    events: list[Json] = field(default_factory=list)
    task: Json = field(default_factory=a_task)
    epoch: str = "e1"
    first_id: int = 1
    budgets: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)  # answers of the next connections, before any 200
    politely: bool = True  # a cut ends the body as if it were whole, else the connection is broken off
    ends: bool = True  # the stream ends after the last event
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    @property
    def places(self) -> list[str | None]:
        """The Last-Event-ID of each connection."""
        return [headers.get("last-event-id") for _, headers in self.seen]

    def body(self, after: int) -> bytes:
        latest = self.events[-1]["id"] if self.events else 0
        verdict = "ok" if self.first_id - 1 <= after <= latest else "gap"
        resume = {
            "verdict": verdict,
            "epoch": self.epoch,
            "firstId": self.first_id,
            "latestId": latest,
            "task": self.task,
        }
        frames = [f"retry: 1\nevent: resume\ndata: {json.dumps(resume)}\n\n: ping\n\n"]
        frames += [
            f"id: {event['id']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"
            for event in self.events
            if event["id"] > after
        ]
        if self.ends:
            ended = {**self.task, "status": "completed", "rv": self.task["rv"] + 1}
            frames.append(f"event: status\ndata: {json.dumps(ended)}\n\n")
            frames.append('event: end\ndata: {"status":"completed"}\n\n')
        return "".join(frames).encode()

    async def _serve(self, stream: SocketStream) -> None:
        async with stream:
            request = b""
            while b"\r\n\r\n" not in request:
                request += await stream.receive()
            target, *lines = request.decode().split("\r\n\r\n")[0].split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            self.seen.append((target.split(" ")[1], headers))
            if self.statuses and (status := self.statuses.pop(0)) != 200:
                problem = json.dumps({"title": "x", "status": status, "code": f"C{status}"}).encode()
                body = b"" if status == 204 else problem
                await stream.send(
                    b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(body)) + body
                )
                return
            body = self.body(int(headers.get("last-event-id", "0")))
            budget = self.budgets.pop(0) if self.budgets else len(body)
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: close\r\n"
            if self.politely:
                await stream.send(head + b"\r\n" + body[:budget])
            else:  # chunked, and the last chunk never comes
                await stream.send(head + b"Transfer-Encoding: chunked\r\n\r\n")
                if budget:
                    await stream.send(b"%x\r\n%b\r\n" % (budget, body[:budget]))
                if budget >= len(body):
                    await stream.send(b"0\r\n\r\n")

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeManager"]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        self.url = f"http://127.0.0.1:{port}"
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, self._serve)
            yield self
            group.cancel_scope.cancel()


class InThread:
    """The same for a test that does not await."""

    def __init__(self, manager: FakeManager) -> None:
        self.manager = manager
        self._up = threading.Event()
        self._down: anyio.Event | None = None
        self._portal: Any = None
        self._thread = threading.Thread(target=lambda: anyio.run(self._run))

    async def _run(self) -> None:
        from anyio.from_thread import BlockingPortal

        async with BlockingPortal() as self._portal, self.manager.serving():
            self._down = anyio.Event()
            self._up.set()
            await self._down.wait()

    def __enter__(self) -> FakeManager:
        self._thread.start()
        assert self._up.wait(10)
        return self.manager

    def __exit__(self, *args: object) -> None:
        assert self._down is not None
        self._portal.call(self._down.set)
        self._thread.join(10)
