"""Gives queued tasks to hosts. One loop: wait until something changed, claim for all hosts at once, tell them.

Whom to give what is decided by core/scheduling inside the store's transaction; this only carries. It is woken by
`queue` (a task waits, or is about to: then both share a commit) and `fleet` (a host came, changed, or has a free
slot), and looks by itself every second, since a wake-up may be lost and a host may have rested long enough.

Invariant: a task is claimed, committed, before its host hears of it; a host that cannot be told gives it back at once.
"""

from collections.abc import Sequence
from typing import Final

import structlog

from manager.core.lifecycle import Cause
from manager.core.link import objection
from manager.core.tasks import Change
from manager.errors import StoreUnavailable
from manager.ports import Announcements, Bus, Claim, Clock, Store
from manager.runtime.fleet import Fleet
from shared_types.tasks import Reason

ACCEPT_MS: Final = 15_000  # a host has so long to say that it is ready
LOOK_EVERY_S: Final = 1.0
FULL_ROUND: Final = 100  # a claim that gives this many may have left some

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
        async with self._bus.subscribe("queue", "fleet") as wakeups:
            while True:
                try:
                    await self.hand_out()
                    self.trouble = None
                except StoreUnavailable as error:
                    if self.trouble is None:
                        log.error("tasks cannot be given out", error=str(error))
                    self.trouble = str(error)
                await wakeups.wait(LOOK_EVERY_S)

    async def hand_out(self) -> None:
        """Give out everything that can be given out now. Raises StoreUnavailable."""
        while True:
            await self._give_back()
            offers = self._fleet.offers(await self._store.requirements())
            if not offers:
                return
            now = self._clock.now()
            claims = await self._store.claim(offers, accept_by=now + self._accept_ms, now=now)
            if claims:
                self._announcer.claimed(claims)
                await self.tell(claims)
            if len(claims) < FULL_ROUND:
                return

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
        if self._back:
            self._announcer.taken(await self._store.change(self._back))
            self._back = []
