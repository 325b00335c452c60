"""A TCP proxy between two parties that believe in their network.

    async with proxying("127.0.0.1", port) as proxy:
        proxy.delay_s = 0.2         each way, for whatever comes from now on
        proxy.stall(), proxy.flow() nothing moves, and nobody is told; what was said arrives when it flows again
        proxy.cut()                 every connection is closed in order
        proxy.reset()               ... and by RST
        proxy.reset_after(bytes)    in the middle of whatever is said then: each connection, after so many bytes from
                                    the one who dialled
        proxy.half_open()           the one who was dialled sees the end, the one who dialled sees nothing at all
        proxy.down(), proxy.up()    reset, and whoever dials is refused until it is up

It knows nothing of what is said on it.
"""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio
from anyio.abc import SocketAttribute, SocketStream, TaskGroup

CHUNK: Final = 64 * 1024
ENDS: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class Line:
    """One connection: `near` is who dialled, `far` whom it reached."""

    def __init__(self, near: SocketStream, far: SocketStream) -> None:
        self.near = near
        self.far = far
        self.scope = anyio.CancelScope()
        self.back = anyio.CancelScope()  # of the way from far to near
        self.left: int | None = None  # bytes from near until it is reset
        self.is_half_open = False
        self.is_reset = False

    def end(self, *, reset: bool) -> None:
        self.is_reset = reset
        self.scope.cancel()


class Proxy:
    def __init__(self, host: str, port: int) -> None:
        self.delay_s = 0.0
        self.port = 0
        self.dialled = 0
        self.refused = 0
        self.moved = 0  # bytes, both ways
        self.lines: set[Line] = set()
        self._target = (host, port)
        self._flows = anyio.Event()
        self._flows.set()
        self._is_up = True

    def __repr__(self) -> str:
        return f"<Proxy :{self.port} -> {self._target} lines={len(self.lines)}>"

    # --- what a test does to it -----------------------------------------------------------------------

    def stall(self) -> None:
        self._flows = anyio.Event()

    def flow(self) -> None:
        self._flows.set()

    def cut(self) -> None:
        for line in self.lines:
            line.end(reset=False)

    def reset(self) -> None:
        for line in self.lines:
            line.end(reset=True)

    def reset_after(self, size: int) -> None:
        for line in self.lines:
            line.left = size

    def half_open(self) -> None:
        for line in self.lines:
            line.is_half_open = True
            line.back.cancel()

    def down(self) -> None:
        self._is_up = False
        self.reset()

    def up(self) -> None:
        self._is_up = True

    # --- its life -------------------------------------------------------------------------------------

    async def serve(self, near: SocketStream) -> None:
        """One connection, to its end."""
        self.dialled += 1
        async with near:
            far = await self._reach() if self._is_up else None
            if far is None:
                self.refused += 1
                _rst(near)
                return
            async with far:
                await self._talk(Line(near, far))

    async def _reach(self) -> SocketStream | None:
        try:
            return await anyio.connect_tcp(*self._target)
        except OSError:
            return None  # nobody is there: whoever dialled learns it as without us

    async def _talk(self, line: Line) -> None:
        self.lines.add(line)
        try:
            with line.scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._there, group, line)
                    group.start_soon(self._back, group, line)
        finally:
            self.lines.discard(line)
            if line.is_reset:
                _rst(line.near)
                _rst(line.far)

    async def _there(self, group: TaskGroup, line: Line) -> None:
        with suppress(*ENDS):  # one of the two has gone: the other is told
            await self._pump(line, line.near, line.far)
        group.cancel_scope.cancel()

    async def _back(self, group: TaskGroup, line: Line) -> None:
        with line.back, suppress(*ENDS):
            await self._pump(line, line.far, line.near)
        if line.is_half_open:
            _rst(line.far)
            await line.far.aclose()
        else:
            group.cancel_scope.cancel()

    async def _pump(self, line: Line, source: SocketStream, sink: SocketStream) -> None:
        """One way, until it is to be reset."""
        while line.left is None or line.left > 0:
            data = await source.receive(CHUNK)
            await anyio.sleep(self.delay_s)
            await self._flows.wait()
            if line.is_half_open:
                continue  # into nothing
            if source is line.near and line.left is not None:
                data, line.left = data[: line.left], line.left - len(data)
            await sink.send(data)
            self.moved += len(data)
        line.is_reset = True


def _rst(stream: SocketStream) -> None:
    """Its end is an RST: nothing that still waits in it is sent."""
    raw = stream.extra(SocketAttribute.raw_socket)
    if raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@asynccontextmanager
async def proxying(host: str, port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(host, port)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        proxy.port = listener.extra(SocketAttribute.local_port)
        group.start_soon(listener.serve, proxy.serve)
        yield proxy
        group.cancel_scope.cancel()
