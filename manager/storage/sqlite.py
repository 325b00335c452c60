"""The embedded store: one SQLite file, one manager.

    who asks -> SqliteStore -> Recent      what was committed lately: answered at once
                            -> Writer      every change: decided on the Ledger, one thread, group commit
                            -> readers     everything else: a few read-only connections in worker threads

Cancelling a call that changes something stops the waiting, not the change.
"""

import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from queue import LifoQueue
from secrets import token_hex
from types import TracebackType
from typing import Final, NamedTuple, TypeVar

import anyio
import anyio.to_thread

from manager.core import tasks
from manager.core.lifecycle import ON_A_HOST
from manager.core.scheduling import Offer, Requirement
from manager.core.tasks import DEFAULT_LIMITS, Change, Limits, Record, Spec
from manager.errors import Conflict, NotFound, StoreUnavailable
from manager.ports import (
    Claim,
    HostRow,
    LogBounds,
    NewTask,
    Page,
    Standing,
    StoredInput,
    Taken,
    TaskQuery,
    Token,
)
from manager.storage import access, claims, hosts, inputs, reading
from manager.storage import tasks as operations
from manager.storage.ledger import Lack, Ledger, look_up
from manager.storage.opening import DirectoryLock, open_reader, open_writer, translated
from manager.storage.recent import Recent
from manager.storage.rows import TOKEN_COLUMNS, decode_token
from manager.storage.writer import Writer
from shared_types.api import InputState, TokenInfo
from shared_types.events import StoredEvent
from shared_types.hosts import AgentInfo, HostCapabilities
from shared_types.tasks import FINAL, Task, TaskState

READERS: Final = 4
TOUCH_MS: Final = 60_000

T = TypeVar("T")
Bring = Callable[[], Awaitable[None]]


