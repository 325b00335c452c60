"""The socket to the manager: dialled, spoken on, lost, and dialled again.

One connection at a time, and on it four loops that end together: `_read`, `_write` (the only writer), `_beat`,
`_notice_sleep`. What is said is core/link's business, what is done about orders is the host's (runtime/crew.py).

    dialling again   1, 2, 4 ... 60 s, a quarter more or less; from the start only after a welcome
    not welcome      401, 403, `registered {ok: false}`, or another gateway has our place: every 5 minutes
    revoked          for good, however the manager says it: raises Revoked

Silence is death: WebSocket pings every 30 s, answered within 60 s, or the connection is given up; so it is when a
full manager, which pings by itself, says nothing for 90 s. Cancelling `run` closes the socket within CLOSE_S.
"""

import logging
import socket as sockets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import ip_address
from random import Random
from typing import Final, Protocol
from urllib.parse import urlsplit

import anyio
import structlog
from msgspec import MsgspecError, Struct, json
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from gateway.core.backoff import UNWELCOME_S, delay, spread
from gateway.core.link import FULL, Link, Phase
from gateway.core.orders import Order
from gateway.errors import LinkLost, NotWelcome, Revoked
from gateway.runtime import crash
from gateway.runtime.clock import Clock
from gateway.runtime.vitals import VitalSigns
from shared_types.codec import Malformed, decode_from_manager, encode
from shared_types.hosts import EffectiveConfig
from shared_types.messages import ConfigUpdate, Ping, Register, TaskStarted, Unknown

OPEN_S: Final = 20.0
WELCOME_S: Final = 30.0
SILENCE_S: Final = 90.0
PING_S: Final = 30.0
PONG_S: Final = 60.0
CLOSE_S: Final = 3.0
UNSENT_MS: Final = 30_000  # bytes that the peer's machine does not take for so long: it is gone
SLEPT_S: Final = 5.0
MAX_BACKLOG: Final = 10_000
MAX_FRAME: Final = 4 * 1024 * 1024
UNAUTHORIZED: Final = 4401
SUPERSEDED: Final = 4409
REFUSALS: Final = frozenset({UNAUTHORIZED, 4403, SUPERSEDED, 4426})
REVOKED: Final = "REVOKED"

_log = structlog.get_logger(__name__)
# The library's log shows every header at its lowest level, our token among them.
_wire_log = logging.getLogger(f"{__name__}.wire")
_wire_log.setLevel(logging.INFO)


class Host(Protocol):
    """What the uplink needs of the host it speaks for."""

    @property
    def effective(self) -> EffectiveConfig: ...

    def greeting(self) -> Register: ...

    def obey(self, orders: Sequence[Order]) -> None: ...


class _Problem(Struct):
    code: str = ""
    detail: str = ""


