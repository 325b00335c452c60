"""One attempt on this host, from its start to the moment it may be forgotten. Owns the handle of its keeper.

    _mind     folds the journal as it grows: what the agent is answered, when it is done, how it ended; tells the link
    _tell     folds it a second time when the link is behind: after a long absence, or for an adopted attempt
    _write    hands the driver's writes to the keeper, each key once
    _refuse   has the keeper write down which input the agent does not get
    _step     brings the attempt to its end, step by step (core/run.py)

The journal is the truth and the keeper writes it, so all state here is a fold and dies with this process without
loss. While the manager is away, or slow, minding goes on: an agent that asks is answered, whoever listens.

Invariant: a record is told once and in order, by `_mind` or by `_tell`: who tells checks that it is the next.
Cancelling `run` leaves the agent to its keeper; the next gateway adopts it.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Final
from uuid import NAMESPACE_URL, uuid5

import anyio
import msgspec
import structlog

from gateway.agents.base import Driver, ExitFacts, Record, Stream, Write
from gateway.agents.events import one_line
from gateway.agents.fold import REFUSED, SAY, fits_key
from gateway.agents.outcome import Outcome, judge
from gateway.core.coalesce import fit
from gateway.core.journal import exit_facts
from gateway.core.line import Ending
from gateway.core.link import Link
from gateway.core.run import GRACE_MS, Act, Cause, Run
from gateway.errors import KeeperLost
from gateway.runtime import attempt
from gateway.runtime.clock import Clock
from gateway.runtime.process import Keeper, Stranger
from gateway.runtime.spool import Spool
from shared_types.codec import encode
from shared_types.events import AgentEvent, InputRefusal
from shared_types.tasks import Reason

CLOSE_KEY: Final = "close"
MAX_REFUSALS: Final = 1000  # that wait to be written down
MAX_EXCERPT: Final = 100  # characters of a refused input: a note must be short however they are spelled
ROOM_S: Final = 2.0  # how long minding waits for a manager that is there and slow

_log = structlog.get_logger(__name__)


class _Note(msgspec.Struct):
    note: str = ""
    pid: int | None = None


class Runner:
    """`make_driver` gives a fresh driver for this attempt: every fold needs its own."""

    def __init__(
        self,
        uid: str,
        task_id: str,
        make_driver: Callable[[], Driver],
        *,
        link: Link,
        nudge: Callable[[], None],
        clock: Clock,
        boot_id: str | None = None,
        begun_in: str | None = None,
        is_of_base: bool = False,
        is_adopted: bool = False,
    ) -> None:
        self.uid = uid
        self.task_id = task_id
        self.is_of_base = is_of_base
        self.noted_said = 0
        self.until: int | None = None  # the end of its lease, as its keeper was or will be told; see orders.Lease
        self.is_alive = True  # its process tree may be there: it holds a slot
        self._link = link
        self._nudge = nudge
        self._clock = clock
        self._boot_id = boot_id
        self._begun_in = begun_in  # the boot in which the attempt was made ready
        self._make_driver = make_driver
        self._driver = make_driver()
        self._heard = 0  # the last record that was minded
        self._masked = 0  # how often its keeper masked a secret of ours
        self._last = 0  # once it has ended: the last record before its end
        self._in_step = not is_adopted  # minding tells, too; once behind, `_tell` does
        self._stepped = 0  # the last record that minding told
        self._pid: int | None = None
        self._run = Run()
        self._todo: list[Act] = []
        self._grace_ms = GRACE_MS
        self._handed: set[str] = set()
        self._excerpts: dict[str, str] = {}  # of input that was not handed to the keeper yet, by input id
        self._refusals: dict[str, dict[str, str]] = {}  # notes on input that the agent does not get, to be written down
        self._was_asked = False  # to stop, by a word of its protocol
        self._is_closing = False
        self._is_broken = False  # a driver of ours failed: nothing it says counts
        self._ended = anyio.Event()
        self._forgotten = anyio.Event()
        self._work = anyio.Event()  # for _write
        self._refusing = anyio.Event()  # for _refuse
        self._is_prolonged = False  # its keeper does not know of `until` yet
        self._prolonging = anyio.Event()  # for _prolong
        self._turn = anyio.Event()  # for _step
        self._room = anyio.Event()  # for _mind and _tell

    def __repr__(self) -> str:
        return f"<Runner {self.uid} {self._run.phase.name} heard={self._heard}>"

    # --- what the crew asks ---------------------------------------------------------------------------

    def say(self, input_id: str, text: str) -> None:
        """Follow-up input. What the agent cannot take becomes an event of its log."""
        refusal, excerpt = self._driver.say(input_id, text), one_line(text)[:MAX_EXCERPT]
        if refusal is not None:
            self._refuse_soon(input_id, refusal, excerpt)
            return
        self._excerpts[input_id] = excerpt
        if len(self._excerpts) > MAX_REFUSALS:
            del self._excerpts[next(iter(self._excerpts))]
        self._work.set()

    def _refuse_soon(self, input_id: str, code: InputRefusal, excerpt: str) -> None:
        if len(self._refusals) >= MAX_REFUSALS:  # the manager says it again on its next connection
            _log.warning("input.not_refused", uid=self.uid, input=input_id, code=code)
            return
        self._refusals.setdefault(input_id, {"note": REFUSED, "inputId": input_id, "code": code, "text": excerpt})
        self._refusing.set()

    def abort(self, grace_ms: int | None) -> None:
        """Bring it to its end; with `grace_ms` 0 at once. Saying it again never slows it down."""
        if grace_ms is not None:
            self._grace_ms = grace_ms
        self._cause(Cause.KILL if grace_ms == 0 else Cause.ABORT)

    def prolong(self, until: int | None) -> None:
        """Its keeper ends the agent then, and not before."""
        self.until = until
        self._is_prolonged = True
        self._prolonging.set()

    def look(self) -> None:
        """More may be told, or from an earlier record on."""
        told = self._link.told(self.uid)
        if told is not None and told < self._stepped:
            self._in_step = False
        self._room.set()
        self._room = anyio.Event()

    def forget(self) -> None:
        """Nobody will ask for it any more; what still runs is stopped first."""
        self._forgotten.set()
        if self.is_alive:
            self._cause(Cause.ABORT)
        self.look()

    def _cause(self, cause: Cause) -> None:
        act = self._run.act(cause, self._clock.monotonic())
        if act is not Act.NONE:
            self._todo.append(act)
        self._turn.set()

    # --- its life -------------------------------------------------------------------------------------

    async def run(self, spool: Spool, keeper: Keeper | None) -> None:
        """Returns when the attempt has ended and may be forgotten. `keeper` None: it is gone, only its journal is
        left to be told.
        """
        async with anyio.create_task_group() as group:
            if keeper is not None:
                group.start_soon(self._write, keeper)
                group.start_soon(self._refuse, keeper)
                group.start_soon(self._step, keeper)
                group.start_soon(self._prolong, keeper)
            group.start_soon(self._tell, spool)
            await self._mind(spool)
            self.is_alive = False
            self._ended.set()
            await self._forgotten.wait()
            group.cancel_scope.cancel()

    async def outlast(self, stranger: Stranger, why: str) -> None:
        """Instead of `run`, for an attempt whose keeper we do not understand: it goes on, holds its slot, and is ended
        when that is wanted. What it said and how it ended cannot be told.
        """
        async with anyio.create_task_group() as group:
            group.start_soon(self._end_stranger, stranger)
            await stranger.wait_gone()
            self.is_alive = False
            self._link.broke(self.uid, Reason.PROTOCOL_ERROR, f"It cannot be told how this ended: {why}.")
            self._nudge()
            await self._forgotten.wait()
            group.cancel_scope.cancel()

    async def _end_stranger(self, stranger: Stranger) -> None:
        while True:
            self._turn = anyio.Event()
            if self._take_acts():
                stranger.end()
            await self._turn.wait()

    async def _mind(self, spool: Spool) -> None:
        """Until the journal ends."""
        try:
            async with aclosing(_journal(spool)) as journal:
                async for records in journal:
                    for record in records:
                        await self._mind_one(record)
                    self._note_start()
                    self._link.grown(self.uid, self._heard)
                    self._nudge()
                    self._work.set()
                    if self._driver.is_done:
                        self._cause(Cause.DONE)
        except KeeperLost as error:
            stop = "keeper_lost" if self._is_of_this_boot(spool) else "host_restarted"
            _log.error("keeper.lost", uid=self.uid, task=self.task_id, why=stop, error=str(error))
            facts = ExitFacts(code=None, signal=None, stop=stop, duration_ms=0)
            self._end(self._heard + 1, facts, [], is_dead=True)

    def _is_of_this_boot(self, spool: Spool) -> bool:
        state = attempt.state(spool.path)
        known = self._begun_in if state is None else state.boot_id
        return known is None or self._boot_id is None or known == self._boot_id

    async def _mind_one(self, record: Record) -> None:
        events = self._hear(self._driver, record)
        self._heard = record.seq
        self._masked += record.masked
        if record.stream is Stream.EXIT:
            self._end(record.seq, exit_facts(record.data), events)
            return
        if record.stream is Stream.NOTE:
            note = msgspec.json.decode(record.data, type=_Note)
            if note.note == "spawned":
                self._pid = note.pid
                self._note_start()
        if self._in_step:
            await self._tell_in_step(record.seq, events)

    def _note_start(self) -> None:
        """The agent runs; its session may be known by now."""
        if self._pid is not None:
            self._link.started(self.uid, self._pid, self._driver.evidence.session_id)

    def _hear(self, driver: Driver, record: Record) -> list[AgentEvent]:
        """A driver that fails is a fault of ours. It ends its attempt, loudly, and not the host with all others."""
        try:
            return driver.heard(record)
        except Exception:
            if not self._is_broken:
                _log.exception("driver.failed", uid=self.uid, task=self.task_id, record=record.seq)
                self._is_broken = True
                self._cause(Cause.KILL)
            return []

    async def _tell_in_step(self, seq: int, events: list[AgentEvent]) -> None:
        with anyio.move_on_after(ROOM_S):
            while self._is_next(seq) and not self._link.room(self.uid) and self._link.is_talking:
                await self._room.wait()
        if self._is_next(seq) and self._link.room(self.uid):
            self._link.tell(self.uid, seq, events, self._clock.monotonic())
            self._stepped = seq
        else:
            self._in_step = False
            self.look()

    def _is_next(self, seq: int) -> bool:
        return self._link.told(self.uid) == seq - 1

    def _end(self, seq: int, facts: ExitFacts, events: list[AgentEvent], *, is_dead: bool = False) -> None:
        self._last = seq - 1
        outcome = judge(self._driver.evidence, facts)
        if outcome.reason is not None and facts.stop is None and self._was_asked:
            # However it takes being asked to stop: it did not complete because of us.
            outcome = judge(self._driver.evidence, replace(facts, stop=Act.STOP_ABORT))
        if self._is_broken:
            result = msgspec.structs.replace(outcome.result, success=False)
            outcome = Outcome(result, Reason.PROTOCOL_ERROR, "The gateway failed at reading the agent; see its log.")
        self._cause(Cause.EXIT)
        beside = len(encode(outcome.result)) + len(outcome.error) * 6  # what JSON makes of a character at most
        bodies = tuple(msgspec.Raw(data) for _, data in fit(events, beside))
        self._link.ended(self.uid, Ending(seq, outcome.result, outcome.reason, outcome.error, bodies), is_dead=is_dead)
        _log.info("attempt.ended", uid=self.uid, task=self.task_id, reason=outcome.reason or "completed")
        if self._masked:
            _log.warning("attempt.said_secrets", uid=self.uid, task=self.task_id, masked=self._masked)
        self._nudge()

    async def _tell(self, spool: Spool) -> None:
        """Follows at the manager's pace. Begins again when the manager wants to hear from an earlier record on."""
        while True:
            while self._in_step or not self._link.room(self.uid):
                await self._room.wait()
            try:
                await self._tell_on(spool)
            except KeeperLost:
                await self._wait_rewound()  # everything that is there was told

    async def _tell_on(self, spool: Spool) -> None:
        """Returns when the manager wants to hear from an earlier record on."""
        driver = self._make_driver()
        async with aclosing(_journal(spool)) as journal:
            async for records in journal:
                for record in records:
                    if not await self._tell_one(record, self._hear(driver, record)):
                        return
                self._nudge()
        await self._wait_rewound()

    async def _tell_one(self, record: Record, events: list[AgentEvent]) -> bool:
        """False: this record does not follow what was told."""
        while (told := self._link.told(self.uid)) is not None and told < record.seq:
            if told < record.seq - 1:
                return False
            if record.stream is Stream.EXIT:
                return True  # the ending carries it
            if self._link.room(self.uid):
                self._link.tell(self.uid, record.seq, events, self._clock.monotonic())
            else:
                await self._room.wait()
        return True

    async def _wait_rewound(self) -> None:
        """Everything was told; only a manager that lost commits wants more."""
        await self._ended.wait()
        while (told := self._link.told(self.uid)) is None or told >= self._last:
            await self._room.wait()

    # --- the agent's side -----------------------------------------------------------------------------

    async def _write(self, keeper: Keeper) -> None:
        """What the driver wants written is asked for until it is in the journal; the keeper gets it once. May wait
        for an agent that does not read: nothing else waits for this.
        """
        while True:
            self._work = anyio.Event()  # before looking: what comes while we write is not missed
            for write in self._unwritten():
                self._handed.add(write.key)
                try:
                    is_written = await keeper.write(write.key, write.data, write.close)
                except KeeperLost as error:
                    _log.warning("attempt.not_written", uid=self.uid, key=write.key, error=str(error))
                    continue
                input_id = write.key.removeprefix(SAY)
                excerpt = self._excerpts.pop(input_id, "")
                if not is_written and write.key.startswith(SAY):
                    self._refuse_soon(input_id, InputRefusal.CLOSED, excerpt)
            await self._work.wait()

    async def _refuse(self, keeper: Keeper) -> None:
        """What is not in the journal has not happened: a new gateway and the manager learn of it from there. Beside
        `_write`, which may wait for an agent that does not read.
        """
        while True:
            self._refusing = anyio.Event()  # before looking
            while self._refusals:
                input_id, facts = next(iter(self._refusals.items()))
                key = f"{SAY}{input_id}"
                try:
                    is_noted = await keeper.note(key if fits_key(key) else _short(key), facts)
                except KeeperLost as error:
                    _log.warning("attempt.not_written", uid=self.uid, key=key, error=str(error))
                    is_noted = False
                if not is_noted:  # it is over: the end is all that will be said
                    _log.warning("input.not_taken", uid=self.uid, input=input_id, code=facts["code"])
                del self._refusals[input_id]
            await self._refusing.wait()

    def _unwritten(self) -> list[Write]:
        wanted = self._driver.to_write()
        if self._is_closing:
            wanted = [*wanted, Write(CLOSE_KEY, b"", close=True)]
        return [write for write in wanted if write.key not in self._handed]

    async def _step(self, keeper: Keeper) -> None:
        while not self._ended.is_set():
            self._turn = anyio.Event()
            for act in self._take_acts():
                try:
                    await self._do(act, keeper)
                except KeeperLost as error:
                    _log.warning("attempt.not_stopped", uid=self.uid, act=act, error=str(error))
            with anyio.move_on_after(self._run.due_at - self._clock.monotonic()) as patience:
                await self._turn.wait()
            if patience.cancelled_caught:
                self._cause(Cause.LATE)

    async def _prolong(self, keeper: Keeper) -> None:
        """Tells the keeper how long its lease lasts, the newest word only."""
        while not self._ended.is_set():
            self._prolonging = anyio.Event()  # before looking
            while self._is_prolonged:
                self._is_prolonged = False
                try:
                    await keeper.lease(self.until)
                except KeeperLost as error:  # the next word may reach it
                    _log.warning("attempt.not_prolonged", uid=self.uid, error=str(error))
            await self._prolonging.wait()

    def _take_acts(self) -> list[Act]:
        acts, self._todo = self._todo, []
        return acts

    async def _do(self, act: Act, keeper: Keeper) -> None:
        match act:
            case Act.ASK:
                self._driver.cancel()
                self._work.set()
                self._was_asked = bool(self._driver.to_write())
                if not self._was_asked:
                    self._cause(Cause.LATE)  # its protocol has no word for it: nothing to wait for
            case Act.CLOSE:
                self._is_closing = True
                self._work.set()
            case Act.STOP_ABORT | Act.STOP_DONE:
                await keeper.stop(act.value, self._grace_ms)
            case Act.NONE:
                pass


def _short(key: str) -> str:
    return f"{SAY}{uuid5(NAMESPACE_URL, key)}"


def _journal(spool: Spool) -> AsyncGenerator[list[Record], None]:
    """From the first record on. To be closed by who leaves it before its end."""
    journal = spool.records(0)
    assert isinstance(journal, AsyncGenerator)
    return journal
