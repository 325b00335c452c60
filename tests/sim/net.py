"""The network between gateways and manager: connections that are slow, cut, half open, or late.

What was sent before a cut may arrive long after it, on a connection that its sender has given up. What was sent into
a hole never does. Each side learns of the end of a connection by itself, or never.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from types import SimpleNamespace
from typing import Any, Final

import anyio
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Close

from manager.runtime.host_link import WireClosed
from tests.sim.kernel import Kernel, Process

WINDOW: Final = 32  # frames that were sent and not read
UNSENT_S: Final = 30.0  # TCP_USER_TIMEOUT
OPEN_S: Final = 20.0


class Path:
    """The way between one host and the manager. All of its connections share its cuts."""

    def __init__(self, kernel: Kernel, host: str, random: Random, trace: Callable[[str, str], None]) -> None:
        self.kernel = kernel
        self.host = host
        self.random = random
        self.trace = trace
        self.is_cut = False
        self.is_calm = False
        self.doubles = 0.0  # chance that a word of the manager is said twice
        self.cuts = 0
        self.connections: list[Connection] = []

    def latency(self) -> float:
        if self.is_calm or self.random.random() < 0.95:
            return self.random.uniform(0.0005, 0.01)
        return self.random.uniform(0.01, 1.5)

    def cut(self) -> None:
        self.is_cut = True
        self.cuts += 1
        number = self.cuts
        for connection in self.connections:
            self._notice(connection, lambda: self.is_cut and self.cuts == number)

    def heal(self) -> None:
        self.is_cut = False
        for connection in list(self.connections):
            connection.heal()

    def make_hole(self) -> None:
        """Its connections go nowhere from now on: half open, until somebody notices."""
        for connection in self.connections:
            connection.is_hole = True
            self._notice(connection, lambda: True)

    def _notice(self, connection: "Connection", is_still: Callable[[], bool]) -> None:
        """The keepalive of the gateway's library: a ping every 30 s, answered within 60 s."""

        def look() -> None:
            if is_still():
                connection.client.break_("keepalive")

        self.kernel.after(self.random.uniform(60.0, 90.0), look)


class End:
    """One side's socket."""

    def __init__(self, connection: "Connection", process: Process) -> None:
        self.connection = connection
        self.process = process
        self.peer: End
        self.inbox: deque[bytes] = deque()
        self.is_closed = False  # by its owner
        self.is_over = False  # nothing will come any more
        self.goodbye: tuple[int, str] | None = None
        self.unread = 0  # frames of ours that the peer has not read
        self._stalled: deque[tuple[str, Any]] = deque()
        self._last = 0.0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    # --- for its owner

    async def receive(self) -> bytes | None:
        """None when it is over."""
        while True:
            if self.is_closed:
                return None
            if self.inbox:
                self.peer.taken(1)
                return self.inbox.popleft()
            if self.is_over:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader

    async def send(self, data: bytes) -> bool:
        """False: it is over."""
        while self.unread >= WINDOW and not (self.is_over or self.is_closed):
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer
        if self.is_over or self.is_closed:
            return False
        self.unread += 1
        self.put("data", data)
        return True

    def close(self, goodbye: tuple[int, str] | None) -> None:
        """With a word, or (None) as a process that was killed."""
        if not self.is_closed:
            self.is_closed = True
            if not self.is_over:
                self.put("end", goodbye)
            self._wake()
            self.connection.leave()

    def break_(self, why: str) -> None:
        """It is over for this side."""
        if not (self.is_over or self.is_closed):
            self.connection.path.trace(self.process.name, f"connection {self.connection.no} breaks: {why}")
            self.is_over = True
            self._wake()

    # --- on the wire

    def put(self, kind: str, what: Any) -> None:
        path = self.connection.path
        at = max(self._last + 1e-6, path.kernel.now + path.latency())
        self._last = at
        path.kernel.after(at - path.kernel.now, lambda: self._arrive(kind, what))

    def _arrive(self, kind: str, what: Any) -> None:
        connection = self.connection
        if connection.is_hole or (connection.path.is_cut or self._stalled):
            self._stalled.append((kind, what))
            if len(self._stalled) == 1:
                head = self._stalled[0]

                def look() -> None:
                    if self._stalled and self._stalled[0] is head:
                        self.break_("unsent")

                connection.path.kernel.after(UNSENT_S, look)
            return
        self._deliver(kind, what)

    def flush(self) -> None:
        """The path is there again, and what was on it."""
        stalled, self._stalled = self._stalled, deque()
        for kind, what in stalled:
            self._deliver(kind, what)

    @property
    def is_stalled(self) -> bool:
        return bool(self._stalled)

    def _deliver(self, kind: str, what: Any) -> None:
        peer = self.peer
        if not peer.process.is_alive or peer.is_closed or peer.is_over:
            if kind == "data" and not self.is_over:
                self.connection.path.kernel.after(0.001, lambda: self.break_("reset"))
            return
        if kind == "data":
            peer.inbox.append(what)
        else:
            peer.is_over = True
            peer.goodbye = what
        peer._wake()

    def taken(self, count: int) -> None:
        self.unread -= count
        if self._writer is not None and self.unread < WINDOW:
            self._settle(self._writer)

    def _wake(self) -> None:
        for waiter in (self._reader, self._writer):
            if waiter is not None:
                self._settle(waiter)

    def _settle(self, waiter: "asyncio.Future[None]") -> None:
        if self.process.is_alive and not waiter.done():
            waiter.set_result(None)


