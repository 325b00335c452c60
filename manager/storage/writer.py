"""The one thread that writes: many waiting operations in one transaction.

It takes whatever waits (a *group*), lets each operation change the ledger, commits once, and answers all of them with
one call into the event loop. So the price of a durable commit is shared by everybody who waits for one, and no
operation waits for a timer. What is asked for in one turn of the event loop is handed over together and committed
together. It also does every checkpoint: small ones, when nothing waits.

An operation decides before it writes: when it raises a FleetError it has changed nothing, and its neighbours go on.
Any other exception rolls the group back, and each of its operations is then tried alone, so that one bad operation
cannot hurt the others. What the world did to the database (disk full) is told to all of the group.

Knows nothing of tasks; the ledger does.
"""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, Protocol, TypeVar

from manager.errors import FleetError, StoreUnavailable
from manager.storage.opening import unavailable

MAX_GROUP: Final = 1_000
IDLE_S: Final = 0.25  # quiet for so long: time for a checkpoint
MAX_WAL_BYTES: Final = 16 * 1024 * 1024  # checkpoint even while busy

log = logging.getLogger(__name__)

T = TypeVar("T")
L = TypeVar("L", bound="Transactional")


class Transactional(Protocol):
    """What the writer needs of a ledger."""

    @property
    def written_bytes(self) -> int:
        """About how much was written since the last checkpoint."""
        ...

    def commit(self) -> Any:
        """Make everything since the last commit durable; what the loop's side must know of it (the *news*)."""
        ...

    def rollback(self) -> None:
        """Forget everything since the last commit, also in memory."""
        ...

    def checkpoint(self, *, truncate: bool = False) -> None: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class _Operation(Generic[L]):
    """Something to do, who waits for it, and in the end its answer."""

    run: Callable[[L], Any]
    future: "asyncio.Future[Any]"
    value: Any = None
    error: Exception | None = None


class Writer(Generic[L]):
    """Owns the thread and, through it, the ledger. `learn` is called in the loop with the news of each commit, before
    its answers are given.
    """

    def __init__(self, ledger: L, learn: Callable[[Any], None]) -> None:
        self._ledger = ledger
        self._learn = learn
        self._loop = asyncio.get_running_loop()
        self._asked: list[_Operation[L]] = []  # in this turn of the loop
        self._inbox: SimpleQueue[list[_Operation[L]] | None] = SimpleQueue()
        self._closed = False
        self._is_torn = False  # memory and rows differ, since a rollback failed
        self._ended = self._loop.create_future()
        self._thread = threading.Thread(target=self._main, name="store-writer", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Writer {'closed' if self._closed else 'open'} waiting={self._inbox.qsize()}>"

    async def do(self, run: Callable[[L], T]) -> T:
        """Let the writer thread run this; durable when it returns. Cancelling stops the waiting, not the operation."""
        if self._closed:
            raise StoreUnavailable("the store is closed", code="CLOSED")
        future: asyncio.Future[T] = self._loop.create_future()
        if not self._asked:
            self._loop.call_soon(self._hand_over)
        self._asked.append(_Operation(run, future))
        return await future

    def _hand_over(self) -> None:
        if self._asked:
            self._inbox.put(self._asked)
            self._asked = []

    async def close(self) -> None:
        """Finish what waits, fold the log into the database, end the thread. Twice is harmless."""
        if not self._closed:
            self._closed = True
            self._hand_over()
            self._inbox.put(None)
        await asyncio.shield(self._ended)

    # --- in the thread --------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            while (group := self._next_group()) is not None:
                self._handle(group)
        finally:
            self._closed = True
            try:
                self._ledger.close()
            finally:
                self._in_loop(self._say_closed)

    def _next_group(self) -> list[_Operation[L]] | None:
        """Waits until something is asked for; None when closed and nothing waits."""
        group: list[_Operation[L]] | None
        try:
            group = self._inbox.get(timeout=IDLE_S) if self._ledger.written_bytes else self._inbox.get()
        except Empty:
            self._checkpoint()
            group = self._inbox.get()
        while group is not None and len(group) < MAX_GROUP and not self._inbox.empty():
            following = self._inbox.get_nowait()
            if following is None:
                self._inbox.put(None)  # nothing can come behind it: end with the next look
                break
            group += following
        return group

    def _handle(self, group: list[_Operation[L]]) -> None:
        try:
            if self._is_torn:
                self._roll_back()
            news = self._commit(group)
        except Exception as error:
            world = unavailable(error) if isinstance(error, sqlite3.Error) else None
            try:
                self._roll_back()
            except Exception as worse:  # the thread must not die: nobody would ever be answered
                known = unavailable(worse) if isinstance(worse, sqlite3.Error) else None
                world = known or StoreUnavailable(f"what was half done cannot be undone: {worse}")
            if world is None and len(group) > 1:
                for operation in group:
                    self._handle([operation])
                return
            if world is not None:
                log.error("the store is unavailable (%s): %s", world.code, world.detail)
            for operation in group:
                operation.error = StoreUnavailable(world.detail, code=world.code) if world is not None else error
            news = None
        self._in_loop(self._deliver, group, news)
        if self._ledger.written_bytes > MAX_WAL_BYTES:
            self._checkpoint()

    def _roll_back(self) -> None:
        """When it raises, nothing is done before this was."""
        self._is_torn = True
        self._ledger.rollback()
        self._is_torn = False

    def _commit(self, group: list[_Operation[L]]) -> Any:
        ledger = self._ledger
        for operation in group:
            operation.error = None
            try:
                operation.value = operation.run(ledger)
            except FleetError as error:
                operation.error = error
        return ledger.commit()

    def _checkpoint(self) -> None:
        try:
            self._ledger.checkpoint()
        except sqlite3.Error as error:
            # Nothing is lost: the log holds it all, and the next checkpoint tries again.
            log.warning("checkpoint failed: %s", error)

    def _in_loop(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            log.warning("the event loop is gone: nobody waits for the store's answers")

    # --- in the loop ----------------------------------------------------------------------------------

    def _deliver(self, group: list[_Operation[L]], news: Any) -> None:
        if news is not None:
            self._learn(news)
        for operation in group:
            if operation.future.done():
                continue  # whoever asked was cancelled
            if operation.error is not None:
                operation.future.set_exception(operation.error)
            else:
                operation.future.set_result(operation.value)

    def _say_closed(self) -> None:
        self._hand_over()
        while not self._inbox.empty():
            for operation in self._inbox.get_nowait() or ():
                if not operation.future.done():
                    operation.future.set_exception(StoreUnavailable("the store is closed", code="CLOSED"))
        if not self._ended.done():
            self._ended.set_result(None)
