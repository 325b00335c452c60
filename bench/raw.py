"""A load generator must cost little: HTTP/1.1 and SSE with as few instructions as they need, on uvloop.

It understands what our manager answers (Content-Length or chunks that hold whole events), not HTTP at large.
"""

import asyncio
from collections.abc import Callable
from typing import Final, cast

HEAD_END: Final = b"\r\n\r\n"


class Connection(asyncio.Protocol):
    """One kept connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answer: asyncio.Future[bytes] | None = None

    @classmethod
    async def open(cls, host: str, port: int) -> "Connection":
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its deeds alone

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(HEAD_END)
        if not found:
            return
        at = head.lower().index(b"content-length:") + 15
        length = int(head[at:].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self._buffer = b""
        assert self._answer is not None
        status = int(head[9:12])
        if status // 100 == 2:
            self._answer.set_result(body)
        else:
            self._answer.set_exception(RuntimeError(f"{status} {body!r}"))

    async def send(self, request: bytes) -> bytes:
        """The body of the answer; raises when it is not a 2xx."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def post(path: str, host: str, token: str, body: bytes) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


class Stream(asyncio.Protocol):
    """An SSE stream: `heard` gets each `data:` line's value."""

    def __init__(self, heard: Callable[[bytes], None]) -> None:
        self._heard = heard
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, host: str, port: int, path: str, token: str, heard: Callable[[bytes], None]) -> "Stream":
        loop = asyncio.get_running_loop()
        transport, stream = await loop.create_connection(lambda: cls(heard), host, port)
        stream._transport = transport
        transport.write(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
            f"Accept: text/event-stream\r\n\r\n".encode()
        )
        await stream.opened
        return stream

    def data_received(self, data: bytes) -> None:
        if not self.opened.done():
            if not data.startswith(b"HTTP/1.1 200"):
                self.opened.set_exception(RuntimeError(repr(data[:500])))
                return
            self.opened.set_result(None)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._heard(line[5:])

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
