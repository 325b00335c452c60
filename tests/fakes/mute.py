"""A peer of a WebSocket that is dead when the test wants it to be: it answers no ping unless told to, and never says
goodbye. It counts the pings it got, so that a test can wait for them instead of for a time.
"""

from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio
from anyio.abc import SocketStream
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri


class MutePeer:
    def __init__(self, stream: SocketStream, protocol: ClientProtocol, *, answers: bool) -> None:
        self._stream = stream
        self._protocol = protocol
        self._answers = answers
        self._frames: deque[Frame] = deque()

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, host: str, port: int, path: str, *, headers: Mapping[str, str] = {}, answers: bool = False
    ) -> AsyncIterator["MutePeer"]:
        async with await anyio.connect_tcp(host, port) as stream:
            protocol = ClientProtocol(parse_uri(f"ws://{host}:{port}{path}"))
            request = protocol.connect()
            request.headers.update(headers)
            protocol.send_request(request)
            peer = cls(stream, protocol, answers=answers)
            await peer._flush()
            while not protocol.handshake_exc and protocol.state.name == "CONNECTING":
                await peer._receive()
            assert protocol.handshake_exc is None, protocol.handshake_exc
            yield peer

    async def say(self, text: str) -> None:
        self._protocol.data_to_send()  # answers that it does not give
        self._protocol.send_text(text.encode())
        await self._flush()

    async def ping(self) -> None:
        """Waits for one. Raises EndOfStream or BrokenResourceError when the connection is cut."""
        while (await self._next()).opcode is not Opcode.PING:
            pass
        if self._answers:
            await self._flush()

    async def pings_until_cut(self) -> int:
        """How many more came until the manager cut the connection."""
        count = 0
        try:
            while True:
                await self.ping()
                count += 1
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return count

    async def _next(self) -> Frame:
        while not self._frames:
            await self._receive()
        return self._frames.popleft()

    async def _receive(self) -> None:
        self._protocol.receive_data(await self._stream.receive())
        self._frames += [event for event in self._protocol.events_received() if isinstance(event, Frame)]

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            await self._stream.send(data)
