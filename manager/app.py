"""The composition root: the only file that knows every part of the manager, and which store and bus it runs on.

One process, one event loop, one task group. The first loop that fails ends the process, so that a service manager
starts it again: a manager that answers but no longer dispatches would be a lie. Stopping is in order: nobody new
is let in, streams end with a word, hosts are hung up on when everything they said is written down, the store closes.
"""

import gc
import os
import secrets
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import structlog

from manager.bus.local import LocalBus
from manager.core.tasks import Limits
from manager.errors import FleetError
from manager.ports import Clock, Store
from manager.routes.access import Access
from manager.routes.meters import Meters
from manager.routes.services import EdgeConfig, Services, Wire
from manager.routes.site import build
from manager.routes.tokens import new_token
from manager.runtime.announcer import Announcer, FleetLog
from manager.runtime.clock import SystemClock
from manager.runtime.dispatcher import Dispatcher
from manager.runtime.doors import Doors
from manager.runtime.fleet import Fleet
from manager.runtime.follower import Follower
from manager.runtime.host_link import HostLink, Patience
from manager.runtime.notify import Notifier
from manager.runtime.seat import Seat
from manager.runtime.server import SILENCE_S, Server, listen
from manager.runtime.tail import Tail
from manager.runtime.tasks import Tasks
from manager.runtime.watchdog import Watchdog
from manager.settings import Settings, is_loopback
from manager.storage.sqlite import SqliteStore
from shared_types import __version__
from shared_types.api import TokenKind

SWITCH_INTERVAL_S: Final = 0.0001  # the writer thread wants little of the interpreter, and should not wait long for it
# Nearly all garbage of ours goes by counting references; looking for circles among all records in memory at every
# 700th new object cost a seventh of the time.
GC_THRESHOLDS: Final = (10_000, 20, 10)
DATABASE: Final = "manager.db"
GOODBYE: Final = "the manager restarts"

log = structlog.get_logger("manager")


class CannotListen(FleetError):
    """The address cannot be listened on."""


def database_path(settings: Settings) -> Path:
    """Where the embedded store keeps its file."""
    if not settings.database_url:
        return settings.home_path / DATABASE
    return Path(settings.database_url.removeprefix("sqlite:///")).expanduser()


