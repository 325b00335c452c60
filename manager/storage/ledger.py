"""The writer thread's side of the truth: records in memory while they are hot, rows at the end of each group.

Operations (tasks.py, claims.py, hosts.py ... beside this file) change decoded records here; `flush` writes each
changed record once, however often it changed, and `commit` makes it durable. Since there is no other writer, what is
in memory is what is in the database; after a failure everything in memory is forgotten and read again.

Invariants: `open_task` and `take` are the only places where a record comes to be or changes; a row of `attempt` without
an end is a taken slot.
"""

import logging
import sqlite3
from collections.abc import Sequence
from typing import Any, Final
from weakref import WeakValueDictionary

import msgspec

from manager.core import tasks
from manager.core.lifecycle import ON_A_HOST
from manager.core.scheduling import Requirement
from manager.core.tasks import Applied, Limits, Record, Spec
from manager.errors import NotFound
from manager.ports import HostRow, NewTask, Token
from manager.storage.generations import Generations
from manager.storage.news import News
from manager.storage.rows import LAST_ID, event_no, hosts_in, latest_event, one_line_each, public_events, put_rows
from shared_types.events import StoredEvent
from shared_types.tasks import TaskState

HOT_BYTES: Final = 32 * 1024 * 1024
PAGE: Final = 4096

log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_spec: Final = msgspec.json.Decoder(Spec)
_record: Final = msgspec.json.Decoder(Record)
_requirement: Final = msgspec.json.Decoder(Requirement)


class Log:
    """A session's log, as far as numbering goes. There is never more than one of a session."""

    __slots__ = ("__weakref__", "first", "id", "latest", "no")

    def __init__(self, no: int, id: str, first: int, latest: int) -> None:
        self.no = no
        self.id = id
        self.first = first
        self.latest = latest


class Hot:
    """A task in memory. `record` may be ahead of the database until the group is committed."""

    __slots__ = ("key_no", "log", "no", "record", "spec")

    def __init__(self, no: int, log: Log, spec: Spec, record: Record, key_no: int | None) -> None:
        self.no = no
        self.log = log
        self.spec = spec
        self.record = record
        self.key_no = key_no

    def __repr__(self) -> str:
        return f"<Hot {self.record.id} {self.record.status} rv={self.record.rv}>"


