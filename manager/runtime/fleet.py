"""The hosts that are connected to this manager, and what can be asked of them.

It finds the live connection of a host and speaks through it; what was said and what it led to, the connection itself
knows. Hosts that are not connected are rows in the store; `statuses` shows both. Invariant: of each host only the
connection with the newest generation is here.

Inputs for agents that do not run yet are put by in the store. Looking for them at every start of an agent would cost
more than the start, so the tasks that may have some are remembered; of tasks from before `looks_before` (an earlier
manager's, or more than we care to remember) we do not know, so there we look.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import anyio
import msgspec
import structlog

from manager.core.lifecycle import ON_A_HOST
from manager.core.registry import Member, Registry
from manager.core.scheduling import Offer, Requirement
from manager.core.tasks import Record
from manager.errors import StoreUnavailable
from manager.ports import Announcements, Claim, Clock, HostRow, Standing, Store, TaskQuery
from manager.runtime.arrears import Arrears
from manager.runtime.recorder import REVOKED
from shared_types.hosts import AgentInfo, HostCapabilities, HostState, HostStatus, Vitals, canonical_agent
from shared_types.messages import GatewayConfig

MAX_REMEMBERED: Final = 10_000
PAGE: Final = 500
CLOSE_ALL_S: Final = 10.0
GOING_DOWN: Final = 1012

log = structlog.get_logger(__name__)


class Connection(Protocol):
    """What the fleet needs of a connection. None of these waits for the host."""

    @property
    def host_id(self) -> str: ...

    @property
    def generation(self) -> int: ...

    @property
    def dialect(self) -> int: ...

    @property
    def vitals(self) -> Vitals | None: ...

    @property
    def last_heard_at(self) -> int: ...

    def execute(self, claim: Claim) -> bool:
        """False: the host was not told and will not be."""
        ...

    def call_off(self, record: Record) -> None:
        """The attempt that it was told of never came to be."""
        ...

    def stop(self, record: Record, *, kill: bool, reason: str | None) -> None: ...

    def configure(self, config: GatewayConfig) -> None: ...

    def set_draining(self, draining: bool) -> None: ...

    async def deliver(self, task_id: str) -> bool:
        """Say the inputs that the agent has not taken. False: some wait for room."""
        ...

    async def give_way(self) -> bool:
        """End, and return when everything heard so far is written down or owed. False: that takes too long."""
        ...

    def look(self, now: float) -> None:
        """Whether the peer still lives; `now` is monotonic."""
        ...

    def release(self) -> None:
        """The successor is known to the store."""
        ...

    def end(self, code: int, reason: str) -> None: ...


class Fleet:
    def __init__(self, *, store: Store, announcer: Announcements, clock: Clock) -> None:
        self.registry = Registry()
        self.counters: Counter[str] = Counter()
        self.is_closing = False
        self._store = store
        self._announcer = announcer
        self._clock = clock
        self._links: dict[str, Connection] = {}
        self._inside: set[Connection] = set()  # the registered ones and those on their way in or out
        self._empty = anyio.Event()
        self._instances: dict[str, str] = {}
        self._unknown_types: set[str] = set()
        self._with_inputs: set[str] = set()
        self._looks_before = clock.now()
        self.arrears = Arrears(
            store=store, announcer=announcer, clock=clock, went=self._went, say=self.say_inputs, count=self.count
        )

    def __repr__(self) -> str:
        return f"<Fleet online={len(self._links)}>"

    # --- for the connections --------------------------------------------------------------------------

    def link(self, host_id: str) -> Connection | None:
        return self._links.get(host_id)

    def entered(self, link: Connection) -> None:
        """A connection begins to be served."""
        self._inside.add(link)

    def left(self, link: Connection) -> None:
        self._inside.discard(link)
        if not self._inside:
            self._empty.set()

    def join(self, link: Connection, member: Member) -> bool:
        """False when a newer connection of this host is here already."""
        if not self.registry.join(member):
            return False
        older = self._links.get(link.host_id)
        self._links[link.host_id] = link
        if older is not None:
            older.end(4409, "a newer connection of this host took over")
        return True

    def update(self, link: Connection, member: Member) -> None:
        """What is known of the host has changed."""
        if self._links.get(link.host_id) is link:
            self.registry.join(member)

    def leave(self, link: Connection) -> bool:
        """False when it was replaced: then nothing changes."""
        if self._links.get(link.host_id) is not link:
            return False
        del self._links[link.host_id]
        self.registry.leave(link.host_id, link.generation)
        return True

    def is_same_instance(self, host_id: str, instance: str | None) -> bool:
        """Whether this gateway process is the one that was here last."""
        return instance is not None and self._instances.get(host_id) == instance

    def saw_instance(self, host_id: str, instance: str | None) -> None:
        """This gateway process is here, and what it did not name is written down."""
        if instance is None:
            self._instances.pop(host_id, None)
        else:
            self._instances[host_id] = instance

    def count(self, what: str, times: int = 1) -> None:
        self.counters[what] += times

    def heard_unknown(self, host_id: str, kind: str) -> None:
        """A type of message that we do not know: counted, logged once, skipped."""
        self.counters["unknown_type"] += 1
        kind = kind[:100]  # a host may say anything
        if kind not in self._unknown_types and len(self._unknown_types) < 1_000:
            self._unknown_types.add(kind)
            log.warning("a host says something we do not know", host=host_id, type=kind)

    async def announce(self, host_id: str, kind: str) -> None:
        self._announcer.host(await self.status(host_id), kind)

    # --- for the dispatcher and the watchdog ----------------------------------------------------------

    def offers(self, requirements: Mapping[int, Requirement]) -> list[Offer]:
        return self.registry.offers(requirements)

    def execute(self, claim: Claim) -> bool:
        """Tell its host. False: the host was not told and will not be."""
        link = self._links.get(claim.host_id)
        if link is None or link.generation != claim.generation or not link.execute(claim):
            return False
        self.registry.assigned(claim.host_id, claim.record.assigned_at or 0)
        return True

    def call_off(self, claim: Claim) -> None:
        """This claim came to nothing: its host, if it is still here, may forget what it was told of it."""
        link = self._links.get(claim.host_id)
        if link is not None and link.generation == claim.generation:
            link.call_off(claim.record)

    def abort(self, record: Record, *, kill: bool = False, reason: str | None = None) -> bool:
        """Tell its host to stop it. False: the host is not here; it is told when it comes back."""
        link = self._links.get(record.host_id or "")
        if link is None:
            return False
        link.stop(record, kill=kill, reason=reason or record.stop_reason)
        return True

    def look(self) -> None:
        """Whether the connected hosts still live. Called every second."""
        now = self._clock.monotonic()
        for link in list(self._links.values()):
            link.look(now)

    async def _went(self, host_id: str) -> None:
        if host_id not in self._links:
            await self.announce(host_id, "host.offline")

    # --- inputs ---------------------------------------------------------------------------------------

    def expect_input(self, task_id: str) -> None:
        """From now on the start of this task looks for inputs that were put by."""
        if len(self._with_inputs) >= MAX_REMEMBERED:
            self._with_inputs.clear()
            self._looks_before = self._clock.now() + 1
        self._with_inputs.add(task_id)

    def may_have_inputs(self, record: Record) -> bool:
        return record.id in self._with_inputs or record.asked_at < self._looks_before

    async def say_inputs(self, task_id: str) -> bool:
        """Say what was put by for this task, if its agent runs. False: its host is not here, or has not taken what was
        said before, or has not started it: then the host's return, its room or the start sees to it. When the store
        fails or whoever asks is cancelled, they are owed.
        """
        self.arrears.no_inputs(task_id)
        try:
            claim = await self._store.claim_of(task_id)
            if claim is None or claim.record.started_at is None:
                return False
            link = self._links.get(claim.host_id)
            return link is not None and await link.deliver(task_id)
        except BaseException:
            self.arrears.inputs(task_id)
            raise

    def no_input_waits(self, task_id: str) -> None:
        self._with_inputs.discard(task_id)

    # --- what people see and do -----------------------------------------------------------------------

    async def statuses(self) -> list[HostStatus]:
        """Every host that ever registered, offline ones too."""
        active: dict[str, list[str]] = {}
        cursor: str | None = None
        while True:
            page = await self._store.tasks(TaskQuery(statuses=ON_A_HOST, cursor=cursor, limit=PAGE))
            for task in page.items:
                active.setdefault(task.host_id or "", []).append(task.id)
            if (cursor := page.next_cursor) is None:
                break
        return [self._status(row, active.get(row.host_id, ())) for row in await self._store.hosts()]

    async def status(self, host_id: str) -> HostStatus:
        """Raises NotFound NO_SUCH_HOST."""
        row = await self._store.host(host_id)
        return self._status(row, [record.id for record in await self._store.on_host(host_id)])

    async def drain(self, host_id: str) -> HostStatus:
        """No new tasks for this host; what runs there goes on. Raises NotFound NO_SUCH_HOST."""
        return await self._set_draining(host_id, True)

    async def resume(self, host_id: str) -> HostStatus:
        """New tasks for this host again. Raises NotFound NO_SUCH_HOST."""
        return await self._set_draining(host_id, False)

    async def _set_draining(self, host_id: str, draining: bool) -> HostStatus:
        await self._store.set_draining(host_id, draining)
        if (link := self._links.get(host_id)) is not None:
            link.set_draining(draining)
        status = await self.status(host_id)
        self._announcer.host(status)
        return status

    async def put_out(self, host_id: str) -> None:
        """A token of this host was revoked: when it was the last, its connection ends now."""
        link = self._links.get(host_id)
        if link is None:
            return
        try:
            standing = await self._store.host_seen(host_id, link.generation, link.last_heard_at)
        except StoreUnavailable as error:  # its next heartbeat asks again
            log.warning("not put out yet", host=host_id, error=str(error))
            return
        if standing is Standing.REVOKED:
            link.end(4401, REVOKED)

    def update_config(self, host_id: str, config: GatewayConfig) -> bool:
        """Ask the gateway; it answers with what it really does. False: the host is not here."""
        link = self._links.get(host_id)
        if link is None:
            return False
        link.configure(config)
        return True

    async def knows_agent(self, agent: str) -> bool:
        """Whether any host, online or not, offers it."""
        if self.registry.knows_agent(agent):
            return True
        rows = await self._store.hosts()
        return any(canonical_agent(name) == agent for row in rows for name in row.capabilities.agents)

    async def close_all(self, reason: str) -> None:
        """Hang up, politely: hosts keep what they have and come back. Nobody is let in any more."""
        self.is_closing = True
        for link in list(self._inside):
            link.end(GOING_DOWN, reason)
        with anyio.move_on_after(CLOSE_ALL_S):
            while self._inside:
                self._empty = anyio.Event()
                await self._empty.wait()

    def _status(self, row: HostRow, active: Sequence[str]) -> HostStatus:
        link = self._links.get(row.host_id)
        member = self.registry.get(row.host_id) if link is not None else None
        slots = member.slots if member is not None else row.capabilities.max_concurrent
        here = HostState.BUSY if len(active) >= slots else HostState.ONLINE
        return HostStatus(
            host_id=row.host_id,
            name=row.capabilities.name,
            status=HostState.OFFLINE if link is None else here,
            capabilities=row.capabilities,
            active_tasks=tuple(active),
            last_heartbeat=link.last_heard_at if link is not None else row.last_seen_at,
            connected_at=row.connected_at if link is not None else None,
            agents=row.agents,
            vitals=link.vitals if link is not None else None,
            slots_used=len(active),
            slots=slots,
            labels=dict(member.labels) if member is not None else {**row.capabilities.labels, **row.labels},
            draining=member.is_draining if member is not None else row.draining,
            version=row.version,
            protocol=row.protocol,
            last_assigned_at=row.last_assigned_at or None,
        )


def in_our_words(
    capabilities: HostCapabilities, agents: tuple[AgentInfo, ...]
) -> tuple[HostCapabilities, tuple[AgentInfo, ...]]:
    """What a host says about itself, with agents by the names that we answer with, each once."""
    names = dict.fromkeys(canonical_agent(agent) for agent in capabilities.agents)
    return (
        msgspec.structs.replace(capabilities, agents=tuple(names)),
        tuple(msgspec.structs.replace(info, agent=canonical_agent(info.agent)) for info in agents),
    )


__all__ = ["Connection", "Fleet", "in_our_words"]