class Uplink:
    """`on_welcome` is called after each welcome of the manager."""

    def __init__(
        self,
        url: str,
        token: str,
        link: Link,
        host: Host,
        *,
        host_id: str,
        clock: Clock,
        vitals: VitalSigns,
        random: Random,
        on_welcome: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._url = f"{url}?hostId={host_id}"
        self._token = token
        self._link = link
        self._host = host
        self._clock = clock
        self._vitals = vitals
        self._random = random
        self._on_welcome = on_welcome
        self._news = anyio.Event()
        self._pace = anyio.Event()
        self._redial = anyio.Event()
        self._failures = 0
        self._reported: EffectiveConfig | None = None
        self._unknown: set[str] = set()

    def __repr__(self) -> str:
        return f"<Uplink {self._url} {self._link.phase.name} failures={self._failures}>"

    # for the rest of the gateway

    def nudge(self) -> None:
        """There may be something to say."""
        self._news.set()

    def redial(self) -> None:
        """Leave this connection, or this waiting, and greet the manager anew."""
        self._redial.set()

    def beat(self) -> None:
        """A sign of life now, with the configuration if that has changed."""
        config = self._host.effective
        news = config if config != self._reported else None
        self._reported = config
        self._link.beat(self._clock.now(), self._vitals.latest, news, self._clock.boot_ms())
        self._pace.set()
        self.nudge()

    async def run(self) -> None:
        """For as long as the gateway lives. Raises Revoked."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((LinkLost, NotWelcome)), wait=self._patience, sleep=self._wait
        )
        async for attempt in retrying:
            with attempt:
                await self._connection()

    # dialling

    def _patience(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, NotWelcome):
            seconds = spread(UNWELCOME_S, self._random)
            _log.error("manager.refuses", why=str(error), again_in_s=round(seconds))
        else:
            seconds = delay(self._failures, self._random)
            self._failures += 1
            _log.warning("manager.away", why=str(error), again_in_s=round(seconds, 1))
        return seconds

    async def _wait(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._redial.wait()

    async def _connection(self) -> None:
        """One connection from dialling to its end. Always raises why it ended."""
        self._redial = anyio.Event()
        socket = await self._dial()
        why: Exception = LinkLost("the connection ended")
        try:
            why = await self._talk(socket)
        finally:
            self._link.closed()
            self._host.obey(self._link.orders())
            with anyio.move_on_after(CLOSE_S, shield=True):
                await socket.close()
        raise why

    async def _dial(self) -> ClientConnection:
        near = is_loopback(self._url)
        try:
            socket = await connect(
                self._url,
                additional_headers={"Authorization": f"Bearer {self._token}"},
                compression=None if near else "deflate",
                proxy=None if near else True,
                open_timeout=OPEN_S,
                ping_interval=PING_S,
                ping_timeout=PONG_S,
                close_timeout=CLOSE_S,
                max_size=MAX_FRAME,
                max_queue=16,
                logger=_wire_log,
            )
        except InvalidStatus as error:
            raise _refused(error) from error
        except (OSError, TimeoutError, WebSocketException, EOFError) as error:
            raise LinkLost(f"{type(error).__name__}: {error}") from error
        raw = socket.transport.get_extra_info("socket")
        if raw is not None and hasattr(sockets, "TCP_USER_TIMEOUT"):
            raw.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_USER_TIMEOUT, UNSENT_MS)
        return socket

    # one connection

    async def _talk(self, socket: ClientConnection) -> Exception:
        """Why it ended."""
        greeting = self._host.greeting()
        self._reported = greeting.config
        self._link.opened(greeting)
        causes: list[Exception] = []

        async def until_it_ends(loop: Callable[[ClientConnection], Awaitable[None]]) -> None:
            try:
                await loop(socket)
            except ConnectionClosed as error:
                causes.append(_closed(error))
            except (LinkLost, NotWelcome, Revoked) as error:
                causes.append(error)
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for loop in (self._read, self._write, self._beats, self._notice_sleep, self._leave):
                group.start_soon(until_it_ends, loop)
        return _gravest(causes)

    async def _read(self, socket: ClientConnection) -> None:
        with anyio.move_on_after(WELCOME_S):
            while self._link.phase is Phase.GREETING:
                await self._heard(await socket.recv())
        if self._link.phase is Phase.GREETING:
            raise LinkLost(f"the manager did not answer our greeting within {WELCOME_S:.0f} s")
        while True:
            # A base manager of another make need not ping: there, WebSocket pings alone watch the line.
            with anyio.move_on_after(SILENCE_S if self._link.dialect == FULL else None) as patience:
                data = await socket.recv()
            if patience.cancelled_caught:
                raise LinkLost(f"the manager said nothing for {SILENCE_S:.0f} s")
            await self._heard(data)

    async def _heard(self, data: str | bytes) -> None:
        try:
            message = decode_from_manager(data)
        except Malformed as error:
            _log.warning("manager.malformed", error=str(error)[:500])
            return
        if isinstance(message, Unknown):
            if message.type not in self._unknown and len(self._unknown) < 100:
                self._unknown.add(message.type)
                _log.warning("manager.unknown_message", type=message.type[:100])
            return
        was = self._link.phase
        self._link.heard(message, self._clock.boot_ms())
        if (refusal := self._link.refusal) is not None:
            error_class = Revoked if _says_revoked(refusal.code or "") else NotWelcome
            raise error_class(refusal.error or refusal.code or "the manager gives no reason")
        if isinstance(message, ConfigUpdate):
            self._reported = None  # it is answered even when nothing changes
        self._host.obey(self._link.orders())
        if self._link.backlog > MAX_BACKLOG:
            raise LinkLost("the manager asks and takes no answer")
        if was is Phase.GREETING and self._link.phase is Phase.TALKING:
            await self._welcomed()
        if isinstance(message, Ping | ConfigUpdate):
            self.beat()
        self.nudge()

    async def _welcomed(self) -> None:
        self._failures = 0
        _log.info("manager.welcome", url=self._url, dialect="full" if self._link.dialect == FULL else "base")
        answer = self._link.answer
        assert answer is not None
        self.beat()
        if self._on_welcome is not None:
            await self._on_welcome()

    async def _write(self, socket: ClientConnection) -> None:
        while True:
            self._news = anyio.Event()  # before looking: what comes while we look is not missed
            now = self._clock.monotonic()
            while (frame := self._link.next_frame(now)) is not None:
                await socket.send(encode(frame), text=True)
                if isinstance(frame, TaskStarted):
                    crash.here("started_said")
                now = self._clock.monotonic()
            self._host.obey(self._link.orders())
            with anyio.move_on_after(max(0.0, self._link.next_at() - now)):
                await self._news.wait()

    async def _beats(self, _socket: ClientConnection) -> None:
        while True:
            self._pace = anyio.Event()
            with anyio.move_on_after(self._host.effective.heartbeat_interval / 1000) as patience:
                await self._pace.wait()
            if patience.cancelled_caught:
                self.beat()

    async def _notice_sleep(self, _socket: ClientConnection) -> None:
        """A machine that slept has a connection that only it believes in."""
        asleep = self._asleep()
        while True:
            await anyio.sleep(SLEPT_S)
            if (slept := self._asleep() - asleep) > SLEPT_S:
                raise LinkLost(f"the machine slept for {slept:.0f} s")

    def _asleep(self) -> float:
        return self._clock.awake_and_asleep() - self._clock.monotonic()

    async def _leave(self, _socket: ClientConnection) -> None:
        await self._redial.wait()
        self._failures = 0
        raise LinkLost("this host has news for its greeting")


def is_loopback(url: str) -> bool:
    """Whether the address is of this machine.

    >>> is_loopback("ws://localhost:3001/x"), is_loopback("ws://[::1]:1/"), is_loopback("wss://fleet.example/")
    (True, True, False)
    """
    name = urlsplit(url).hostname or ""
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def _refused(error: InvalidStatus) -> Exception:
    """A handshake that was answered with a status."""
    status = error.response.status_code
    try:
        problem = json.decode(error.response.body or b"{}", type=_Problem)
    except (MsgspecError, UnicodeDecodeError, RecursionError):  # not the manager's: something stands in between
        problem = _Problem()
    words = f"HTTP {status} {problem.detail or problem.code}".strip()
    if status not in (401, 403):
        return LinkLost(words)
    return Revoked(words) if _says_revoked(problem.code) else NotWelcome(words)


def _closed(error: ConnectionClosed) -> Exception:
    """A connection that was closed, by the manager or by the wire."""
    if error.rcvd is None:
        return LinkLost(f"the connection broke: {error}")
    code, reason = error.rcvd.code, error.rcvd.reason
    if code == UNAUTHORIZED and _says_revoked(reason):
        return Revoked(f"the manager closed the connection: {code} {reason}")
    if code == SUPERSEDED:
        return NotWelcome(f"another gateway has connected as this host ({reason or code}): only one may")
    if code in REFUSALS:
        return NotWelcome(f"the manager closed the connection: {code} {reason}")
    return LinkLost(f"the manager closed the connection: {code} {reason}")


def _says_revoked(words: str) -> bool:
    """Whether this code, or this reason that begins with one, ends it for good. Nothing less does: nobody may be near
    to start a gateway again that stopped by mistake.

    >>> _says_revoked("REVOKED: this host's token is revoked"), _says_revoked("revoked"), _says_revoked("not revoked")
    (True, True, False)
    """
    return words.partition(":")[0].strip().upper() == REVOKED


def _gravest(causes: Iterable[Exception]) -> Exception:
    """Of several things that ended a connection, the one that says most about dialling again."""
    order = (Revoked, NotWelcome, LinkLost)
    return min(causes, key=lambda cause: order.index(type(cause)), default=LinkLost("the connection ended"))