class SqliteStore:
    """`Store` on SQLite. Made by `open`; close it, or use it as a context manager."""

    def __init__(self, path: Path, prepared: "_Prepared", reads: Callable[[], None]) -> None:
        self._path = path
        self._reads = reads
        self._lock = prepared.lock
        self._recent = prepared.recent
        self._epoch = prepared.epoch
        self._writer: Writer[Ledger] = Writer(
            prepared.db,
            prepared.ledger,
            read=lambda db: Ledger.read(db, prepared.ledger.limits),
            learn=prepared.recent.learn,
        )
        self._asked: dict[tuple[str, str], anyio.Event] = {}  # idempotency keys of tasks that are being added
        self._readers: LifoQueue[sqlite3.Connection] = LifoQueue()
        self._reading = anyio.CapacityLimiter(READERS)
        self._closed = False

    def __repr__(self) -> str:
        return f"<SqliteStore {self._path} {self._writer!r}>"

    @classmethod
    async def open(
        cls, path: Path, *, now: int, limits: Limits = DEFAULT_LIMITS, reads: Callable[[], None] = lambda: None
    ) -> "SqliteStore":
        """Lock the directory of `path`, check and migrate the database, and take note that no host is connected
        (any more) at `now`. A thread that is about to read calls `reads`.

        Raises StoreUnavailable IN_USE, NEWER, CORRUPT ...
        """
        return cls(path, await anyio.to_thread.run_sync(_prepare, path, now, limits), reads)

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
    def writer_thread(self) -> int:
        """The native id of the thread that writes."""
        return self._writer.thread

    @property
    def epoch(self) -> str:
        return self._epoch

    async def _read(self, run: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise StoreUnavailable("the store is closed", code="CLOSED")
        return await anyio.to_thread.run_sync(self._with_reader, run, limiter=self._reading)

    def _with_reader(self, run: Callable[[sqlite3.Connection], T]) -> T:
        self._reads()
        # No more than READERS threads are in here, so no more connections are ever made.
        db = open_reader(self._path) if self._readers.empty() else self._readers.get_nowait()
        try:
            with translated():
                return run(db)
        finally:
            self._readers.put(db)

    # --- tasks ----------------------------------------------------------------------------------------

    async def add(self, new: NewTask, *, max_queued: int) -> tuple[Task, bool]:
        if new.idempotency_key is None:
            return await self._add(new, max_queued), True
        asked = (new.spec.actor, new.idempotency_key)
        # Held until it is durable, also when who asked has gone: the next one finds it in the database.
        with anyio.CancelScope(shield=True):
            while (other := self._asked.get(asked)) is not None:
                await other.wait()
            self._asked[asked] = anyio.Event()
            try:
                known = await self._read(lambda db: reading.asked_before(db, *asked))
                task = await self._add(new, max_queued) if known is None else None
            finally:
                self._asked.pop(asked).set()
        if task is not None:
            return task, True
        assert known is not None
        task_id, digest = known
        if digest != new.digest:
            raise Conflict(
                f"the idempotency key was used for another request (task {task_id})",
                code="IDEMPOTENCY_MISMATCH",
                hint="use a new key for a new request",
            )
        return await self.task(task_id), False

    async def _add(self, new: NewTask, max_queued: int) -> Task:
        bringing = _Bringing(self)
        return await self._writer.decide(
            lambda ledger: operations.add(ledger, new, max_queued),
            lambda ledger: bringing.all_of(ledger, ledger.lacks_session(new)),
        )

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

    async def requirements(self) -> Mapping[int, Requirement]:
        return (await self._writer.ledger()).wishes

    async def position(self, task_id: str) -> int:
        return await self._read(lambda db: reading.position(db, task_id))

    async def claim(
        self,
        offers: Sequence[Offer],
        *,
        accept_by: int,
        now: int,
        decided: Callable[[Sequence[Claim]], None] | None = None,
    ) -> list[Claim]:
        bringing = _Bringing(self)

        def prepare(ledger: Ledger) -> Bring | None:
            _, heads = claims.heads(ledger, offers, now)
            return bringing.all_of(ledger, ledger.lacks(task_id for _, _, task_id, _ in heads))

        def run(ledger: Ledger) -> list[Claim]:
            claimed = claims.claim(ledger, offers, accept_by, now)
            if decided is not None:
                decided(claimed)
            return claimed

        return await self._writer.decide(run, prepare)

    async def change(self, changes: Sequence[Change]) -> list[Taken]:
        return await self._change(changes)

    async def accept(self, changes: Sequence[Change]) -> list[Taken]:
        return await self._change(changes, operations.group_of_claims)

    async def _change(
        self, changes: Sequence[Change], early: Callable[[Ledger, list[Taken]], int] | None = None
    ) -> list[Taken]:
        bringing = _Bringing(self)
        return await self._writer.decide(
            lambda ledger: operations.change(ledger, changes),
            lambda ledger: bringing.all_of(ledger, ledger.lacks(change.task_id for change in changes)),
            early,
        )

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
        bringing = _Bringing(self)
        return await self._writer.decide(
            lambda ledger: [ledger.must_find(task_id).record for task_id in ledger.on_host(host_id)],
            lambda ledger: bringing.all_of(ledger, ledger.lacks(ledger.on_host(host_id))),
        )

    async def due(self, now: int, limit: int) -> list[Record]:
        ids = await self._read(lambda db: reading.due(db, now, limit))
        bringing = _Bringing(self)
        return await self._writer.decide(
            lambda ledger: operations.still_due(ledger, ids, now),
            lambda ledger: bringing.all_of(ledger, ledger.lacks(ids)),
        )

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
        keeps_leases: bool = False,
        now: int,
    ) -> HostRow:
        return await self._writer.decide(
            lambda ledger: hosts.connected(
                ledger, host_id, capabilities, agents, protocol, version, boot_id, now, keeps_leases
            )
        )

    async def host_seen(self, host_id: str, generation: int, now: int) -> Standing:
        is_barred = self._recent.is_barred(host_id)
        return await self._writer.decide(
            lambda ledger: hosts.seen(ledger, host_id, generation, now, is_barred=is_barred)
        )

    async def host_gone(self, host_id: str, generation: int, now: int) -> list[Taken]:
        bringing = _Bringing(self)
        return await self._writer.decide(
            lambda ledger: hosts.gone(ledger, host_id, generation, now),
            lambda ledger: bringing.all_of(ledger, ledger.lacks(ledger.on_host(host_id))),
        )

    async def hosts(self) -> list[HostRow]:
        return sorted(self._recent.hosts.values(), key=lambda host: host.host_id)

    async def host(self, host_id: str) -> HostRow:
        host = self._recent.hosts.get(host_id)
        if host is None:
            raise NotFound(f"there is no host {host_id}", code="NO_SUCH_HOST")
        return host

    async def set_draining(self, host_id: str, draining: bool) -> HostRow:
        return await self._writer.decide(lambda ledger: hosts.set_draining(ledger, host_id, draining))

    # --- inputs ---------------------------------------------------------------------------------------

    async def add_input(self, task_id: str, input_id: str, content: str, now: int) -> StoredInput:
        def standing(ledger: Ledger) -> tuple[int, str | None]:
            hot = ledger.must_find(task_id)
            return hot.no, hot.record.status if hot.record.status in FINAL else None

        bringing = _Bringing(self)
        no, ended = await self._writer.decide(standing, lambda ledger: bringing.all_of(ledger, ledger.lacks([task_id])))
        return await self._writer.write(lambda db: inputs.add(db, no, task_id, input_id, content, now, ended))

    async def mark_input(self, task_id: str, input_id: str, state: InputState) -> StoredInput | None:
        return await self._writer.write(lambda db: inputs.mark(db, task_id, input_id, state))

    async def open_inputs(self, task_id: str) -> list[StoredInput]:
        return await self._read(lambda db: inputs.open_ones(db, task_id))

    # --- access ---------------------------------------------------------------------------------------

    async def add_token(self, token: Token) -> None:
        await self._writer.write(lambda db: access.add_token(db, token), self._learn_token)

    async def token(self, hash: str) -> Token | None:
        return self._recent.tokens.get(hash)

    async def tokens(self) -> list[TokenInfo]:
        return await self._read(reading.tokens)

    def _learn_token(self, ledger: Ledger, token: Token | None) -> None:
        if token is not None:
            self._recent.learn_token(token)

    async def revoke_token(self, token_id: str, now: int) -> TokenInfo:
        token = await self._writer.write(lambda db: access.revoke_token(db, token_id, now), self._learn_token)
        return token.info

    async def touch_token(self, token_id: str, now: int) -> None:
        if self._recent.touched.get(token_id, -TOUCH_MS) + TOUCH_MS > now:
            return
        self._recent.touched[token_id] = now

        await self._writer.write(lambda db: access.touch_token(db, token_id, now), self._learn_token)

    async def add_join_code(self, hash: str, *, expires_at: int, labels: dict[str, str]) -> None:
        await self._writer.write(lambda db: access.add_join_code(db, hash, expires_at, labels))

    async def redeem_join_code(self, hash: str, *, host_id: str, token: Token, now: int) -> dict[str, str]:
        def learn(ledger: Ledger, labels: dict[str, str]) -> None:
            self._recent.learn_token(token)
            hosts.relabelled(ledger, host_id, labels)
            self._recent.relabel(host_id, labels)  # its row there may know less than the ledger's, which runs ahead

        return await self._writer.write(lambda db: access.redeem_join_code(db, hash, host_id, token, now), learn)

    # --- unread marks ---------------------------------------------------------------------------------

    async def mark(self, principal: str, device: str, session_id: str, event_id: int) -> None:
        await self._writer.write(lambda db: access.mark(db, principal, device, session_id, event_id))

    async def marked(self, principal: str, device: str, session_id: str) -> int:
        return await self._read(lambda db: reading.marked(db, principal, device, session_id))


