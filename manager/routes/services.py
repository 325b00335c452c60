"""What the edge calls: the few parts it needs, phrased as it asks. Routes find them by `services(connection)`.

The edge decodes, authorises, calls one thing and encodes; nothing is decided here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from litestar.connection import ASGIConnection

from manager.ports import Bus, Clock, Store
from manager.routes.access import Access
from manager.routes.meters import Meters
from manager.runtime.doors import Doors
from manager.runtime.follower import Follower
from shared_types.api import InputReceipt, TaskCreate, Why
from shared_types.hosts import HostStatus
from shared_types.tasks import Task


class TaskDesk(Protocol):
    """What people do with tasks."""

    async def submit(
        self, create: TaskCreate, *, actor: str, idempotency_key: str | None = None, trace_id: str = ""
    ) -> tuple[Task, bool]: ...

    async def abort(self, task_id: str, *, kill: bool = False, reason: str | None = None, actor: str = "") -> Task: ...

    async def retry(self, task_id: str, actor: str) -> Task: ...

    async def input(self, task_id: str, content: str, input_id: str | None, actor: str) -> InputReceipt: ...

    async def why(self, task_id: str) -> Why: ...


class HostDesk(Protocol):
    """What people see of hosts and do with them."""

    async def statuses(self) -> list[HostStatus]: ...

    async def status(self, host_id: str) -> HostStatus: ...

    async def put_out(self, host_id: str) -> None: ...

    async def drain(self, host_id: str) -> HostStatus: ...

    async def resume(self, host_id: str) -> HostStatus: ...


class Link(Protocol):
    """Serves one connection of a host until it ends."""

    async def serve(self) -> None: ...


class Wire(Protocol):
    """One WebSocket of a host, as its link sees it."""

    async def receive(self) -> str | bytes | None:
        """The next message; None when the connection is gone."""
        ...

    async def send(self, data: bytes) -> None: ...

    async def close(self, code: int, reason: str) -> None: ...


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """The settings the edge needs."""

    origins: frozenset[str] = frozenset()  # exact origins of browsers that may write and open sockets
    public_url: str | None = None  # how hosts reach us, when that is not how a request did
    default_agent: str | None = None  # for `user:message` without one
    log_requests: bool = False  # every request, not only those that failed


@dataclass(frozen=True, slots=True)
class Services:
    store: Store
    bus: Bus
    clock: Clock
    tasks: TaskDesk
    hosts: HostDesk
    link: Callable[[Wire, str], Link]
    follower: Follower
    doors: Doors
    access: Access
    meters: Meters
    counters: Callable[[], Mapping[str, int]]  # what the links of hosts count
    degraded: Callable[[], dict[str, str]]  # parts that do not work as they should, and how
    hang_up: Callable[[tuple[str, int] | None], None]  # cut a peer's connection at once
    started_at: int
    config: EdgeConfig


def services(connection: ASGIConnection[Any, Any, Any, Any]) -> Services:
    return cast(Services, cast(dict[str, Any], connection.scope)["services"])
