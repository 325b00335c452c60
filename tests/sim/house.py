"""The real manager and the real gateways on virtual machines.

Everything of manager/core, manager/runtime, manager/storage and gateway/core, gateway/runtime runs as it is, put
together as in manager/app.py and gateway/app.py. Replaced are, while `doubles` is open, only the places where they ask
the operating system: sockets (net.py), disks and keepers (machines.py), threads, clocks and chance (here). The store is
SQLite in memory; what was committed survives a crash of its manager, as on a disk.
"""

import asyncio
import itertools
import json
import logging
import os
import random as random_module
import sqlite3
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path as FilePath
from random import Random
from types import SimpleNamespace
from typing import Any, Final, Protocol, TypeVar
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit

import anyio
import anyio.abc
import anyio.to_thread
import structlog
from anyio._backends import _asyncio as anyio_asyncio

from gateway.agents.command import CommandAgent, CommandKind
from gateway.core.journal import Stream, decode
from gateway.core.link import Link
from gateway.core.policy import Limits as OwnersLimits
from gateway.core.policy import Policy
from gateway.errors import KeeperLost
from gateway.runtime import crew as crew_module
from gateway.runtime import keeper as keeper_module
from gateway.runtime import process as process_module
from gateway.runtime import runner as runner_module
from gateway.runtime import spool as spool_module
from gateway.runtime import uplink as uplink_module
from gateway.runtime.crew import Crew, Identity, Rules
from gateway.runtime.uplink import Uplink
from gateway.runtime.vitals import VitalSigns
from manager.bus import local as bus_module
from manager.bus.local import LocalBus
from manager.core.tasks import Limits
from manager.errors import StoreUnavailable
from manager.routes import events as events_module
from manager.runtime import doors as doors_module
from manager.runtime.announcer import Announcer, FleetLog
from manager.runtime.dispatcher import Dispatcher
from manager.runtime.doors import Doors
from manager.runtime.fleet import Fleet
from manager.runtime.follower import Follower
from manager.runtime.host_link import HostLink, Patience
from manager.runtime.tail import Tail
from manager.runtime.tasks import Tasks
from manager.runtime.watchdog import Watchdog
from manager.storage import opening
from manager.storage import sqlite as sqlite_module
from manager.storage import writer as writer_module
from manager.storage.sqlite import SqliteStore
from shared_types.hosts import AgentInfo
from shared_types.tasks import PermissionMode
from tests.sim.kernel import Loop, Machine, Process, Task, describe
from tests.sim.machines import Attempts, Directory, Disk, KeptFiles
from tests.sim.net import End, GatewaySocket, ManagerWire

T = TypeVar("T")
Job = Callable[[], Coroutine[Any, Any, None]]

AGENT: Final = "opencode"  # a name that every manager knows; what runs under it is a declared program
LIMITS: Final = Limits(start=30_000, longest_run=300_000, stop_give_up=90_000, host_ttl=20_000, host_grace=20_000)
HEARTBEAT_S: Final = 5.0
EXPECTED: Final = frozenset({"attempt.unclear"})  # told with a traceback, and no fault of ours


class Surroundings(Protocol):
    """What the doubles need of the world."""

    random: Random
    is_calm: bool

    def trace(self, who: str, what: str) -> None: ...

    def report(self, what: str) -> None: ...

    async def dial(self, host: str) -> End: ...

    def keeper_wanted(
        self, disk: Disk, spec: keeper_module.Spec, tell: Callable[[int, dict[str, Any]], None]
    ) -> None: ...


class _Here:
    """The world that runs now."""

    world: Surroundings


# --- time, threads and chance -------------------------------------------------------------------------


class MachineClock:
    """`Clock` of manager and gateway."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def now(self) -> int:
        return self._machine.wall()

    def monotonic(self) -> float:
        return self._machine.monotonic()

    def awake_and_asleep(self) -> float:
        return self._machine.boottime()

    def boot_ms(self) -> int:
        return int(self._machine.boottime() * 1000)


def _loop() -> Loop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    return loop


async def _in_thread(call: Callable[..., T], *args: Any, **_: Any) -> T:
    """Instead of anyio.to_thread.run_sync: a moment later, in one piece."""
    world = _Here.world
    await anyio.sleep(0.0005 if world.random.random() < 0.9 else world.random.uniform(0.001, 0.1))
    return call(*args)


class _Scouts:
    async def look(self, call: Callable[[], T], within_s: float) -> T:
        return await _in_thread(call)


class _Inbox:
    """What the store's writer is asked for, carried out some time later, in order. Stands for its thread."""

    def __init__(self) -> None:
        self.writer: Any = None
        self._loop = _loop()
        self._last = 0.0

    def put(self, asked: Any) -> None:
        world = _Here.world
        slow = not world.is_calm and world.random.random() < 0.02
        at = self._loop.time() + (world.random.uniform(0.1, 2.0) if slow else world.random.uniform(0.0002, 0.006))
        self._last = max(at, self._last + 1e-6)
        self._loop.call_at(self._last, self._do, asked)

    def empty(self) -> bool:
        return True

    def _do(self, asked: Any) -> None:
        assert asked is not None, "a manager of the simulation is killed, never closed"
        if callable(asked):
            asked()
        else:
            self.writer._handle(asked)


