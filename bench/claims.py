"""The store with a queue that no host can take from, and one task that it can."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import anyio
import msgspec

from manager.core.lifecycle import Cause
from manager.core.scheduling import Offer, Requirement
from manager.core.tasks import Change, Spec
from manager.ports import Claim, NewTask
from manager.storage.sqlite import SqliteStore
from shared_types.hosts import HostCapabilities

NOW = 1_800_000_000_000
OTHER_AGENTS = 10  # the queue that does not match is this many queues
AT_ONCE = 500


class Queue:
    """A real database with `queued` tasks for agents that the host `h` does not have."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._number = count(1)
        self._offer: Offer | None = None
        self._claim: Claim | None = None

    @classmethod
    @asynccontextmanager
    async def of(cls, directory: Path, queued: int) -> AsyncIterator["Queue"]:
        directory.mkdir(parents=True)
        async with await SqliteStore.open(directory / "bench.db", now=NOW) as store:
            queue = cls(store)
            for begin in range(0, queued, AT_ONCE):
                async with anyio.create_task_group() as group:
                    for number in range(begin, min(begin + AT_ONCE, queued)):
                        group.start_soon(queue._add, f"other-{number % OTHER_AGENTS}")
            await queue._connect()
            yield queue

    async def _add(self, agent: str) -> None:
        name = f"task_{next(self._number):026}"
        spec = Spec(prompt="p", agent_type=agent, created_at=NOW, queue_ttl=3_600_000)
        new = NewTask(task_id=name, session_id=f"ses_{name}", spec=spec, requirement=Requirement(agent=agent))
        await self._store.add(new, max_queued=10_000_000)

    async def _connect(self) -> None:
        capabilities = HostCapabilities(name="h", agents=("noop",), max_concurrent=2, cwd="/")
        row = await self._store.host_connected("h", capabilities, (), protocol=2, version=None, boot_id=None, now=NOW)
        self._offer = Offer(
            host_id="h",
            generation=row.generation,
            keys=frozenset(),
            used=0,
            slots=2,
            last_assigned_at=0,
            cwd="/",
        )

    async def add_one_that_matches(self) -> None:
        """Beside it, the one before is finished, so that the slot is free."""
        assert self._offer is not None
        if self._claim is not None:
            record = self._claim.record
            end = Change(
                task_id=record.id,
                now=NOW,
                cause=Cause.SUCCEEDED,
                attempt=record.attempt,
                host_id="h",
                generation=self._offer.generation,
                span=(1, 1),
            )
            await self._store.change([end])
        await self._add("noop")
        wanted = Requirement(agent="noop")
        known = await self._store.requirements()
        keys = frozenset(key for key, requirement in known.items() if requirement == wanted)
        self._offer = msgspec.structs.replace(self._offer, keys=keys)

    async def claim_it(self) -> None:
        assert self._offer is not None
        claims = await self._store.claim([self._offer], accept_by=NOW + 60_000, now=NOW)
        assert len(claims) == 1
        self._claim = claims[0]