def base_url(host: str, port: int) -> str:
    """How a program on this machine reaches us."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  # named, not bound
    name = everywhere.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


def origins(settings: Settings, port: int) -> frozenset[str]:
    """Exact origins of browsers that may write: our own addresses and those the operator names."""
    own = {base_url(settings.host, port)}
    if is_loopback(settings.host):
        own |= {f"http://127.0.0.1:{port}", f"http://localhost:{port}", f"http://[::1]:{port}"}
    if settings.public_url:
        parts = urlsplit(settings.public_url)
        own.add(f"{parts.scheme}://{parts.netloc}")
    return frozenset(own | set(settings.origins))


def limits_of(settings: Settings) -> Limits:
    return Limits(host_ttl=_ms(settings.host_ttl_s), host_grace=_ms(settings.host_grace_s))


def patience_of(settings: Settings) -> Patience:
    return Patience(
        silence_s=settings.host_ttl_s,
        ping_s=min(30.0, settings.host_ttl_s / 3),
        heartbeat_interval_ms=_ms(settings.heartbeat_s),
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


async def bootstrap_token(store: Store, clock: Clock, path: Path) -> bool:
    """Make the first personal token, if there is none that counts, and write it to `path` for its owner alone.

    The file comes first: a crash between the two leaves a file that the next start replaces, not a token that
    nobody has.
    """
    known = await store.tokens()
    if any(token.kind is TokenKind.PERSONAL and token.revoked_at is None for token in known):
        return False
    secret, token = new_token("bootstrap", TokenKind.PERSONAL, None, clock)
    await anyio.to_thread.run_sync(_write_private, path, secret + "\n")
    await store.add_token(token)
    return True


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


class Manager:
    """Every part, put together and not yet alive. `run` is its life."""

    def __init__(
        self, settings: Settings, store: Store, seat: Seat, server_of: Callable[[Any], Server], port: int
    ) -> None:
        self.seat = seat
        self.clock = SystemClock()
        self.bus = LocalBus()
        self.store = store
        self.tail = Tail()
        self.fleet_log = FleetLog(secrets.token_hex(8))
        self.announcer = Announcer(bus=self.bus, tail=self.tail, fleet=self.fleet_log, clock=self.clock)
        self.fleet = Fleet(store=store, announcer=self.announcer, clock=self.clock)
        self.tasks = Tasks(
            store=store,
            fleet=self.fleet,
            announcer=self.announcer,
            clock=self.clock,
            max_queued=settings.max_queued,
            queue_ttl_ms=_ms(settings.queue_ttl_s),
        )
        self.dispatcher = Dispatcher(
            store=store,
            bus=self.bus,
            fleet=self.fleet,
            announcer=self.announcer,
            clock=self.clock,
            accept_ms=_ms(settings.accept_s),
        )
        self.watchdog = Watchdog(
            store=store, fleet=self.fleet, announcer=self.announcer, clock=self.clock, limits=limits_of(settings)
        )
        self.doors = Doors(self.bus)
        self.notifier = Notifier(os.environ)
        patience, limits = patience_of(settings), limits_of(settings)

        def link(wire: Wire, host_id: str) -> HostLink:
            return HostLink(
                wire,
                host_id,
                store=store,
                announcer=self.announcer,
                fleet=self.fleet,
                clock=self.clock,
                patience=patience,
                limits=limits,
            )

        self.services = Services(
            store=store,
            bus=self.bus,
            clock=self.clock,
            tasks=self.tasks,
            hosts=self.fleet,
            link=link,
            follower=Follower(store=store, tail=self.tail, fleet=self.fleet_log),
            doors=self.doors,
            access=Access(store, self.clock),
            meters=Meters(),
            degraded=self.degraded,
            counters=lambda: self.fleet.counters,
            hang_up=lambda client: self.server.hang_up(client),
            started_at=self.clock.now(),
            config=EdgeConfig(
                origins=origins(settings, port),
                public_url=settings.public_url or None,
                default_agent=settings.default_agent or None,
                log_requests=settings.log_requests,
            ),
        )
        self.server = server_of(self)

    def degraded(self) -> dict[str, str]:
        """Parts that do not work as they should, and how."""
        troubles = {
            "dispatcher": self.dispatcher.trouble,
            "watchdog": self.watchdog.trouble,
            "arrears": self.fleet.arrears.trouble,
        }
        return {name: trouble for name, trouble in troubles.items() if trouble is not None}

    async def drain(self) -> None:
        """Let everybody leave: people's streams with a word, hosts when what they said is written down."""
        self.notifier.say("STOPPING=1")
        self.doors.drain()
        async with anyio.create_task_group() as group:
            group.start_soon(self.fleet.close_all, GOODBYE)
            group.start_soon(self.doors.wait_empty)

    async def run(self, ready: Callable[[], None]) -> None:
        """Until a signal or `server.stop`. A loop that fails ends all others, and its error comes out of here."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.dispatcher.run)
            group.start_soon(self.watchdog.run)
            group.start_soon(self.fleet.arrears.run)
            group.start_soon(self.doors.run)
            group.start_soon(self.notifier.run)
            group.start_soon(self.seat.run)

            async def serve() -> None:
                await self.server.run_until_stopped()
                group.cancel_scope.cancel()

            group.start_soon(serve)
            await self.server.wait_started()
            self.notifier.say("READY=1", f"STATUS=listens on port {self.server.port}")
            ready()


async def run(settings: Settings, ready: Callable[[Mapping[str, object]], None]) -> None:
    """The whole life of a manager. Raises CannotListen, StoreUnavailable."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    settings.home_path.mkdir(parents=True, exist_ok=True, mode=0o700)
    clock = SystemClock()
    seat = Seat(allowed=None if settings.one_processor else ())
    async with AsyncExitStack() as stack:
        path = database_path(settings)
        store = await stack.enter_async_context(
            await SqliteStore.open(path, now=clock.now(), limits=limits_of(settings), reads=seat.free)
        )
        try:
            sock = stack.enter_context(listen(settings.host, settings.port))
        except OSError as error:
            raise CannotListen(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
        port = int(sock.getsockname()[1])
        token_file = settings.token_path
        if token_file is not None and await bootstrap_token(store, clock, token_file):
            log.info("first token made", file=str(token_file))
        manager = Manager(
            settings,
            store,
            seat,
            lambda parts: Server(
                build(parts.services),
                sock,
                drain=parts.drain,
                drain_s=settings.drain_s,
                silence_s=max(SILENCE_S, settings.host_ttl_s),  # a host's own link decides before
            ),
            port,
        )
        url = base_url(settings.host, port)
        log.info("starting", version=__version__, url=url, database=str(path), epoch=store.epoch)
        seat.take([threading.get_native_id(), store.writer_thread], path.parent)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        await manager.run(
            lambda: ready({"url": url, "port": port, "pid": os.getpid(), "version": __version__, "epoch": store.epoch})
        )
        log.info("stopped")