class _Thread:
    native_id = 1

    def __init__(self, *, target: Any, name: str, daemon: bool) -> None:
        writer = target.__self__
        writer._inbox.writer = writer

    def start(self) -> None:
        return


class _Wakeups(bus_module.LocalWakeups):
    """Its place in a set does not depend on where it lies in memory."""

    __slots__ = ("no",)
    numbers = itertools.count(1)

    def __init__(self, bus: LocalBus, topics: tuple[str, ...]) -> None:
        super().__init__(bus, topics)
        self.no = next(_Wakeups.numbers)

    def __hash__(self) -> int:
        return self.no


class _Scope(anyio_asyncio.CancelScope):
    __slots__ = ("no",)
    numbers = itertools.count(1)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.no = next(_Scope.numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self.no


class Chance:
    """All the chance that the product asks the system for."""

    def __init__(self) -> None:
        self.random = Random(0)

    def __call__(self, size: int) -> bytes:
        return self.random.randbytes(size)


# --- the store's disk ---------------------------------------------------------------------------------


class Database(sqlite3.Connection):
    """The file and every connection to it. It outlives its managers; `is_full`: nothing can be committed."""

    is_full = False
    committed: Callable[[], None] = staticmethod(lambda: None)

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql == "COMMIT":
            if self.is_full:
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            done = super().execute(sql)
            self.committed()
            return done
        return super().execute(sql, *parameters)

    def close(self) -> None:
        """A reader or a writer is done; the file is there still, without what was half done."""
        if self.in_transaction:
            super().execute("ROLLBACK")

    def shred(self) -> None:
        super().close()


class StorePath:
    """The path of the database."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def absolute(self) -> "StorePath":
        return self

    @property
    def parent(self) -> "StorePath":
        return self


def _empty_database() -> bytes:
    db = sqlite3.connect(":memory:", isolation_level=None)
    opening.migrate(db, FilePath("sim"))
    return db.serialize()


class _Empty:
    image: bytes | None = None


def new_database() -> Database:
    if _Empty.image is None:
        _Empty.image = _empty_database()
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, factory=Database)
    db.deserialize(_Empty.image)
    db.execute("PRAGMA cache_size = -8000")
    return db


class _Lock:
    def __init__(self, directory: object) -> None:
        return

    def release(self) -> None:
        return


# --- the gateway's system -----------------------------------------------------------------------------


class _Reader:
    """spool._Reader on a double of the disk."""

    def __init__(self, path: Directory) -> None:
        self.path = path
        self.last = 0
        self._offset = 0

    def look(self, after: int) -> Any:
        if not self.path.has_journal:
            return None
        buffer = bytes(self.path.journal[self._offset :])
        records, last, used = decode(buffer, self.last, after)
        if not used:
            return None
        self.last = last
        self._offset += used
        return spool_module._Batch(records, bool(records) and records[-1].stream is Stream.EXIT)

    async def wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self.path.readers.append(waiter)
        with anyio.move_on_after(spool_module._LOOK_S):
            await waiter
        await anyio.sleep(0.002)  # keeper.HINT_S

    def close(self) -> None:
        return


class _Ready:
    """A keeper's first process: gets the spec, tells how the start went."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    async def hand_over(self, told: bytes) -> tuple[int, bytes, bytes]:
        report: asyncio.Future[tuple[int, bytes, bytes]] = asyncio.get_running_loop().create_future()
        process = _loop().process

        def tell(code: int, facts: Mapping[str, Any]) -> None:
            if process.is_alive and not report.done():
                report.set_result((code, json.dumps({"exit": code, **facts}).encode(), b""))

        _Here.world.keeper_wanted(self._disk, keeper_module.Spec(told), tell)
        return await report


async def _prepare(home: Disk) -> _Ready:
    return _Ready(home)


async def _talk(self: Any, line: bytes) -> bytes | None:
    """process.Keeper._talk: one question over ctl.sock, one answer."""
    await anyio.sleep(_Here.world.random.uniform(0.0001, 0.002))
    keeper = self.path.keeper
    if keeper is None:
        return None
    answer = json.dumps(keeper.answer(json.loads(line))).encode() + b"\n"
    await anyio.sleep(_Here.world.random.uniform(0.0001, 0.002))
    return answer


async def _wait_gone(self: Any) -> Any:
    while self.path.keeper is not None:
        await _Reader(self.path).wait()
    if (facts := self.exit_facts) is None:
        raise KeeperLost(f"the keeper of attempt {self.uid} died without an end")
    return facts


def _lay_out(home: Disk, this: Any, launch: Any) -> None:
    path = ATTEMPTS.make(home, this.uid)
    KEPT.write(path, this)


async def _connect(url: str, **_: Any) -> GatewaySocket:
    (host,) = parse_qs(urlsplit(url).query)["hostId"]
    return GatewaySocket(await _Here.world.dial(host))


ATTEMPTS: Final = Attempts()
KEPT: Final = KeptFiles()
CHANCE: Final = Chance()


class _Workspace:
    """Every directory is there and allowed."""

    @staticmethod
    def working_directory(wanted: str, default: FilePath, roots: Sequence[FilePath]) -> FilePath:
        return default

    @staticmethod
    def enter(wanted: str, default: FilePath, roots: Sequence[FilePath], names: Sequence[str]) -> tuple[FilePath, str]:
        return default, ""

    @staticmethod
    def nearest_first(roots: Sequence[FilePath], path: FilePath) -> list[FilePath]:
        return list(roots)


class _Time:
    @staticmethod
    def monotonic() -> float:
        return _loop().time()


def _logged(logger: object, method: str, event: MutableMapping[str, Any]) -> Any:
    world = _Here.world
    name = event.pop("event")
    facts = " ".join(f"{key}={value}" for key, value in event.items() if key != "exc_info")
    if event.get("exc_info") and name not in EXPECTED:
        error = sys.exc_info()[1]
        world.report(f"a fault of ours: {name} {facts} {'' if error is None else describe(error)}")
    try:
        who = _loop().process.name
    except RuntimeError:
        who = "?"
    world.trace(who, f"log {method}: {name} {facts}")
    raise structlog.DropEvent


@contextmanager
def doubles() -> Iterator[None]:
    """While this is open, the runtimes of this process live in simulations. `verbose`: all they log is traced."""
    with ExitStack() as stack:
        for target, name, double in (
            (sqlite_module, "DirectoryLock", _Lock),
            (sqlite_module, "open_writer", lambda path: path.db),
            (sqlite_module, "open_reader", lambda path: path.db),
            (writer_module, "threading", SimpleNamespace(Thread=_Thread)),
            (writer_module, "SimpleQueue", _Inbox),
            (anyio.to_thread, "run_sync", _in_thread),
            (anyio_asyncio, "CancelScope", _Scope),
            (bus_module, "LocalWakeups", _Wakeups),
            (events_module, "time", _Time),
            (doors_module, "time", _Time),
            (os, "urandom", CHANCE),
            (random_module, "_urandom", CHANCE),
            (crew_module, "attempt", ATTEMPTS),
            (crew_module, "kept", KEPT),
            (crew_module, "workspace", _Workspace),
            (crew_module, "Scouts", _Scouts),
            (crew_module, "_lay_out", _lay_out),
            (runner_module, "attempt", ATTEMPTS),
            (process_module, "attempt", ATTEMPTS),
            (process_module, "make", ATTEMPTS.make),
            (process_module, "prepare", _prepare),
            (process_module.Keeper, "_talk", _talk),
            (process_module.Keeper, "wait_gone", _wait_gone),
            (spool_module, "attempt", ATTEMPTS),
            (spool_module, "_Reader", _Reader),
            (uplink_module, "connect", _connect),
        ):
            stack.enter_context(patch.object(target, name, double))
        before = structlog.get_config()
        structlog.configure(
            processors=[_logged],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            cache_logger_on_first_use=False,
        )
        stack.callback(lambda: structlog.configure(**before))
        level = writer_module.log.level
        writer_module.log.setLevel(logging.CRITICAL)
        stack.callback(lambda: writer_module.log.setLevel(level))
        yield


def enter(world: Surroundings, seed: str) -> None:
    """From now on this is the world."""
    _Here.world = world
    CHANCE.random = Random(f"{seed}:chance")
    for numbered in (_Scope, _Wakeups, Task):
        numbered.numbers = itertools.count(1)


# --- manager ------------------------------------------------------------------------------------------


class Manager:
    """One life of the manager's process: manager/app.Manager without HTTP."""

    def __init__(self, machine: Machine, db: Database, died: Callable[[Process], None]) -> None:
        self.clock = MachineClock(machine)
        self.db = db
        self.is_ready = False
        self.group: anyio.abc.TaskGroup
        self._jobs: list[Job] = []
        self._asked: anyio.Event
        self.store: SqliteStore
        self.fleet: Fleet
        self.tasks: Tasks
        self.process = Process(machine, "manager", died)
        self.process.start(self._live())

    async def _live(self) -> None:
        path: Any = StorePath(self.db)
        try:
            self.store = store = await SqliteStore.open(path, now=self.clock.now(), limits=LIMITS)
        except StoreUnavailable as error:  # a service manager starts it again
            _Here.world.trace("manager", f"cannot start: {error}")
            return
        clock = self.clock
        self.bus = LocalBus()
        tail = Tail()
        fleet_log = FleetLog("sim")
        self.announcer = Announcer(bus=self.bus, tail=tail, fleet=fleet_log, clock=clock)
        self.fleet = Fleet(store=store, announcer=self.announcer, clock=clock)
        self.tasks = Tasks(store=store, fleet=self.fleet, announcer=self.announcer, clock=clock)
        dispatcher = Dispatcher(
            store=store, bus=self.bus, fleet=self.fleet, announcer=self.announcer, clock=clock, accept_ms=8_000
        )
        watchdog = Watchdog(
            store=store,
            fleet=self.fleet,
            announcer=self.announcer,
            clock=clock,
            limits=LIMITS,
        )
        self.doors = Doors(self.bus)
        self.follower = Follower(store=store, tail=tail, fleet=fleet_log)
        ttl_s = LIMITS.host_ttl / 1000
        self.patience = Patience(
            silence_s=ttl_s, ping_s=min(30.0, ttl_s / 3), heartbeat_interval_ms=int(HEARTBEAT_S * 1000)
        )
        async with anyio.create_task_group() as self.group:
            for part in (dispatcher, watchdog, self.fleet.arrears, self.doors):
                self.group.start_soon(part.run)
            self.is_ready = True
            while True:
                self._asked = anyio.Event()
                jobs, self._jobs = self._jobs, []
                for job in jobs:
                    self.group.start_soon(job)
                if not jobs:
                    await self._asked.wait()

    async def serve(self, end: End, notice: Callable[[bytes], None]) -> None:
        link = HostLink(
            ManagerWire(end, notice),
            end.connection.path.host,
            store=self.store,
            announcer=self.announcer,
            fleet=self.fleet,
            clock=self.clock,
            patience=self.patience,
        )
        await link.serve()

    def do(self, what: Job) -> None:
        """In its task group, when it comes round to it."""

        def ask() -> None:
            self._jobs.append(what)
            self._asked.set()

        self.process.soon(ask)


# --- gateway ------------------------------------------------------------------------------------------


class _Inventory:
    def __init__(self) -> None:
        kind = CommandKind(CommandAgent(name=AGENT, argv=("agent",), output="jsonl", input="lines"))
        self.kinds = {AGENT: kind}
        self.found = {AGENT: AgentInfo(agent=AGENT, version="1", path="/bin/agent", auth_ok=True)}
        self.infos = tuple(self.found.values())
        self.offered = (AGENT,)
        self.environ: Mapping[str, str] = {}

    def environment(self, kind: object) -> dict[str, str]:
        return {}


class Gateway:
    """One life of a gateway's process: gateway/app.put_together."""

    def __init__(
        self, machine: Machine, disk: Disk, host: str, slots: int, random: Random, died: Callable[[Process], None]
    ) -> None:
        self.host = host
        self.disk = disk
        self.slots = slots
        self.link = Link(host)
        self.crew: Crew | None = None
        self._random = random
        self._clock = MachineClock(machine)
        self.process = Process(machine, f"gateway {host}", died)
        self.process.start(self._live())

    async def _live(self) -> None:
        inventory: Any = _Inventory()
        vitals = VitalSigns(FilePath("/"))  # nobody looks
        warm: Any = SimpleNamespace(take=lambda: None, refill=lambda: None)
        cgroups: Any = SimpleNamespace(find=lambda: None, path=lambda uid: None)
        home: Any = self.disk
        identity = Identity(
            host_id=self.host,
            name=self.host,
            version="sim",
            boot_id=self.disk.boot_id(),
            instance=f"{self._random.getrandbits(64):x}",
        )
        work = FilePath("/work")
        self.crew = crew = Crew(
            self.link,
            identity,
            Rules(cwd=work, roots=(work,), task_env=None, modes=frozenset(PermissionMode)),
            Policy(OwnersLimits(self.slots, LIMITS.longest_run, {})),
            home=home,
            inventory=inventory,
            vitals=vitals,
            warm=warm,
            cgroups=cgroups,
            clock=self._clock,
        )
        uplink = Uplink(
            "ws://127.0.0.1/agent/ws",
            "token",
            self.link,
            crew,
            host_id=self.host,
            clock=self._clock,
            vitals=vitals,
            random=self._random,
        )
        crew.nudge = uplink.nudge
        async with anyio.create_task_group() as group:
            await group.start(crew.run)
            group.start_soon(uplink.run)
            await anyio.sleep_forever()
