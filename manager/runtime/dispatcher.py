"""Gives queued tasks to hosts. One loop: wait until something changed, claim for all hosts at once, tell them.

Whom to give what is decided by core/scheduling inside the store; this only carries. It is woken by `queue` (a task
waits, or is about to: then both share a commit) and `fleet` (a host came, changed, or has a free slot), and looks by
itself every second, since a wake-up may be lost and a host may have rested long enough.

A host that starts in two steps hears of its task when the claim is decided and gets ready while the disk works: its
word that it is ready is decided behind the claim, so it is durable behind it, and nothing is started before that. A
claim that could not be made durable is called off; should we die first, the host forgets what it was not told to
start. A host of the base dialect starts what it hears of, so it hears of it when the claim is durable.

Invariants: nothing is started before its claim is durable; a host that cannot be told gives the task back at once.
"""

from collections.abc import Sequence
from typing import Final

import anyio
import structlog

from manager.core.lifecycle import Cause
from manager.core.link import FULL, objection
from manager.core.tasks import Change
from manager.errors import StoreUnavailable
from manager.ports import Announcements, Bus, Claim, Clock, Store
from manager.runtime.fleet import Fleet
from shared_types.tasks import Reason

ACCEPT_MS: Final = 15_000  # a host has so long to say that it is ready
LOOK_EVERY_S: Final = 1.0
ROUNDS: Final = 4

log = structlog.get_logger(__name__)


class Dispatcher:
    """`trouble` says why nothing can be given out just now; None when all is well."""

    def __init__(
        self,
        *,
        store: Store,
        bus: Bus,
        fleet: Fleet,
        announcer: Announcements,
        clock: Clock,
        accept_ms: int = ACCEPT_MS,
    ) -> None:
        self.trouble: str | None = None
        self._store = store
        self._bus = bus
        self._fleet = fleet
        self._announcer = announcer
        self._clock = clock
        self._accept_ms = accept_ms
        self._back: list[Change] = []  # claims that could not be told, to be given back

    async def run(self) -> None:
        """For as long as the manager lives. Cancelling is safe: what was claimed and not told is not accepted, so
        its deadline brings it back.
        """
        async with self._bus.subscribe("queue", "fleet") as wakeups, anyio.create_task_group() as group:
            rounds = anyio.Semaphore(ROUNDS, fast_acquire=True)
            while True:
                await rounds.acquire()
                group.start_soon(self._round, rounds)
                await wakeups.wait(LOOK_EVERY_S)

    async def _round(self, rounds: anyio.Semaphore) -> None:
        """Several may be under way: each claims what is left when it begins, and then waits for the disk."""
        try:
            await self.hand_out()
            self.trouble = None
        except StoreUnavailable as error:
            if self.trouble is None:
                log.error("tasks cannot be given out", error=str(error))
            self.trouble = str(error)
        finally:
            rounds.release()

    async def hand_out(self) -> None:
        """Give out everything that can be given out now. Raises StoreUnavailable."""
        while True:
            await self._give_back()
            requirements = await self._store.requirements()
            offers = self._fleet.offers(requirements) if requirements else ()
            if not offers:
                return
            now = self._clock.now()
            told = _Told(self._fleet)
            try:
                claims = await self._store.claim(offers, accept_by=now + self._accept_ms, now=now, decided=told.early)
            except StoreUnavailable:
                told.call_off()
                raise
            if not claims:
                return
            # Then again: a claim looks at the most urgent tasks alone, and those may all have been for one full host.
            self._announcer.claimed(claims)
            await self.tell([claim for claim in claims if claim.record.uid not in told.uids])

    async def tell(self, claims: Sequence[Claim]) -> None:
        """Tell their hosts; what cannot be told goes back to the queue. Raises StoreUnavailable."""
        self._back += [change for claim in claims if (change := self._tell(claim)) is not None]
        await self._give_back()

    def _tell(self, claim: Claim) -> Change | None:
        """Tell the host; the change that gives the task back when that cannot be."""
        link = self._fleet.link(claim.host_id)
        if link is not None and (problem := objection(claim.spec, link.dialect)) is not None:
            return self._change(claim, Cause.REFUSED, Reason.MODE_NOT_ALLOWED, f"Host {claim.host_id}: {problem}")
        if self._fleet.execute(claim):
            return None
        return self._change(claim, Cause.NEVER_STARTED, None, f"Host {claim.host_id} could not be told")

    def _change(self, claim: Claim, cause: Cause, reason: Reason | None, detail: str) -> Change:
        return Change(
            task_id=claim.record.id,
            now=self._clock.now(),
            cause=cause,
            attempt=claim.record.attempt,
            host_id=claim.host_id,
            reason=reason,
            detail=detail,
        )

    async def _give_back(self) -> None:
        if not self._back:
            return
        back, self._back = self._back, []
        try:
            self._announcer.taken(await self._store.change(back))
        except StoreUnavailable:
            self._back = back + self._back
            raise


class _Told:
    """The claims of one round that hosts heard of before they were durable."""

    def __init__(self, fleet: Fleet) -> None:
        self.uids: set[str] = set()
        self._fleet = fleet
        self._claims: list[Claim] = []

    def early(self, claims: Sequence[Claim]) -> None:
        """They are decided, and not durable yet. Said again when those before came to nothing."""
        self.call_off()
        for claim in claims:
            link = self._fleet.link(claim.host_id)
            if link is not None and link.dialect == FULL and self._fleet.execute(claim):
                self.uids.add(claim.record.uid)
                self._claims.append(claim)

    def call_off(self) -> None:
        """They came to nothing. Others may have begun anew with these tasks, under other numbers of attempts."""
        for claim in self._claims:
            self._fleet.call_off(claim)
        self._claims = []
        self.uids.clear()
