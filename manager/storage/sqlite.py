"""The embedded store: one SQLite file, one manager.

    who asks -> SqliteStore -> Recent      what was committed lately: answered at once
                            -> Writer      every change: one thread, group commit, on the Ledger
                            -> readers     everything else: a few read-only connections in worker threads

Cancelling a call that changes something stops the waiting, not the change.
"""

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from queue import LifoQueue
from secrets import token_hex
from types import TracebackType
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from manager.core import tasks
from manager.core.lifecycle import ON_A_HOST
from manager.core.scheduling import Offer, Requirement
from manager.core.tasks import DEFAULT_LIMITS, Change, Limits, Record, Spec
from manager.errors import NotFound, StoreUnavailable
from manager.ports import (
    Claim,
    HostRow,
    LogBounds,
    NewTask,
    Page,
    StoredInput,
    Taken,
    TaskQuery,
    Token,
)
from manager.storage import access, claims, hosts, inputs, reading
from manager.storage import tasks as operations
from manager.storage.ledger import Ledger
from manager.storage.opening import DirectoryLock, open_reader, open_writer, translated
from manager.storage.recent import Recent
from manager.storage.rows import TOKEN_COLUMNS, decode_token
from manager.storage.writer import Writer
from shared_types.api import InputState, TokenInfo
from shared_types.events import StoredEvent
from shared_types.hosts import AgentInfo, HostCapabilities
from shared_types.tasks import Task, TaskState

READERS: Final = 4
TOUCH_MS: Final = 60_000

T = TypeVar("T")


