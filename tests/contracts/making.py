"""Short words for the things a store is asked to keep."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from msgspec.json import decode

from manager.core import tasks
from manager.core.lifecycle import Cause
from manager.core.scheduling import Offer, satisfies
from manager.core.tasks import Change, Record, Spec
from manager.ports import Claim, HostRow, NewTask, Store, Taken, Token, Verdict
from shared_types.api import TokenInfo, TokenKind
from shared_types.hosts import HostCapabilities
from shared_types.tasks import LabelRules, Task

T0 = 1_700_000_000_000
HOUR = 3_600_000
_number = count(1)

OpenStore = Callable[[int], Awaitable[Store]]


class Place:
    """Where a store keeps its things; it may be opened, closed and opened again."""

    def __init__(self, opener: Callable[[int], Awaitable[Any]]) -> None:
        self._opener = opener
        self._opened: Any = None

    async def open(self, now: int = T0) -> Store:
        await self.close()
        self._opened = await self._opener(now)
        store: Store = self._opened
        return store

    async def now_and_restarted(self) -> AsyncIterator[Store]:
        """The store as it is, then what a new one finds in its place."""
        yield self._opened
        yield await self.open()

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()
            self._opened = None


@asynccontextmanager
async def closing(place: Place) -> AsyncIterator[Place]:
    try:
        yield place
    finally:
        await place.close()


def a_spec(**wishes: Any) -> Spec:
    rules = {name: wishes.pop(name) for name in ("require", "prefer", "avoid") if name in wishes}
    values: dict[str, Any] = {
        "prompt": "say hello",
        "agent_type": "command",
        "created_at": T0,
        "queue_ttl": HOUR,
        "actor": "alice",
        "labels": LabelRules(**rules),
    }
    return Spec(**(values | wishes))


def a_task(task_id: str | None = None, *, session: str | None = None, key: str | None = None, **wishes: Any) -> NewTask:
    number = next(_number)
    name = task_id or f"task_{number:06}"
    spec = a_spec(**wishes)
    return NewTask(
        task_id=name,
        session_id=session or f"sess_{number:06}",
        spec=spec,
        requirement=tasks.requirement(spec),
        idempotency_key=key,
        digest=spec.prompt,
    )


async def submit(store: Store, task_id: str | None = None, **wishes: Any) -> Task:
    task, is_new = await store.add(a_task(task_id, **wishes), max_queued=1_000)
    assert is_new
    return task


def can(*agents: str, labels: Mapping[str, str] | None = None, slots: int = 4) -> HostCapabilities:
    return HostCapabilities(
        name="a host", agents=agents or ("command",), max_concurrent=slots, cwd="/work", labels=dict(labels or {})
    )


async def connect(
    store: Store,
    host_id: str = "h1",
    *agents: str,
    protocol: int = 2,
    leases: bool = False,
    now: int = T0,
    **more: Any,
) -> HostRow:
    said = can(*agents, **more)
    return await store.host_connected(
        host_id, said, (), protocol=protocol, version="1", boot_id="b", keeps_leases=leases, now=now
    )


async def offer(store: Store, host: HostRow, **changed: Any) -> Offer:
    """What this host offers: every queue it satisfies, all its slots."""
    labels = host.capabilities.labels | host.labels
    keys = frozenset(
        no
        for no, wish in (await store.requirements()).items()
        if satisfies(wish, host_id=host.host_id, agents=host.capabilities.agents, labels=labels)
    )
    values: dict[str, Any] = {
        "host_id": host.host_id,
        "generation": host.generation,
        "keys": keys,
        "used": 0,
        "slots": host.capabilities.max_concurrent,
        "last_assigned_at": 0,
        "cwd": "/work",
        "labels": labels,
    }
    return Offer(**(values | changed))


async def claim(store: Store, *hosts: HostRow, now: int = T0, **changed: Any) -> list[Claim]:
    offers = [await offer(store, host, **changed) for host in hosts]
    return await store.claim(offers, accept_by=now + 10_000, now=now)


async def claim_one(store: Store, host: HostRow, now: int = T0) -> Claim:
    used = len(await store.on_host(host.host_id))
    (claimed,) = await claim(store, host, now=now, slots=used + 1)
    return claimed


def report(record: Record, host: HostRow, cause: Cause | None = None, **more: Any) -> Change:
    """What the host says of the attempt in `record`."""
    values: dict[str, Any] = {
        "task_id": record.id,
        "now": T0 + 1,
        "cause": cause,
        "attempt": record.attempt,
        "host_id": host.host_id,
        "generation": host.generation,
    }
    return Change(**(values | more))


async def told(store: Store, change: Change) -> Taken:
    (taken,) = await store.change([change])
    return taken


async def take(store: Store, change: Change) -> Record:
    taken = await told(store, change)
    assert taken.verdict is Verdict.TAKEN
    assert taken.record is not None
    return taken.record


async def start(store: Store, host: HostRow, now: int = T0) -> Record:
    """Claim the next task and bring it to running."""
    claimed = await claim_one(store, host, now)
    accepted = await take(store, report(claimed.record, host, Cause.ACCEPTED, now=now))
    return await take(store, report(accepted, host, Cause.STARTED, now=now))


def body(number: int, size: int = 0) -> bytes:
    return b'{"type":"log","timestamp":%d,"content":"%s"}' % (number, b"x" * size)


def bodies(first: int, last: int, size: int = 0) -> tuple[bytes, ...]:
    return tuple(body(number, size) for number in range(first, last + 1))


def a_token(token_id: str = "tok_1", *, host_id: str | None = None, now: int = T0) -> Token:
    kind = TokenKind.PERSONAL if host_id is None else TokenKind.HOST
    info = TokenInfo(
        id=token_id,
        name=f"name of {token_id}",
        kind=kind,
        host_id=host_id,
        created_at=now,
        last_used_at=None,
        revoked_at=None,
    )
    return Token(info=info, hash=f"hash of {token_id}")


async def whole_log(store: Store, session_id: str, **more: Any) -> list[tuple[int, str]]:
    """(id, type) of every event of a session, read page by page."""
    found: list[tuple[int, str]] = []
    while page := await store.events(session_id, found[-1][0] if found else 0, limit=7, max_bytes=10_000, **more):
        found += [(event.id, decode(event.body)["type"]) for event in page]
    return found