class Ledger:
    """Used by one thread at a time."""

    def __init__(self, db: sqlite3.Connection, limits: Limits, *, hot_bytes: int = HOT_BYTES) -> None:
        self.db = db
        self.limits = limits
        self.hosts: dict[str, HostRow] = {}
        self.resting: dict[str, int] = {}  # host -> until when it is not asked again
        self.queued: dict[int, int] = {}  # tasks by queue key, empty queues left out
        self.written_bytes = 0
        self._requirements: dict[int, Requirement] = {}  # of the same queues
        self._hot: Generations[str, Hot] = Generations(hot_bytes)
        self._logs: WeakValueDictionary[str, Log] = WeakValueDictionary()  # as long as a task of it is hot
        self._key_numbers: Generations[Requirement, int] = Generations(10_000)
        self._task_no = self._top("task")
        self._session_no = self._top("session")
        (self._newest_session,) = db.execute("SELECT coalesce(max(id), '') FROM session").fetchone()
        self._counts: dict[TaskState, int] = dict.fromkeys(TaskState, 0) | {
            TaskState(status): count
            for status, count in db.execute("SELECT status, count(*) FROM standing GROUP BY status")
        }
        self._in_transaction = False
        self._forget_group()
        self._reload()

    def __repr__(self) -> str:
        return f"<Ledger unwritten={len(self._changed)} hosts={len(self.hosts)}>"

    def _top(self, table: str) -> int:
        (top,) = self.db.execute(f"SELECT coalesce(max(no), 0) FROM {table}").fetchone()  # noqa: S608 - our own name
        return int(top)

    def _reload(self) -> None:
        """Read again everything in memory that a group may have changed."""
        self._hot.clear()
        self._logs.clear()
        self._key_numbers.clear()
        self.hosts = {row.host_id: row for row in hosts_in(self.db)}
        rows = self.db.execute(QUEUES).fetchall()
        self._requirements = {no: _requirement.decode(text) for no, text, _ in rows}
        self.queued = {no: count for no, _, count in rows}

    def _forget_group(self) -> None:
        self.news = News()
        self._queues_changed = False
        self._moved: dict[TaskState, int] = {}
        self._changed: dict[int, Hot] = {}
        self._new_sessions: list[tuple[int, str]] = []
        self._new_tasks: list[tuple[Any, ...]] = []
        self._asked: dict[tuple[str, str], tuple[str, str]] = {}
        self._attempts: list[tuple[Any, ...]] = []
        self._events: list[tuple[int, int, int, int, bytes]] = []

    def first_news(self) -> News:
        """What the readers must know before the first commit."""
        news = News()
        news.hosts = dict(self.hosts)
        news.counts = dict(self._counts)
        news.requirements = dict(self._requirements)
        return news

    # --- the transaction ------------------------------------------------------------------------------

    def write(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> sqlite3.Cursor:
        """For the few things that are not hot: a statement of this group's transaction."""
        self._begin()
        self.written_bytes += PAGE
        return self.db.execute(sql, parameters)

    def _begin(self) -> None:
        if not self._in_transaction:
            self.db.execute("BEGIN IMMEDIATE")
            self._in_transaction = True

    def flush(self) -> None:
        """Bring the rows up to the records in memory; still inside the transaction."""
        if not self._changed:
            return
        self._begin()
        db = self.db
        put_rows(db, "INSERT INTO session (no, id) VALUES", self._new_sessions)
        put_rows(db, "INSERT INTO task VALUES", self._new_tasks)
        self._new_sessions = []
        self._new_tasks = []
        rows = [
            (
                hot.no,
                hot.record.status.value,
                hot.spec.priority,
                hot.key_no,
                hot.record.host_id,
                hot.record.deadline_at,
                _encode(hot.record).decode(),
            )
            for hot in self._changed.values()
        ]
        put_rows(db, "INSERT INTO standing VALUES", rows, _ELSE_STANDING)
        # Rows of neighbours share pages, and most rows have an index or two.
        self.written_bytes += PAGE * (8 + len(rows) // 2)
        self._changed = {}
        put_rows(db, "INSERT INTO attempt VALUES", self._attempts, _ELSE_ATTEMPT)
        put_rows(db, "INSERT INTO event VALUES", self._events)
        self._attempts = []
        self._events = []

    def commit(self) -> News | None:
        """None when nothing was changed."""
        self.flush()
        if not self._in_transaction:
            return None
        self.db.execute("COMMIT")
        self._in_transaction = False
        news = self.news
        if self._moved:
            for status, by in self._moved.items():
                self._counts[status] += by
            news.counts = dict(self._counts)
        if self._queues_changed:
            news.requirements = dict(self._requirements)
        self._forget_group()
        self._hot.age()
        self._key_numbers.age()
        return news

    def rollback(self) -> None:
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")
        self._in_transaction = False
        self._forget_group()
        self._reload()

    def checkpoint(self, *, truncate: bool = False) -> None:
        self.written_bytes = 0
        self.db.execute(f"PRAGMA wal_checkpoint({'TRUNCATE' if truncate else 'PASSIVE'})").fetchone()

    def close(self) -> None:
        try:
            self.checkpoint(truncate=True)
        except sqlite3.Error as error:
            log.warning("the last checkpoint failed, the next start does it: %s", error)
        finally:
            self.db.close()

    # --- finding --------------------------------------------------------------------------------------

    def find(self, task_id: str) -> Hot | None:
        hot = self._hot.get(task_id)
        if hot is not None:
            return hot
        row = self.db.execute(_GET_TASK, (task_id,)).fetchone()
        if row is None:
            return None
        no, spec, prompt, record, key_no, session_id = row
        whole = msgspec.structs.replace(_spec.decode(spec), prompt=prompt)
        hot = Hot(no, self._log(session_id), whole, _record.decode(record), key_no)
        self._hot.put(task_id, hot, _weight(whole))
        return hot

    def must_find(self, task_id: str) -> Hot:
        hot = self.find(task_id)
        if hot is None:
            raise NotFound(f"there is no task {task_id}", code="NO_SUCH_TASK")
        return hot

    def asked_before(self, actor: str, key: str) -> tuple[str, str] | None:
        """The task that was made with this idempotency key, and the digest of its request."""
        found = self._asked.get((actor, key))
        if found is None:
            found = self.db.execute(_ASKED_BEFORE, (actor, key)).fetchone()
        return found

    def count(self, status: TaskState) -> int:
        return self._counts[status] + self._moved.get(status, 0)

    def _log(self, session_id: str) -> Log:
        """The session's log; a new session when there is none of this name."""
        log = self._logs.get(session_id)
        if log is None:
            # Most sessions are opened by their first task, and their names sort by time: no need to look for those.
            is_newest = session_id > self._newest_session
            row = None if is_newest else self.db.execute(_GET_SESSION, (session_id,)).fetchone()
            if row is None:
                if is_newest:
                    self._newest_session = session_id
                self._session_no += 1
                log = Log(self._session_no, session_id, 1, 0)
                self._new_sessions.append((log.no, session_id))
            else:
                no, first = row
                log = Log(no, session_id, first, latest_event(self.db, no, first))
            self._logs[session_id] = log
        return log

    def _key_number(self, requirement: Requirement) -> int:
        no: int | None = self._key_numbers.get(requirement)
        if no is None:
            text = requirement.key().decode()
            row = self.db.execute("SELECT no FROM queue_key WHERE requirement = ?", (text,)).fetchone()
            if row is None:
                row = self.write("INSERT INTO queue_key (requirement) VALUES (?) RETURNING no", (text,)).fetchone()
            no = int(row[0])
            self._key_numbers.put(requirement, no, 1)
        return no

    # --- changing -------------------------------------------------------------------------------------

    def open_task(self, new: NewTask) -> Hot:
        """A task comes to be."""
        spec = new.spec
        log = self._log(new.session_id)
        applied = tasks.new(new.task_id, new.session_id, spec, latest=log.latest)
        self._task_no += 1
        hot = Hot(self._task_no, log, spec, applied.record, self._key_number(new.requirement))
        self._hot.put(new.task_id, hot, _weight(spec))
        self._new_tasks.append(
            (
                hot.no,
                new.task_id,
                log.no,
                spec.agent_type,
                spec.actor,
                new.idempotency_key,
                new.digest,
                _encode(msgspec.structs.replace(spec, prompt="")).decode(),
                spec.prompt,
            )
        )
        if new.idempotency_key is not None:
            self._asked[(spec.actor, new.idempotency_key)] = (new.task_id, new.digest)
        self.written_bytes += len(spec.prompt)
        self._count(TaskState.QUEUED, 1)
        self._enters_queue(hot, new.requirement)
        self._changed[hot.no] = hot
        self.news.tasks[new.task_id] = (spec, applied.record)
        self._append(hot, applied)
        return hot

    def take(self, hot: Hot, applied: Applied, generation: int = 0) -> tuple[StoredEvent, ...]:
        """Take over what was decided. `generation` is that of the host a new attempt goes to."""
        before, after = hot.record, applied.record
        hot.record = after
        if after.status is not before.status:
            self._count(before.status, -1)
            self._count(after.status, 1)
            if before.status is TaskState.QUEUED:
                self._leaves_queue(hot)
            elif after.status is TaskState.QUEUED:
                wish = tasks.requirement(hot.spec, after.excluded_hosts)
                hot.key_no = self._key_number(wish)
                self._enters_queue(hot, wish)
        if after.attempt != before.attempt:
            row = (hot.no, after.attempt, after.uid, after.host_id, generation, after.assigned_at, None, None)
            self._attempts.append(row)
        elif before.status in ON_A_HOST and after.status not in ON_A_HOST:
            ended = (after.updated_at, after.status.value)
            # An upsert whose row is always there: only the end is taken from it.
            self._attempts.append((hot.no, before.attempt, before.uid, before.host_id, 0, before.assigned_at, *ended))
        self._changed[hot.no] = hot
        self.news.tasks[after.id] = (hot.spec, after)
        return self._append(hot, applied)

    def _append(self, hot: Hot, applied: Applied) -> tuple[StoredEvent, ...]:
        """Give the events their public ids. Neighbours of one origin share a row."""
        bodies = applied.events
        if not bodies:
            return ()
        log = hot.log
        stored: list[StoredEvent] = []
        start = 0
        while start < len(bodies):
            is_own = start in applied.own
            end = start + 1
            while end < len(bodies) and (end in applied.own) is is_own:
                end += 1
            attempt = 0 if is_own else applied.record.attempt
            lines, joined = one_line_each(bodies[start:end])
            stored += public_events(log.latest + 1, hot.record.id, attempt, lines)
            log.latest += end - start
            if log.latest > LAST_ID:
                raise OverflowError(f"session {log.id} has no event ids left")
            self._events.append((event_no(log.no, log.latest), hot.no, attempt, end - start, joined))
            self.written_bytes += len(joined)
            start = end
        events = tuple(stored)
        self.news.appended.append((log.id, log.first, events))
        return events

    def _count(self, status: TaskState, by: int) -> None:
        self._moved[status] = self._moved.get(status, 0) + by

    def _enters_queue(self, hot: Hot, wish: Requirement) -> None:
        key_no = hot.key_no
        assert key_no is not None
        self.queued[key_no] = self.queued.get(key_no, 0) + 1
        if key_no not in self._requirements:
            self._requirements[key_no] = wish
            self._queues_changed = True

    def _leaves_queue(self, hot: Hot) -> None:
        key_no = hot.key_no
        assert key_no is not None
        hot.key_no = None
        if self.queued[key_no] > 1:
            self.queued[key_no] -= 1
        else:
            del self.queued[key_no]
            del self._requirements[key_no]
            self._queues_changed = True

    def put_host(self, host: HostRow) -> HostRow:
        """A host stands otherwise than before; its row is written by whoever says so."""
        self.hosts[host.host_id] = host
        self.news.hosts[host.host_id] = host
        return host

    def put_token(self, token: Token) -> None:
        """Tell the readers how this token stands; its row is written by whoever says so."""
        self.news.tokens.append(token)


QUEUES: Final = (
    "SELECT q.no, q.requirement, s.n FROM"
    " (SELECT key_no, count(*) AS n FROM standing WHERE key_no IS NOT NULL GROUP BY key_no) s"
    " JOIN queue_key q ON q.no = s.key_no"
)
_ELSE_STANDING: Final = (
    "ON CONFLICT (task_no) DO UPDATE SET status = excluded.status,"
    " key_no = excluded.key_no, host_id = excluded.host_id, deadline_at = excluded.deadline_at,"
    " record = excluded.record"
)
_ELSE_ATTEMPT: Final = (
    "ON CONFLICT (task_no, attempt) DO UPDATE SET ended_at = excluded.ended_at, outcome = excluded.outcome"
)
_GET_SESSION: Final = "SELECT no, first_kept FROM session WHERE id = ?"
_GET_TASK: Final = (
    "SELECT t.no, t.spec, t.prompt, s.record, s.key_no, n.id FROM task t JOIN standing s ON s.task_no = t.no"
    " JOIN session n ON n.no = t.session_no WHERE t.id = ?"
)
_ASKED_BEFORE: Final = "SELECT id, digest FROM task WHERE actor = ? AND idempotency_key = ?"


def _weight(spec: Spec) -> int:
    return len(spec.prompt) + 2_000