class _Bringing:
    """Brings into the ledger what one operation needs of it. Ids that the database does not have are asked for once."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._absent: set[str] = set()
        self._kept: list[object] = []

    def all_of(self, ledger: Ledger, lack: Lack) -> Bring | None:
        """None when all of it is there, or nowhere."""
        if not lack.tasks and not lack.sessions:
            return None
        missing = Lack(*([id for id in ids if id not in self._absent] for ids in lack))
        return partial(self._fetch, ledger, missing) if missing.tasks or missing.sessions else None

    async def _fetch(self, ledger: Ledger, lack: Lack) -> None:
        forgot = ledger.forgot
        found = await self._store._read(lambda db: look_up(db, lack))
        if self._store._writer.is_current(ledger) and ledger.forgot == forgot:
            self._kept += ledger.bring(found)
            self._absent.update(set(lack.tasks).difference(task.id for task in found.tasks))
            self._absent.update(set(lack.sessions).difference(session.id for session in found.sessions))


class _Prepared(NamedTuple):
    db: sqlite3.Connection
    lock: DirectoryLock
    ledger: Ledger
    recent: Recent
    epoch: str


def _prepare(path: Path, now: int, limits: Limits) -> _Prepared:
    """Everything about opening that may take long, in a worker thread."""
    lock = DirectoryLock(path.absolute().parent)
    try:
        db = open_writer(path)
        try:
            with translated():
                db.execute("BEGIN IMMEDIATE")
                db.execute("INSERT OR IGNORE INTO meta VALUES ('epoch', ?)", (token_hex(8),))
                (epoch,) = db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
                db.execute("DELETE FROM queue_key WHERE no NOT IN (SELECT key_no FROM standing WHERE key_no NOT NULL)")
                ledger = Ledger.read(db, limits)
                _nobody_is_connected(db, ledger, now)
                db.execute("COMMIT")
                recent = Recent()
                recent.learn(ledger.first_news())
                for columns in db.execute(f"SELECT {TOKEN_COLUMNS} FROM token"):  # noqa: S608 - our own names
                    recent.learn_token(decode_token(columns))
        except BaseException:
            db.close()
            raise
    except BaseException:
        lock.release()
        raise
    return _Prepared(db, lock, ledger, recent, str(epoch))


def _nobody_is_connected(db: sqlite3.Connection, ledger: Ledger, now: int) -> None:
    """A manager starts: whoever was connected to the one before is not connected to this one."""
    for host in list(ledger.hosts.values()):
        kept = ledger.bring(look_up(db, ledger.lacks(ledger.on_host(host.host_id))))
        hosts.not_back(ledger, host.host_id, now)
        entries, _ = ledger.close()
        entries.write(db)
        ledger.settled(0)  # with the transaction of all this
        del kept
