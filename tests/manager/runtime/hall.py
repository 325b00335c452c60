"""The manager's live half with a real store in a directory of the test, and hosts over wires in memory.

async with hall(tmp_path) as h:
    host = await h.online(FakeHost("h1"))
    task = await h.submit()
    await h.until(task, TaskState.COMPLETED)
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from inspect import isawaitable
from pathlib import Path
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskGroup

from manager.bus.local import LocalBus
from manager.core.tasks import DEFAULT_LIMITS, Limits
from manager.runtime.announcer import Announcer, FleetLog
from manager.runtime.clock import SystemClock
from manager.runtime.dispatcher import Dispatcher
from manager.runtime.fleet import Fleet
from manager.runtime.host_link import DEFAULT_PATIENCE, HostLink, Patience
from manager.runtime.tail import Tail
from manager.runtime.tasks import Tasks
from manager.runtime.watchdog import Watchdog
from manager.storage.sqlite import SqliteStore
from shared_types.api import TaskCreate
from shared_types.tasks import Task, TaskState
from tests.fakes.host import FakeHost, Hand, LineClosed, MemoryLine, MemoryWire, memory_line

PATIENCE_S = 10.0


class SetClock(SystemClock):
    """The time of this machine, and however much later the test wants it to be; `set_by_ms` is what somebody set its
    time of day by, `away_s` how long it did nothing at all.
    """

    def __init__(self) -> None:
        self.later_ms = 0
        self.set_by_ms = 0
        self.away_s = 0.0
        super().__init__(wall=lambda: time.time_ns() + self.set_by_ms * 1_000_000)

    def now(self) -> int:
        return super().now() + self.later_ms

    def monotonic(self) -> float:
        return super().monotonic() + self.away_s


@dataclass
class Hall:
    store: SqliteStore
    bus: LocalBus
    clock: SetClock
    announcer: Announcer
    fleet: Fleet
    tasks: Tasks
    dispatcher: Dispatcher
    watchdog: Watchdog
    patience: Patience
    group: TaskGroup
    lines: dict[str, MemoryLine] = field(default_factory=dict)
    ends: dict[str, list[LineClosed]] = field(default_factory=dict)

    def serve(self, wire: Any, host_id: str) -> HostLink:
        """Serve a connection in the background."""
        link = HostLink(
            wire,
            host_id,
            store=self.store,
            announcer=self.announcer,
            fleet=self.fleet,
            clock=self.clock,
            patience=self.patience,
        )
        self.group.start_soon(link.serve)
        return link

    def hand(self, host_id: str = "h1", *, room: float = float("inf")) -> Hand:
        """A connection held by the test."""
        line, wire = memory_line(room)
        self.lines[host_id] = line
        self.serve(wire, host_id)
        return Hand(line)

    async def online(self, host: FakeHost) -> FakeHost:
        """Connect a host that acts by itself, and wait until it is welcome."""
        line, wire = memory_line()
        self.lines[host.host_id] = line
        self.serve(wire, host.host_id)

        async def run() -> None:
            self.ends.setdefault(host.host_id, []).append(await host.run(line))

        self.group.start_soon(run)
        with anyio.fail_after(PATIENCE_S):
            await host.online.wait()
            await self.until_true(lambda: self.fleet.link(host.host_id) is not None)
        return host

    async def cut(self, host_id: str = "h1") -> None:
        """Pull the cable, and wait until the manager knows."""
        link = self.fleet.link(host_id)
        self.lines[host_id].cut()
        await self.until_true(lambda: self.fleet.link(host_id) is not link)
        await self.until_true(lambda: self._is_written_gone(host_id))

    async def _is_written_gone(self, host_id: str) -> bool:
        return self.fleet.link(host_id) is not None or not (await self.store.host(host_id)).is_connected

    async def submit(self, prompt: str = "do it", agent: str = "opencode", **fields: Any) -> str:
        task, _ = await self.tasks.submit(TaskCreate(prompt=prompt, agent_type=agent, **fields), actor="tests")
        return task.id

    async def until(self, task_id: str, *states: TaskState) -> Task:
        """Wait for a task to be in one of these states."""
        with anyio.move_on_after(PATIENCE_S):
            async with self.bus.subscribe(f"task:{task_id}") as wakeups:
                while (task := await self.store.task(task_id)).status not in states:
                    await wakeups.wait(1.0)
                return task
        task = await self.store.task(task_id)
        raise AssertionError(f"{task_id} is {task.status} ({task.reason}: {task.detail}), not {states}")

    async def until_true(self, condition: Callable[[], Any]) -> None:
        """Wait until this says so, at once or after waiting itself."""
        with anyio.fail_after(PATIENCE_S):
            # What is waited for here has no event to wait on.
            while not (await found if isawaitable(found := condition()) else found):  # noqa: ASYNC110
                await anyio.sleep(0.001)

    async def until_disconnected(self, task_id: str) -> Task:
        async def is_away() -> bool:
            return (await self.store.task(task_id)).disconnected_since is not None

        await self.until_true(is_away)
        return await self.store.task(task_id)

    async def events(self, task_id: str) -> list[dict[str, Any]]:
        task = await self.store.task(task_id)
        stored = await self.store.events(task.session_id, 0, task_id=task_id, limit=10_000, max_bytes=1 << 26)
        return [msgspec.json.decode(event.flat()) for event in stored]

    async def kinds(self, task_id: str) -> list[str]:
        """The types of its events; of the manager's own the states they tell."""
        return [
            event["data"]["status"] if event["type"] == "status" else event["type"]
            for event in await self.events(task_id)
        ]


@asynccontextmanager
async def hall(
    path: Path,
    *,
    patience: Patience = DEFAULT_PATIENCE,
    limits: Limits = DEFAULT_LIMITS,
    loops: bool = True,
    **settings: Any,
) -> AsyncIterator[Hall]:
    clock = SetClock()
    bus = LocalBus()
    async with await SqliteStore.open(path / "fleet.db", now=clock.now(), limits=limits) as store:
        log = FleetLog("epoch")
        announcer = Announcer(bus=bus, tail=Tail(), fleet=log, clock=clock)
        fleet = Fleet(store=store, announcer=announcer, clock=clock)
        tasks = Tasks(store=store, fleet=fleet, announcer=announcer, clock=clock, **settings)
        dispatcher = Dispatcher(store=store, bus=bus, fleet=fleet, announcer=announcer, clock=clock)
        watchdog = Watchdog(
            store=store, fleet=fleet, announcer=announcer, clock=clock, limits=limits, look_every_s=0.01
        )
        async with anyio.create_task_group() as group:
            group.start_soon(fleet.arrears.run)
            if loops:
                group.start_soon(dispatcher.run)
                group.start_soon(watchdog.watch_hosts)
            yield Hall(store, bus, clock, announcer, fleet, tasks, dispatcher, watchdog, patience, group)
            await fleet.close_all("the test is over")
            group.cancel_scope.cancel()


__all__ = ["Hall", "Hand", "LineClosed", "MemoryWire", "hall"]
