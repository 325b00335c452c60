"""Decide in the loop, write in a thread: many changes in one transaction, durable before they are answered.

    decide -> ledger, at once -> the open group -> thread: one transaction -> news -> answers

What is decided in one turn of the event loop is handed over together, so it is committed together; while the thread
commits, the next group gathers. So the price of a durable commit is shared by everybody who waits for one, and nobody
waits for a timer. What is content with an earlier group (`early`) is answered with that, and is written with the next
group that somebody waits for. The thread does every checkpoint too: small ones, when nothing waits.

An operation decides before it changes: when it raises a FleetError it has changed nothing, and its neighbours go on.
Any other exception, and a commit that fails, undoes its group and those decided after it: the ledger is thrown away
and read again. What the world did to the database (disk full) is told to all whose changes are undone. After a fault
of ours each of them is tried again alone, so that the guilty one fails and cannot hurt the others.

Knows nothing of tasks; the ledger does. Cancelling a call stops the waiting, not the change.
"""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, Protocol, TypeVar

from manager.errors import FleetError, StoreUnavailable
from manager.storage.opening import unavailable

MAX_IN_FLIGHT: Final = 2  # groups in the thread: the one being committed and the next
IDLE_S: Final = 0.25  # quiet for so long: time for a checkpoint
MAX_WAL_BYTES: Final = 16 * 1024 * 1024  # checkpoint even while busy
PAGE: Final = 4096
EARLY_S: Final = 0.005  # what was answered early is written with the next group, or after so long
AGAIN_S: Final = 1.0  # two failures of the world so close: it lasts, and to read everything again for each caller
REFUSES_S: Final = 0.1  # would be all we do; so everybody is told for so long

log = logging.getLogger(__name__)

T = TypeVar("T")


class Writing(Protocol):
    """What one group writes."""

    def __bool__(self) -> bool: ...

    def write(self, db: sqlite3.Connection) -> int:
        """In the thread, inside the transaction; about how many bytes that adds to the log."""
        ...


class Book(Protocol):
    """What the writer needs of a ledger."""

    @property
    def durable(self) -> int:
        """The last group that is; each `close` ends one, counted from 1."""
        ...

    def close(self) -> tuple[Writing, Any]:
        """What was changed since the last time, to be made durable, and the news of it."""
        ...

    def settled(self, in_flight: int) -> None:
        """A group became durable; so many that were handed over are not yet."""
        ...

    def take_over_from(self, older: Any) -> None:
        """This one was read from the database; the older one knew things that no row says."""
        ...


B = TypeVar("B", bound=Book)


@dataclass(slots=True)
class _Operation:
    """Something asked for, who waits for it, and in the end its answer. `run` is left for the thread."""

    future: "asyncio.Future[Any]"
    value: Any = None
    error: Exception | None = None
    run: Callable[[sqlite3.Connection], Any] | None = None
    after: int | None = None  # the ledger's group whose commit is enough for an answer; None: its own
    then: Callable[[Any, Any], None] | None = None


@dataclass(slots=True)
class _Group:
    """Operations that are committed together, all decided on the ledger of one age."""

    age: int  # of the ledger
    operations: list[_Operation] = field(default_factory=list)
    is_called: bool = False  # it will be handed over in a moment
    writing: Writing | None = None
    news: Any = None
    is_alone: bool = False

    @property
    def is_for_the_thread(self) -> bool:
        return bool(self.writing) or any(operation.run is not None for operation in self.operations)


@dataclass(slots=True, frozen=True)
class _Failure:
    """Why a group was undone: `world`, or a fault of ours, or (neither) one before it was."""

    world: StoreUnavailable | None = None
    fault: Exception | None = None


class _Undone(Exception):
    """Nothing of it was written, through no fault of its own as far as we know."""