class SqliteStore:
    """`Store` on SQLite. Made by `open`; close it, or use it as a context manager."""

    def __init__(self, path: Path, lock: DirectoryLock, ledger: Ledger, recent: Recent, epoch: str) -> None:
        self._path = path
        self._lock = lock
        self._recent = recent
        self._epoch = epoch
        self._writer: Writer[Ledger] = Writer(ledger, recent.learn)
        self._readers: LifoQueue[sqlite3.Connection] = LifoQueue()
        self._reading = anyio.CapacityLimiter(READERS)
        self._closed = False

    def __repr__(self) -> str:
        return f"<SqliteStore {self._path} {self._writer!r}>"

    @classmethod
    async def open(cls, path: Path, *, now: int, limits: Limits = DEFAULT_LIMITS) -> "SqliteStore":
        """Lock the directory of `path`, check and migrate the database, and take note that no host is connected
        (any more) at `now`. Raises StoreUnavailable IN_USE, NEWER, CORRUPT ...
        """
        return cls(*await anyio.to_thread.run_sync(_prepare, path, now, limits))

    async def close(self) -> None:
        """What was asked for before is still done. Shielded, for it ends a thread."""
        with anyio.CancelScope(shield=True):
            if not self._closed:
                self._closed = True
                for _ in range(READERS):
                    await self._reading.acquire_on_behalf_of(object())  # every reader is back
                while not self._readers.empty():
                    self._readers.get_nowait().close()
            await self._writer.close()  # last: it folds the log into the database
            self._lock.release()

    async def __aenter__(self) -> "SqliteStore":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def epoch(self) -> str:
        return self._epoch

    async def _read(self, run: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise StoreUnavailable("the store is closed", code="CLOSED")
        return await anyio.to_thread.run_sync(self._with_reader, run, limiter=self._reading)

    def _with_reader(self, run: Callable[[sqlite3.Connection], T]) -> T:
        # No more than READERS threads are in here, so no more connections are ever made.
        db = open_reader(self._path) if self._readers.empty() else self._readers.get_nowait()
        try:
            with translated():
                return run(db)
        finally:
            self._readers.put(db)

    # --- tasks ----------------------------------------------------------------------------------------

    async def add(self, new: NewTask, *, max_queued: int) -> tuple[Task, bool]:
        with self._recent.expecting(new.requirement):
            return await self._writer.do(lambda ledger: operations.add(ledger, new, max_queued))

    async def task(self, task_id: str) -> Task:
        spec, record = await self._load(task_id)
        return tasks.show(spec, record, full_prompt=True)

    async def _load(self, task_id: str) -> tuple[Spec, Record]:
        known = self._recent.task(task_id)
        return known if known is not None else await self._read(lambda db: reading.load(db, task_id))

    async def find(self, prefix: str) -> str:
        if self._recent.task(prefix) is not None:
            return prefix
        return await self._read(lambda db: reading.find(db, prefix))

    async def tasks(self, query: TaskQuery) -> Page:
        return await self._read(lambda db: reading.page(db, query))

    async def counts(self) -> dict[TaskState, int]:
        return dict(self._recent.counts)

    async def requirements(self) -> dict[int, Requirement]:
        return self._recent.requirements()

    async def position(self, task_id: str) -> int:
        return await self._read(lambda db: reading.position(db, task_id))

    async def claim(self, offers: Sequence[Offer], *, accept_by: int, now: int) -> list[Claim]:
        wanted = self._recent.requirements().keys()
        if not any(offer.keys & wanted for offer in offers):
            return []
        return await self._writer.do(lambda ledger: claims.claim(ledger, offers, accept_by, now))

    async def change(self, changes: Sequence[Change]) -> list[Taken]:
        return await self._writer.do(lambda ledger: operations.change(ledger, changes))

    async def claim_of(self, task_id: str) -> Claim | None:
        try:
            spec, record = await self._load(task_id)
        except NotFound:
            return None
        host = self._recent.hosts.get(record.host_id or "")
        if record.status not in ON_A_HOST or host is None:
            return None
        return Claim(spec=spec, record=record, host_id=host.host_id, generation=host.generation)

    async def on_host(self, host_id: str) -> list[Record]:
        return await self._writer.do(lambda ledger: [hot.record for hot in claims.on_host(ledger, host_id)])

    async def due(self, now: int, limit: int) -> list[Record]:
        return await self._writer.do(lambda ledger: operations.due(ledger, now, limit))

    # --- events ---------------------------------------------------------------------------------------

    async def bounds(self, *, task_id: str | None = None, session_id: str | None = None) -> LogBounds:
        if task_id is not None and (known := self._recent.task(task_id)) is not None:
            session_id = known[1].session_id
        if session_id is not None and (found := self._recent.bounds(session_id)) is not None:
            return found
        return await self._read(partial(reading.bounds, task_id=task_id, session_id=session_id))

    async def events(
        self, session_id: str, after: int, *, task_id: str | None = None, limit: int, max_bytes: int
    ) -> list[StoredEvent]:
        at_hand = self._recent.after(session_id, after)
        if at_hand is not None:
            return reading.cut(at_hand, task_id=task_id, limit=limit, max_bytes=max_bytes)
        read = partial(
            reading.events, session_id=session_id, after=after, task_id=task_id, limit=limit, max_bytes=max_bytes
        )
        return await self._read(read)

    # --- hosts ----------------------------------------------------------------------------------------

    async def host_connected(
        self,
        host_id: str,
        capabilities: HostCapabilities,
        agents: tuple[AgentInfo, ...],
        *,
        protocol: int,
        version: str | None,
        boot_id: str | None,
        now: int,
    ) -> HostRow:
        return await self._writer.do(
            lambda ledger: hosts.connected(ledger, host_id, capabilities, agents, protocol, version, boot_id, now)
        )

    async def host_seen(self, host_id: str, generation: int, now: int) -> bool:
        return await self._writer.do(lambda ledger: hosts.seen(ledger, host_id, generation, now))

    async def host_gone(self, host_id: str, generation: int, now: int) -> list[Taken]:
        return await self._writer.do(lambda ledger: hosts.gone(ledger, host_id, generation, now))

    async def hosts(self) -> list[HostRow]:
        return sorted(self._recent.hosts.values(), key=lambda host: host.host_id)

    async def host(self, host_id: str) -> HostRow:
        host = self._recent.hosts.get(host_id)
        if host is None:
            raise NotFound(f"there is no host {host_id}", code="NO_SUCH_HOST")
        return host

    async def set_draining(self, host_id: str, draining: bool) -> HostRow:
        return await self._writer.do(lambda ledger: hosts.set_draining(ledger, host_id, draining))

    # --- inputs ---------------------------------------------------------------------------------------

    async def add_input(self, task_id: str, input_id: str, content: str, now: int) -> StoredInput:
        return await self._writer.do(lambda ledger: inputs.add(ledger, task_id, input_id, content, now))

    async def mark_input(self, task_id: str, input_id: str, state: InputState) -> StoredInput | None:
        return await self._writer.do(lambda ledger: inputs.mark(ledger, task_id, input_id, state))

    async def open_inputs(self, task_id: str) -> list[StoredInput]:
        return await self._writer.do(lambda ledger: inputs.open_ones(ledger, task_id))

    # --- access ---------------------------------------------------------------------------------------

    async def add_token(self, token: Token) -> None:
        await self._writer.do(lambda ledger: access.add_token(ledger, token))

    async def token(self, hash: str) -> Token | None:
        return self._recent.tokens.get(hash)

    async def tokens(self) -> list[TokenInfo]:
        return await self._read(reading.tokens)

    async def revoke_token(self, token_id: str, now: int) -> TokenInfo:
        return await self._writer.do(lambda ledger: access.revoke_token(ledger, token_id, now))

    async def touch_token(self, token_id: str, now: int) -> None:
        if self._recent.touched.get(token_id, -TOUCH_MS) + TOUCH_MS > now:
            return
        self._recent.touched[token_id] = now
        await self._writer.do(lambda ledger: access.touch_token(ledger, token_id, now))

    async def add_join_code(self, hash: str, *, expires_at: int, labels: dict[str, str]) -> None:
        await self._writer.do(lambda ledger: access.add_join_code(ledger, hash, expires_at, labels))

    async def redeem_join_code(self, hash: str, *, host_id: str, token: Token, now: int) -> dict[str, str]:
        return await self._writer.do(lambda ledger: access.redeem_join_code(ledger, hash, host_id, token, now))

    # --- unread marks ---------------------------------------------------------------------------------

    async def mark(self, principal: str, device: str, session_id: str, event_id: int) -> None:
        await self._writer.do(lambda ledger: access.mark(ledger, principal, device, session_id, event_id))

    async def marked(self, principal: str, device: str, session_id: str) -> int:
        return await self._read(lambda db: reading.marked(db, principal, device, session_id))


def _prepare(path: Path, now: int, limits: Limits) -> tuple[Path, DirectoryLock, Ledger, Recent, str]:
    """Everything about opening that may take long, in a worker thread."""
    lock = DirectoryLock(path.absolute().parent)
    try:
        db = open_writer(path)
        try:
            with translated():
                db.execute("INSERT OR IGNORE INTO meta VALUES ('epoch', ?)", (token_hex(8),))
                (epoch,) = db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
                db.execute("DELETE FROM queue_key WHERE no NOT IN (SELECT key_no FROM standing WHERE key_no NOT NULL)")
                ledger = Ledger(db, limits)
                hosts.nobody_connected(ledger, now)
                ledger.commit()
                recent = Recent()
                recent.learn(ledger.first_news())
                columns = db.execute(f"SELECT {TOKEN_COLUMNS} FROM token")  # noqa: S608 - our own names
                recent.tokens = {token.hash: token for token in map(decode_token, columns)}
        except BaseException:
            db.close()
            raise
    except BaseException:
        lock.release()
        raise
    return path, lock, ledger, recent, str(epoch)
