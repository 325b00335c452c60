"""The listening socket and uvicorn, owned by us: who drains, who is cut, and what happens on a signal.

It knows no route. On a stop: no new connections, then `drain` has DRAIN_S to let streams and links end politely,
then uvicorn closes what is left. Invariant: whatever the code above does, a peer frees its memory soon when its machine
acknowledges nothing (TCP_USER_TIMEOUT), and a WebSocket's also when it gives no sign of life (`silence_s`).
"""

import asyncio
import logging
import math
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Final, cast

import anyio
import uvicorn
from litestar.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from manager.runtime.corked import Corked
from shared_types.events import MAX_INBOUND_BYTES

USER_TIMEOUT_MS: Final = 20_000
SEND_BUFFER: Final = 128 * 1024
BACKLOG: Final = 2048
PING_S: Final = 30.0
SILENCE_S: Final = 90.0
LEAVE_S: Final = 3


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by every accepted connection. Without these a client that never reads keeps megabytes in the
        # kernel and its connection for ever: closing waits for a buffer that nobody empties.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


class _Denials(logging.Filter):
    """uvicorn takes a handshake that we refused with a reason for an application that forgot to answer."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "without completing handshake" not in record.getMessage()


class _Http(HttpToolsProtocol):
    """uvicorn's, writing once per turn of the loop; a WebSocket takes over the connection as it is."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(cast(asyncio.Transport, Corked(transport, self.loop)))


class _WebSocket(WebSocketsSansIOProtocol):
    """uvicorn's, with another rule for when a peer is dead: it gave no sign of life, whichever it be, for some pings.
    While we do not read, a peer is not silent: it is we who do not listen.

    Pings are counted, not seconds: a manager that was stopped for an hour finds nobody dead when it goes on.
    """

    def __init__(self, *arguments: Any, patience: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._patience = patience  # pings that may stay without any sign of life
        self._unheard = 0  # pings since the last one

    def data_received(self, data: bytes) -> None:
        self._unheard = 0
        super().data_received(data)

    def send_keepalive_ping(self) -> None:
        if self.read_paused:
            self._unheard = 0
        elif self._unheard >= self._patience:
            self.transport.abort()  # closing would wait for a peer that is not there
            return
        self._unheard += 1
        super().send_keepalive_ping()


class Server(uvicorn.Server):
    """uvicorn with our way of stopping. `run_until_stopped` is its life; `stop` ends it from inside.

    `ping_s`: how often the peer of a WebSocket is asked whether it lives; `silence_s`: how long it may say nothing.
    """

    def __init__(
        self,
        app: ASGIApp,
        sock: socket.socket,
        *,
        drain: Callable[[], Awaitable[None]],
        drain_s: float,
        ping_s: float = PING_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        config = uvicorn.Config(
            cast(Any, app),
            http=_Http,
            ws=cast(Any, partial(_WebSocket, patience=math.ceil(silence_s / ping_s))),
            ws_max_size=MAX_INBOUND_BYTES,
            ws_per_message_deflate=False,
            ws_ping_interval=ping_s,
            ws_ping_timeout=None,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=LEAVE_S,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
        super().__init__(config)
        self._sock = sock
        self._listens = anyio.Event()
        self._stopped = anyio.Event()
        self._drain = drain
        self._drain_s = drain_s
        logging.getLogger("uvicorn.error").addFilter(_Denials())

    @property
    def port(self) -> int:
        return int(self._sock.getsockname()[1])

    async def run_until_stopped(self) -> None:
        """Serve until a signal or `stop`. Returns when every connection is closed; signals are not raised again."""
        try:
            await self.serve(sockets=[self._sock])
        finally:
            self._stopped.set()

    async def wait_started(self) -> None:
        await self._listens.wait()

    async def wait_stopped(self) -> None:
        await self._stopped.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listens.set()

    def stop(self) -> None:
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        with anyio.move_on_after(self._drain_s):
            await self._drain()
        await super().shutdown(sockets)
        self._captured_signals.clear()  # a stop that was asked for is a success: exit code 0

    def hang_up(self, client: tuple[str, int] | None) -> None:
        """Cut a peer's connection at once. Closing would wait for the peer to take what is buffered."""
        for connection in cast(Iterable[Any], list(self.server_state.connections)):
            if client is not None and connection.client == client and connection.transport is not None:
                connection.transport.abort()