class Writer(Generic[B]):
    """Owns the thread and, through it, the connection. `read` makes a ledger from the database, in the thread;
    `learn` is called in the loop with the news of each commit, before its answers are given.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        ledger: B,
        *,
        read: Callable[[sqlite3.Connection], B],
        learn: Callable[[Any], None],
    ) -> None:
        self._db = db
        self._ledger = ledger
        self._is_whole = True  # the ledger is what the database will be
        self._read = read
        self._learn = learn
        self._loop = asyncio.get_running_loop()
        self._age = 0  # of the ledger: how often it was made new
        self._open = _Group(0)
        self._in_flight = 0
        self._early: list[_Operation] = []  # that wait for an earlier group than their own
        self._answers: list[_Operation] = []  # to be given in a moment, in order
        self._reading: asyncio.Future[None] | None = None
        self._refusal: StoreUnavailable | None = None  # what the world said last
        self._refuses_until = self._failed_at = -AGAIN_S
        self._one_at_a_time = asyncio.Lock()
        self._inbox: SimpleQueue[_Group | Callable[[], None] | None] = SimpleQueue()
        self._unwritten_bytes = 0  # in the log, not in the database yet
        self._thread_age = 0  # groups of another age are undone
        self._closed = False
        self._ended = self._loop.create_future()
        self._thread = threading.Thread(target=self._main, name="store-writer", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Writer {'closed' if self._closed else 'open'} in_flight={self._in_flight}>"

    @property
    def thread(self) -> int:
        """Its native id."""
        native = self._thread.native_id
        assert native is not None  # started in __init__
        return native

    # --- in the loop ----------------------------------------------------------------------------------

    async def ledger(self) -> B:
        """The ledger, whole. Whoever decides on it does so before the next await. Raises StoreUnavailable."""
        while not self._is_whole:
            if self._closed:
                break
            if self._refusal is not None and self._loop.time() < self._refuses_until:
                raise StoreUnavailable(self._refusal.detail, code=self._refusal.code)
            if self._reading is None:
                self._reading = self._loop.create_future()
                self._reading.add_done_callback(_heard)
                self._inbox.put(self._read_again)
            await asyncio.shield(self._reading)
        if self._closed:
            raise StoreUnavailable("the store is closed", code="CLOSED")
        return self._ledger

    async def decide(
        self,
        run: Callable[[B], T],
        prepare: Callable[[B], Callable[[], Awaitable[None]] | None] = lambda ledger: None,
        early: Callable[[B, T], int] | None = None,
    ) -> T:
        """Run this on the ledger now; durable when it returns. `prepare` brings into the ledger what `run` needs:
        it gives None when all is there, else what to do before asking again. `run` is called again when what it
        decided came to nothing.

        With `early` it returns when the group that `early` names is durable: what was decided comes later, and may come
        to nothing without anybody being told. It is in no hurry then, and goes along with the next that is.
        """
        if self._is_whole and not self._closed and prepare(self._ledger) is None:
            try:
                first: T = await self._decide(self._ledger, run, early).future
            except _Undone:
                pass
            else:
                return first

        async def ready() -> Callable[[], _Operation]:
            ledger = await self.ledger()
            while (bring := prepare(ledger)) is not None:
                await bring()
                ledger = await self.ledger()
            return lambda: self._decide(ledger, run, early)

        result: T = await self._until_done(ready)
        return result

    async def write(self, run: Callable[[sqlite3.Connection], T], then: Callable[[B, T], None] | None = None) -> T:
        """Let the thread run this inside a transaction; durable when it returns. `then` is called in the loop with
        the ledger and the value, before any answer, also when nobody waits any more.
        """

        async def ready() -> Callable[[], _Operation]:
            await self.ledger()
            return lambda: self._put(_Operation(self._loop.create_future(), run=run, then=then))

        result: T = await self._until_done(ready)
        return result

    async def _until_done(self, ready: Callable[[], Awaitable[Callable[[], _Operation]]]) -> Any:
        """`ready` gives what asks; between the two nobody else is heard."""
        try:
            return await (await ready())().future
        except _Undone:
            pass
        async with self._one_at_a_time:
            while True:
                ask = await ready()
                self._hand_over(always=True)
                future = ask().future
                self._open.is_alone = bool(self._open.operations)
                self._hand_over(always=True)
                try:
                    return await future
                except _Undone:  # by something before it
                    continue

    def is_current(self, ledger: B) -> bool:
        return self._is_whole and ledger is self._ledger

    def _decide(self, ledger: B, run: Callable[[B], Any], early: Callable[[B, Any], int] | None) -> _Operation:
        operation = _Operation(self._loop.create_future())
        try:
            operation.value = run(ledger)
            if early is not None:
                operation.after = early(ledger, operation.value)
        except FleetError as error:
            operation.error = error
        except Exception as error:
            # What it half did is in the ledger, and must not reach the database.
            operation.future.set_exception(error)
            self._undo(_Group(self._age), _Failure(), self._age + 1)
            self._inbox.put(self._grow_older)
            return operation
        return self._put(operation)

    def _put(self, operation: _Operation) -> _Operation:
        self._open.operations.append(operation)
        if operation.after is None:
            self._call()
        else:
            if len(self._open.operations) == 1:
                self._loop.call_later(EARLY_S, self._call)
            if operation.after <= self._ledger.durable:
                _answer(operation)
            else:
                self._early.append(operation)
        return operation

    def _call(self) -> None:
        if self._open.operations and not self._open.is_called:
            self._open.is_called = True
            # One more turn, so that what follows from this in the loop shares its commit.
            self._loop.call_soon(lambda: self._loop.call_soon(self._hand_over))

    def _answer_early(self) -> bool:
        """Those whose group is durable; whether there were any."""
        if not self._early:
            return False
        durable = self._ledger.durable
        waiting = []
        any_answered = False
        for operation in self._early:
            if operation.after is not None and operation.after <= durable:
                _answer(operation)
                any_answered = True
            elif not operation.future.done():
                waiting.append(operation)
        self._early = waiting
        return any_answered

    def _answer_all(self) -> None:
        answers, self._answers = self._answers, []
        for operation in answers:
            _answer(operation)

    def _hand_over(self, always: bool = False) -> None:
        group = self._open
        if not group.operations or (self._in_flight >= MAX_IN_FLIGHT and not always):
            return
        group.writing, group.news = self._ledger.close()
        self._open = _Group(self._age)
        self._in_flight += 1
        if self._in_flight == 1 and not group.is_for_the_thread:
            self._deliver(group, None)
        else:
            self._inbox.put(group)

    def _deliver(self, group: _Group, failure: _Failure | None, age: int = 0) -> None:
        self._in_flight -= 1
        if failure is not None:
            self._undo(group, failure, age)
        else:
            try:
                self._learn(group.news)
                self._ledger.settled(self._in_flight)
                for operation in group.operations:
                    if operation.then is not None and operation.error is None:
                        operation.then(self._ledger, operation.value)
            except Exception as error:  # a fault of ours; it is durable, but nobody may wait for ever
                log.exception("what was written could not be told")
                for operation in group.operations:
                    operation.error = operation.error or error
            are_waiting = bool(self._answers)
            self._answers += group.operations
            if self._answer_early():
                # The others give way for two turns, in which what is said early gets onto the wire: it is in a hurry.
                if not are_waiting:
                    self._loop.call_soon(self._loop.call_soon, self._answer_all)
            elif not are_waiting:  # or they would overtake
                self._answer_all()
        if self._open.is_called:
            self._hand_over()

    def _undo(self, group: _Group, failure: _Failure, age: int) -> None:
        """This group was not written. What was decided since was decided on a ledger that never came to be."""
        undone = [group]
        if failure.world is not None:
            now = self._loop.time()
            self._refuses_until = now + REFUSES_S if now - self._failed_at < AGAIN_S else now
            self._refusal, self._failed_at = failure.world, now
        if age > self._age:
            self._age = age
            self._is_whole = False
            undone.append(self._open)
            self._open = _Group(age)
        for one in undone:
            for operation in one.operations:
                if failure.world is not None:
                    operation.error = StoreUnavailable(failure.world.detail, code=failure.world.code)
                elif failure.fault is not None and one.is_alone:
                    operation.error = failure.fault
                else:
                    operation.error = _Undone()
                _answer(operation)

    def _is_read(self, ledger: B | None, error: Exception | None) -> None:
        reading, self._reading = self._reading, None
        if ledger is not None:
            ledger.take_over_from(self._ledger)
            self._ledger = ledger
            self._is_whole = True
        assert reading is not None
        if reading.done():
            return
        if error is None:
            reading.set_result(None)
        else:
            reading.set_exception(error)

    async def close(self) -> None:
        """Finish what waits, fold the log into the database, end the thread. Twice is harmless."""
        if not self._closed:
            self._closed = True
            self._hand_over(always=True)
            self._inbox.put(None)
        await asyncio.shield(self._ended)

    def _say_closed(self) -> None:
        left = [self._open]
        while not self._inbox.empty():
            group = self._inbox.get_nowait()
            if isinstance(group, _Group):
                left.append(group)
        for group in left:
            for operation in group.operations:
                operation.error = StoreUnavailable("the store is closed", code="CLOSED")
                _answer(operation)
        if self._reading is not None:
            self._is_read(None, StoreUnavailable("the store is closed", code="CLOSED"))
        if not self._ended.done():
            self._ended.set_result(None)

    # --- in the thread --------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            while (asked := self._next()) is not None:
                if isinstance(asked, _Group):
                    self._handle(asked)
                else:
                    asked()
        finally:
            self._closed = True
            try:
                self._end()
            finally:
                self._in_loop(self._say_closed)

    def _next(self) -> _Group | Callable[[], None] | None:
        """Waits until something is asked for; None when closed and nothing waits."""
        try:
            return self._inbox.get(timeout=IDLE_S) if self._unwritten_bytes else self._inbox.get()
        except Empty:
            self._checkpoint()
            return self._inbox.get()

    def _handle(self, group: _Group) -> None:
        if group.age != self._thread_age:
            self._in_loop(self._deliver, group, _Failure(), self._thread_age)
            return
        try:
            self._roll_back()  # nothing, unless an earlier one could not be undone
            self._db.execute("BEGIN IMMEDIATE")
            self._write(group)
            self._db.execute("COMMIT")
        except Exception as error:
            failure = self._failed(error)
            self._thread_age += 1
            self._in_loop(self._deliver, group, failure, self._thread_age)
        else:
            self._in_loop(self._deliver, group, None)
        if self._unwritten_bytes > MAX_WAL_BYTES:
            self._checkpoint()

    def _write(self, group: _Group) -> None:
        if group.writing:
            self._unwritten_bytes += group.writing.write(self._db)
        for operation in group.operations:
            if operation.run is not None:
                self._unwritten_bytes += PAGE
                try:
                    operation.value = operation.run(self._db)
                except FleetError as error:
                    operation.error = error

    def _failed(self, error: Exception) -> _Failure:
        world = unavailable(error) if isinstance(error, sqlite3.Error) else None
        try:
            self._roll_back()
        except Exception as worse:  # the thread must not die: nobody would ever be answered
            known = unavailable(worse) if isinstance(worse, sqlite3.Error) else None
            world = known or StoreUnavailable(f"what was half done cannot be undone: {worse}")
        if world is None:
            return _Failure(fault=error)
        log.error("the store is unavailable (%s): %s", world.code, world.detail)
        return _Failure(world=world)

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _grow_older(self) -> None:
        self._thread_age += 1

    def _read_again(self) -> None:
        try:
            self._roll_back()
            ledger = self._read(self._db)
        except Exception as error:
            known = unavailable(error) if isinstance(error, sqlite3.Error) else None
            self._in_loop(self._is_read, None, known or error)
        else:
            self._in_loop(self._is_read, ledger, None)

    def _checkpoint(self, *, truncate: bool = False) -> None:
        """Fold the log into the database."""
        self._unwritten_bytes = 0
        try:
            self._db.execute(f"PRAGMA wal_checkpoint({'TRUNCATE' if truncate else 'PASSIVE'})").fetchone()
        except sqlite3.Error as error:
            # Nothing is lost: the log holds it all, and the next checkpoint tries again.
            log.warning("checkpoint failed: %s", error)

    def _end(self) -> None:
        self._checkpoint(truncate=True)
        self._db.close()

    def _in_loop(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            log.warning("the event loop is gone: nobody waits for the store's answers")


def _answer(operation: _Operation) -> None:
    future = operation.future
    if future.done():
        return  # whoever asked was cancelled
    if operation.error is not None:
        future.set_exception(operation.error)
    else:
        future.set_result(operation.value)


def _heard(future: "asyncio.Future[None]") -> None:
    """An error is told to whoever waits; that nobody does is no fault."""
    if not future.cancelled():
        future.exception()
