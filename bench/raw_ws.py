"""A WebSocket client that costs next to nothing, for the simulated host: what is said in one turn of the loop is one
write, and the mask is zero, so that masking changes nothing.

It understands what our manager says (whole text frames, pings, a close), not WebSockets at large.
"""

import asyncio
import base64
import os
import struct
from collections.abc import Callable
from typing import Final

from bench.raw import HEAD_END

TEXT: Final = 0x81
PING: Final = 0x89
PONG: Final = 0x8A
CLOSE: Final = 0x88


def frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return struct.pack("!BBL", opcode, 0x80 | size, 0) + payload
    if size < 65_536:
        return struct.pack("!BBHL", opcode, 0x80 | 126, size, 0) + payload
    return struct.pack("!BBQL", opcode, 0x80 | 127, size, 0) + payload


class Socket(asyncio.Protocol):
    """`heard` gets each text."""

    def __init__(self, heard: Callable[[bytes], None]) -> None:
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._said: list[bytes] = []
        self._may_write = asyncio.Event()
        self._may_write.set()
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.closed: asyncio.Future[str] = self._loop.create_future()

    @classmethod
    async def open(cls, host: str, port: int, path: str, token: str, heard: Callable[[bytes], None]) -> "Socket":
        transport, socket = await asyncio.get_running_loop().create_connection(lambda: cls(heard), host, port)
        socket._transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        await socket.opened
        return socket

    def say(self, text: bytes) -> None:
        self._put(frame(TEXT, text))

    async def drain(self) -> None:
        """Until the manager takes what was said."""
        await asyncio.sleep(0)
        await self._may_write.wait()

    def _put(self, data: bytes) -> None:
        if not self._said:
            self._loop.call_soon(self._flush)
        self._said.append(data)

    def _flush(self) -> None:
        said, self._said = self._said, []
        assert self._transport is not None
        self._transport.write(b"".join(said))

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if not self.opened.done():
            head, found, data = data.partition(HEAD_END)
            assert found, "the answer to the handshake comes in one piece"
            assert head.startswith(b"HTTP/1.1 101"), head
            self.opened.set_result(None)
        at = 0
        while (following := self._take(data, at)) is not None:
            at = following
        self._rest = data[at:]

    def _take(self, data: bytes, at: int) -> int | None:
        """Hear the frame that begins here; where the next one begins, or None when this one is not whole."""
        if len(data) < at + 2:
            return None
        opcode, size = data[at], data[at + 1]
        at += 2
        if size >= 126:
            width = 2 if size == 126 else 8
            if len(data) < at + width:
                return None
            size = int.from_bytes(data[at : at + width], "big")
            at += width
        if len(data) < at + size:
            return None
        payload = data[at : at + size]
        if opcode == TEXT:
            self._heard(payload)
        elif opcode == PING:
            self._put(frame(PONG, payload))
        elif opcode == CLOSE:
            self._end(f"closed: {payload!r}")
        else:
            raise RuntimeError(f"opcode {opcode:#x}")
        return at + size

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"lost: {exc}")

    def _end(self, why: str) -> None:
        if not self.closed.done():
            self.closed.set_result(why)
