"""Writes down what one host says: everything heard so far in one commit, then announces and confirms it.

The reader puts changes here and never waits for a commit, only for room. Order is kept. When the store cannot take a
commit it is tried again until it can, and meanwhile nothing that came later overtakes it: a host of the base dialect
says everything once. It does not know sockets: what is to be said goes into Outbound, and `end` ends the connection.

Invariant: nothing is announced or confirmed before its commit, a sign of life too, and nothing is started before the
commit of its claim.
Its loops are Errands: they run while there is something to write down. That a host is ready goes a way of its own, so
that it waits for the claim alone.
Cancelling waits for the answer of the store, and leaves what was not committed in `left`.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import structlog

from manager.core.lifecycle import Cause
from manager.core.link import Link, Settled
from manager.core.tasks import Change, Record
from manager.errors import StoreUnavailable
from manager.ports import Announcements, Clock, Standing, Store, Taken, Verdict
from manager.runtime.errand import Errand
from manager.runtime.outbound import Outbound
from shared_types.api import InputState
from shared_types.messages import HeartbeatAck

MAX_WAITING: Final = 4_096  # changes
MAX_WAITING_BYTES: Final = 8 * 1024 * 1024
BATCH: Final = 1_024  # changes in one commit
SEEN_EVERY_S: Final = 5.0  # a sign of life is written down at most so often
ACKED_EVERY_S: Final = 0.5  # and one that prolongs a lease, which a host is asked for at its own pace
FIRST_RETRY_S: Final = 0.05
LAST_RETRY_S: Final = 2.0
TAKEN_OVER: Final = "a newer connection of this host took over"
UNREAD: Final = "the host does not read what it is told"

REVOKED: Final = "REVOKED: this host's token is revoked"

log = structlog.get_logger(__name__)


class Recorder:
    __slots__ = (
        "_accepted",
        "_announcer",
        "_beat",
        "_beat_sent",
        "_bytes",
        "_changed",
        "_changes",
        "_clock",
        "_count",
        "_end",
        "_is_other",
        "_out",
        "_room",
        "_seen_at",
        "_started",
        "_store",
        "_taking",
        "_talk",
        "accepting",
        "errand",
    )

    def __init__(
        self,
        talk: Link,
        out: Outbound,
        *,
        store: Store,
        announcer: Announcements,
        clock: Clock,
        end: Callable[[int, str], None],
        started: Callable[[Record], Awaitable[None]],
        changed: Callable[[], Awaitable[None]],
        count: Callable[[str, int], None],
    ) -> None:
        self._talk = talk
        self._out = out
        self._store = store
        self._announcer = announcer
        self._clock = clock
        self._end = end
        self._started = started
        self._changed = changed
        self._count = count
        self.errand = Errand(self._work)
        self.accepting = Errand(self._accept)
        self._accepted: list[Change] = []
        self._changes: list[Change] = []
        self._taking: list[Change] = []  # being committed
        self._bytes = 0
        self._beat = False
        self._beat_sent: int | None = None
        self._is_other = False
        self._seen_at = clock.monotonic()
        self._room: anyio.Event | None = None

    def __repr__(self) -> str:
        return f"<Recorder {self._talk.host_id} waiting={len(self._changes)}>"

    # what the reader calls

    def put(self, change: Change, size: int = 0) -> None:
        if change.cause is Cause.ACCEPTED:
            self._accepted.append(change)
            self.accepting.wake()
            return
        self._changes.append(change)
        self._bytes += size
        self.errand.wake()

    def beat(self, sent: int | None = None) -> None:
        """The host gave a sign of life. `sent`: it wants to hear that this one is written down."""
        passed = self._clock.monotonic() - self._seen_at
        if passed >= (SEEN_EVERY_S if sent is None else ACKED_EVERY_S):
            self._beat = True
            self._beat_sent = sent
            self.errand.wake()

    def host_changed(self) -> None:
        """What people see of the host is otherwise than before."""
        self._is_other = True
        self.errand.wake()

    def left(self) -> list[Change]:
        """What was not written down, after the end."""
        left = [*self._taking, *self._changes]
        self._taking, self._changes = [], []
        return left

    @property
    def has_room(self) -> bool:
        return len(self._changes) + len(self._accepted) < MAX_WAITING and self._bytes < MAX_WAITING_BYTES

    @property
    def is_holding_up(self) -> bool:
        """The reader waits for us, so a silent host is our own fault."""
        return self._room is not None

    async def wait_room(self) -> None:
        while not self.has_room:
            self._room = anyio.Event()
            try:
                await self._room.wait()
            finally:
                self._room = None

    # what it does

    async def _work(self) -> None:
        while self._changes or self._beat:
            if self._beat:  # first, and again and again: a flood of events must not take a host's lease away
                self._beat = False
                await self._write_down_beat()
            if self._changes:
                await self._commit(self._take())
        if self._is_other:
            self._is_other = False
            await self._announce_host()

    def _take(self) -> list[Change]:
        if len(self._changes) <= BATCH:
            batch, self._changes = self._changes, []
            self._bytes = 0
        else:
            batch, self._changes = self._changes[:BATCH], self._changes[BATCH:]
            self._bytes = self._bytes * len(self._changes) // (len(self._changes) + BATCH)
        if self._room is not None:
            self._room.set()
        return batch

    async def _commit(self, batch: list[Change]) -> None:
        self._taking = batch
        taken = await self._until_taken(batch, self._store.change)
        self._taking = []
        self._announcer.taken(taken)
        settled = self._settled(batch, taken)
        for (task_id, attempt), seq in settled.acks.items():
            self._out.ack(task_id, attempt, seq)
        for task_id, input_id, state in settled.inputs:
            await self._dealt_with(task_id, input_id, state)
        for record in settled.started:
            await self._started(record)
        if settled.verdicts:
            self._note(settled)

    async def _accept(self) -> None:
        while self._accepted:
            batch, self._accepted = self._accepted, []
            if self._room is not None:
                self._room.set()
            taken = await self._until_taken(batch, self._store.accept)
            self._announcer.taken([one for one in taken if one.events])  # the rest is not durable, and nobody sees it
            settled = self._settled(batch, taken)
            if settled.verdicts:
                self._note(settled)

    def _settled(self, batch: list[Change], taken: list[Taken]) -> Settled:
        settled = self._talk.settle(batch, taken)
        for message in settled.say:
            if not self._out.say(message):
                self._end(4429, UNREAD)
        return settled

    async def _until_taken(
        self, batch: list[Change], take: Callable[[list[Change]], Awaitable[list[Taken]]]
    ) -> list[Taken]:
        pause = FIRST_RETRY_S
        while True:
            try:
                with anyio.CancelScope(shield=True):  # or nobody knows whether it was taken
                    return await take(batch)
            except StoreUnavailable as error:
                log.warning("what a host said waits for the store", host=self._talk.host_id, error=str(error))
                self._count("store_retries", 1)
            await anyio.sleep(pause)
            pause = min(2 * pause, LAST_RETRY_S)

    async def _dealt_with(self, task_id: str, input_id: str, state: InputState) -> None:
        try:
            await self._store.mark_input(task_id, input_id, state)
        except StoreUnavailable as error:  # it is said again on the next connection, which changes nothing there
            log.warning("an input still counts as waiting", task=task_id, input=input_id, error=str(error))

    def _note(self, settled: Settled) -> None:
        for verdict, times in settled.verdicts.items():
            self._count(verdict.name.lower(), times)
        if settled.is_fenced:
            self._end(4409, TAKEN_OVER)
        elif settled.is_broken:
            self._end(4410, "records are missing: begin again from what is confirmed")
        elif Verdict.ILLEGAL in settled.verdicts:
            log.warning("a host reported what cannot be", host=self._talk.host_id)

    async def _write_down_beat(self) -> None:
        self._seen_at = self._clock.monotonic()
        sent, self._beat_sent = self._beat_sent, None
        try:
            standing = await self._store.host_seen(self._talk.host_id, self._talk.generation, self._clock.now())
        except StoreUnavailable as error:
            log.warning("a sign of life was not written down", host=self._talk.host_id, error=str(error))
            return
        if standing is Standing.REVOKED:
            self._end(4401, REVOKED)
        elif standing is Standing.SUPERSEDED:
            self._end(4409, TAKEN_OVER)
        elif sent is not None and not self._out.say(HeartbeatAck(sent=sent)):
            self._end(4429, UNREAD)

    async def _announce_host(self) -> None:
        try:
            await self._changed()
        except StoreUnavailable as error:
            log.warning("not announced that a host changed", host=self._talk.host_id, error=str(error))