class Connection:
    def __init__(self, path: Path, no: int, gateway: Process, manager: Process) -> None:
        self.path = path
        self.no = no
        self.is_hole = False
        self.client = End(self, gateway)
        self.server = End(self, manager)
        self.client.peer, self.server.peer = self.server, self.client
        path.connections.append(self)

    def leave(self) -> None:
        if self.client.is_closed and self.server.is_closed and self in self.path.connections:
            self.path.connections.remove(self)

    def heal(self) -> None:
        if self.is_hole:
            return
        for end in (self.client, self.server):
            if end.is_stalled:
                wait = self.path.random.uniform(0.0, 0.1 if self.path.is_calm else 15.0)  # its backoff

                def flush(end: End = end) -> None:
                    if not self.path.is_cut:
                        end.flush()

                self.path.kernel.after(wait, flush)

    def process_died(self, process: Process) -> None:
        for end in (self.client, self.server):
            if end.process is process:
                end.close(None)


class GatewaySocket:
    """What the uplink takes for a `ClientConnection`."""

    def __init__(self, end: End) -> None:
        self._end = end
        self.transport = SimpleNamespace(get_extra_info=lambda name: None)

    async def recv(self) -> str:
        data = await self._end.receive()
        if data is None:
            raise self._closed()
        return data.decode()

    async def send(self, data: bytes, *, text: bool) -> None:
        if not await self._end.send(bytes(data)):
            raise self._closed()

    async def close(self) -> None:
        path = self._end.connection.path
        is_dead = path.is_cut or self._end.connection.is_hole
        self._end.close((1000, ""))
        await anyio.sleep(10.0 if is_dead else 0.002)  # for the answer to our goodbye

    def _closed(self) -> ConnectionClosedError:
        goodbye = self._end.goodbye
        return ConnectionClosedError(None if goodbye is None else Close(*goodbye), None, None)


class ManagerWire:
    """What a `HostLink` takes for its `Wire`; routes/link.HostWire is the real one."""

    def __init__(self, end: End, notice: Callable[[bytes], None]) -> None:
        self._end = end
        self._notice = notice

    async def receive(self) -> bytes | None:
        return await self._end.receive()

    async def send(self, data: bytes) -> None:
        if not await self._end.send(data):
            raise WireClosed("the connection is over")
        self._notice(data)
        path = self._end.connection.path
        if path.doubles and path.random.random() < path.doubles and b'"task:' in data[:16]:
            self._end.unread += 1
            self._end.put("data", data)

    async def close(self, code: int, reason: str) -> None:
        self._end.close((code, reason))


Serve = Callable[[End], Coroutine[Any, Any, None]]
