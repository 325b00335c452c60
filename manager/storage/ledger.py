"""The store's memory of how everything stands, in the event loop: here every change is decided.

Operations (tasks.py, claims.py, hosts.py beside this file) change records here at once, each built upon the one
before; `close` hands over what they changed as `Entries`, which the writer's thread makes durable while the next
ones are decided already. So the ledger runs ahead of the database by what nobody was answered yet. Should a commit
fail, this ledger is thrown away and a new one read from the database (`Ledger.read`).

Tasks and sessions of lately are here; an operation on another needs it brought in first (`lacks`, then `bring`).
Nothing is forgotten before it is durable: see FORGET_AFTER.

Invariants: `open_task` and `take` are the only places where a record comes to be or changes; queues, slots and counts
are always those of the records.
"""

import sqlite3
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

import msgspec

from manager.chance import Chance
from manager.core import tasks
from manager.core.lifecycle import ON_A_HOST, TRANSITIONS
from manager.core.scheduling import Requirement
from manager.core.tasks import Applied, Limits, Record, Spec
from manager.errors import NotFound
from manager.ports import HostRow, NewTask
from manager.storage.entries import Entries
from manager.storage.generations import Generations
from manager.storage.news import News
from manager.storage.queues import Queue
from manager.storage.rows import LAST_ID, event_no, hosts_in, latest_event, one_line_each, public_events
from shared_types.events import StoredEvent
from shared_types.tasks import TaskState

HOT_BYTES: Final = 32 * 1024 * 1024
MAX_NUMBERS: Final = 10_000
# What was used is remembered for at least so many commits. Something is forgotten only while fewer groups are on their
# way to the disk, the open one included, so all that is not durable is remembered.
FORGET_AFTER: Final = 5

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
    """A task in memory."""

    __slots__ = ("claimed_in", "log", "no", "queue", "record", "spec")

    def __init__(self, no: int, log: Log, spec: Spec, record: Record, queue: Queue | None) -> None:
        self.claimed_in = 0  # the group that makes its last claim durable
        self.no = no
        self.log = log
        self.spec = spec
        self.record = record
        self.queue = queue  # while it is queued

    def __repr__(self) -> str:
        return f"<Hot {self.record.id} {self.record.status} rv={self.record.rv}>"


class Lack(NamedTuple):
    """What an operation needs and the ledger does not know: ids."""

    tasks: Collection[str] = ()
    sessions: Collection[str] = ()


class TaskRow(NamedTuple):
    no: int
    id: str
    spec: str
    prompt: str
    record: str
    key_no: int | None
    session_id: str


class SessionRow(NamedTuple):
    no: int
    id: str
    first: int
    latest: int


class Found(NamedTuple):
    """What the database holds of a Lack, and the sessions of its tasks."""

    tasks: list[TaskRow]
    sessions: list[SessionRow]


class Ledger:
    """Used in the event loop alone, from the moment on that it was read."""

    def __init__(self, limits: Limits, *, hot_bytes: int = HOT_BYTES) -> None:
        self.limits = limits
        self.chance = Chance()
        self.hosts: dict[str, HostRow] = {}
        self.labels: dict[str, dict[str, str]] = {}  # given by the manager, also to hosts that never connected
        self.resting: dict[str, int] = {}  # host -> until when it is not asked again
        self.queues: dict[int, Queue] = {}  # by number; those that hold tasks
        self.line = Queue(0)  # all of them
        self.held: dict[str, dict[int, str]] = {}  # host -> the tasks on it, each holds a slot: number -> id
        self.durable = 0  # the last group that is; they are counted from 1
        self.forgot = 0  # how often something may have been forgotten
        self.wishes: dict[int, Requirement] = {}  # of the same queues
        self._by_wish: dict[Requirement, Queue] = {}
        self._numbers: Generations[Requirement, int] = Generations(MAX_NUMBERS)  # of queues that were empty lately
        self._hot: Generations[str, Hot] = Generations(hot_bytes)
        self._logs: WeakValueDictionary[str, Log] = WeakValueDictionary()  # as long as a task of it is hot
        self._task_no = 0
        self._session_no = 0
        self._queue_no = 0
        self._counts: dict[TaskState, int] = dict.fromkeys(TaskState, 0)
        self._settled = 0
        self.open_group = 0
        # Tasks that were on a host when this was read, each with the attempt (uid) that surely was not started.
        self._doubtful: dict[int, str] = {}
        self._undurable_claims: deque[dict[str, int]] = deque()  # of closed groups: task -> attempt
        self._spent: dict[str, int] = {}  # task -> attempt that came to nothing; a host may have been told of it
        self._open_group()

    def __repr__(self) -> str:
        return f"<Ledger open={len(self._changed)} hosts={len(self.hosts)} queues={len(self.queues)}>"

    def _open_group(self) -> None:
        self.open_group += 1
        self.news = News()
        self._entries = Entries()
        self._changed: dict[int, Hot] = {}
        self._claims: dict[str, int] = {}
        self._moved = False

    @classmethod
    def read(cls, db: sqlite3.Connection, limits: Limits, *, hot_bytes: int = HOT_BYTES) -> "Ledger":
        """As the database has it. Takes time; called in a thread."""
        self = cls(limits, hot_bytes=hot_bytes)
        (self._task_no,) = db.execute("SELECT coalesce(max(no), 0) FROM task").fetchone()
        (self._session_no,) = db.execute("SELECT coalesce(max(no), 0) FROM session").fetchone()
        (self._queue_no,) = db.execute("SELECT coalesce(max(no), 0) FROM queue_key").fetchone()
        for status, count in db.execute("SELECT status, count(*) FROM standing GROUP BY status"):
            self._counts[TaskState(status)] = count
        self.hosts = {row.host_id: row for row in hosts_in(db)}
        self.labels = {id: msgspec.json.decode(text) for id, text in db.execute("SELECT id, labels FROM host")}
        for no, text in db.execute(QUEUES):
            self._open_queue(no, _requirement.decode(text))
        for no, priority, task_no, task_id in db.execute(QUEUED):
            self.queues[no].enter((priority, task_no, task_id, no))
            self.line.enter((priority, task_no, task_id, no))
        for host_id, task_no, task_id in db.execute(HELD):
            self.held.setdefault(host_id, {})[task_no] = task_id
            self._doubtful[task_no] = ""
        return self

    # --- handing over ---------------------------------------------------------------------------------

    def write(self, sql: str, parameters: Sequence[Any]) -> None:
        """For what changes rarely: a statement of this group's transaction."""
        self._entries.statements.append((sql, parameters))

    def close(self) -> tuple[Entries, News]:
        """What was changed since the last time, to be made durable and then told."""
        entries, news = self._entries, self.news
        entries.standings = [
            (
                hot.no,
                hot.record.status.value,
                hot.spec.priority,
                None if hot.queue is None else hot.queue.no,
                hot.record.host_id,
                hot.record.deadline_at,
                _encode(hot.record).decode(),
            )
            for hot in self._changed.values()
        ]
        if self._moved:
            news.counts = dict(self._counts)
        self._undurable_claims.append(self._claims)
        self._open_group()
        return entries, news

    def take_over_from(self, older: "Ledger") -> None:
        """What no row says. A number that somebody was told of, even in vain, keeps its meaning: a queue's, and that of
        an attempt whose claim came to nothing.
        """
        self._queue_no = max(self._queue_no, older._queue_no)
        self.resting = older.resting
        self._spent = older._spent
        for claims in (*older._undurable_claims, older._claims):
            self._spent.update(claims)
        for held in self.held.values():
            for task_no, task_id in held.items():
                self._doubt_no_more(task_no, older.find(task_id), older)

    def _doubt_no_more(self, task_no: int, hot: Hot | None, older: "Ledger") -> None:
        """`task:start` is said of what the older ledger took for accepted, and of nothing else."""
        if hot is not None:
            if hot.record.status is TaskState.ASSIGNED and not hot.record.accepted:
                self._doubtful[task_no] = hot.record.uid
        elif task_no in older._doubtful:
            self._doubtful[task_no] = older._doubtful[task_no]
        else:
            del self._doubtful[task_no]  # forgotten, so its row says all that the older one knew

    def settled(self, in_flight: int) -> None:
        """A group became durable; so many that were closed are not yet."""
        self.durable += 1
        self._undurable_claims.popleft()
        self._settled += 1
        if self._settled >= FORGET_AFTER and in_flight < FORGET_AFTER - 1:
            self._settled = 0
            if self._hot.age():
                self.forgot += 1
            self._numbers.age()

    def first_news(self) -> News:
        """What the readers must know before the first commit."""
        news = News()
        news.hosts = dict(self.hosts)
        news.counts = dict(self._counts)
        return news

    # --- finding --------------------------------------------------------------------------------------

    def lacks(self, task_ids: Iterable[str]) -> Lack:
        hot = self._hot
        return Lack(tasks=[id for id in task_ids if hot.get(id) is None])

    def lacks_session(self, new: NewTask) -> Lack:
        is_known = new.opens_session or new.session_id in self._logs
        return Lack() if is_known else Lack(sessions=[new.session_id])

    def bring(self, found: Found) -> list[object]:
        """Take in what is not here yet. Right only when nothing was forgotten since the database was asked: then
        what is not here was not here all the time, and so was durable. Sessions are kept by whoever holds the list.
        """
        kept: list[object] = [self._bring_log(session) for session in found.sessions]
        for row in found.tasks:
            if self._hot.get(row.id) is None:
                spec = msgspec.structs.replace(_spec.decode(row.spec), prompt=row.prompt)
                queue = None if row.key_no is None else self.queues[row.key_no]
                record = _record.decode(row.record)
                if self._doubtful.get(row.no, record.uid) != record.uid:
                    record = tasks.doubted(record, self.limits)
                hot = Hot(row.no, self._logs[row.session_id], spec, record, queue)
                self._hot.put(row.id, hot, _weight(spec))
        return kept

    def _bring_log(self, session: SessionRow) -> Log:
        log = self._logs.get(session.id)
        if log is None:
            log = self._logs[session.id] = Log(session.no, session.id, session.first, session.latest)
        return log

    def find(self, task_id: str) -> Hot | None:
        return self._hot.get(task_id)

    def must_find(self, task_id: str) -> Hot:
        hot = self._hot.get(task_id)
        if hot is None:
            raise NotFound(f"there is no task {task_id}", code="NO_SUCH_TASK")
        return hot

    def spent_attempts(self, task_id: str) -> int:
        """Attempts up to this one may be known to a host, whatever the record says."""
        return self._spent.get(task_id, 0)

    def count(self, status: TaskState) -> int:
        return self._counts[status]

    def on_host(self, host_id: str) -> list[str]:
        """The tasks that hold a slot of this host, oldest first."""
        held = self.held.get(host_id, {})
        return [held[no] for no in sorted(held)]

    # --- changing -------------------------------------------------------------------------------------

    def open_task(self, new: NewTask) -> Hot:
        """A task comes to be."""
        spec = new.spec
        log = self._log(new.session_id)
        applied = tasks.new(new.task_id, new.session_id, spec, latest=log.latest)
        self._task_no += 1
        hot = Hot(self._task_no, log, spec, applied.record, None)
        self._hot.put(new.task_id, hot, _weight(spec))
        self._entries.tasks.append(
            (
                hot.no,
                new.task_id,
                log.no,
                spec.agent_type,
                spec.actor,
                new.idempotency_key,
                new.digest,
                _spec_text(spec),
                spec.prompt,
            )
        )
        self._entries.bytes += len(spec.prompt)
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
                self._enters_queue(hot, tasks.requirement(hot.spec, after.excluded_hosts))
            was_held, is_held = before.status in ON_A_HOST, after.status in ON_A_HOST
            if is_held and not was_held:
                assert after.host_id is not None
                self.held.setdefault(after.host_id, {})[hot.no] = after.id
                row = (hot.no, after.attempt, after.uid, after.host_id, generation, after.assigned_at, None, None)
                self._entries.attempts.append(row)
                self._claims[after.id] = after.attempt
                hot.claimed_in = self.open_group
                self._doubtful.pop(hot.no, None)
                self._spent.pop(after.id, None)
            elif was_held and not is_held:
                assert before.host_id is not None
                self._gives_slot_back(before.host_id, hot.no)
                ended = (after.updated_at, after.status.value)
                # An upsert whose row is always there: only the end is taken from it.
                self._entries.attempts.append(
                    (hot.no, before.attempt, before.uid, before.host_id, 0, before.assigned_at, *ended)
                )
        if hot.spec.env and not TRANSITIONS[after.status]:
            self._forget_values(hot)
        self._changed[hot.no] = hot
        self.news.tasks[after.id] = (hot.spec, after)
        return self._append(hot, applied)

    def _forget_values(self, hot: Hot) -> None:
        """It will never run again, so nobody needs the values of its environment."""
        hot.spec = msgspec.structs.replace(hot.spec, env=dict.fromkeys(hot.spec.env, ""))
        self._entries.last.append(("UPDATE task SET spec = ? WHERE no = ?", (_spec_text(hot.spec), hot.no)))

    def _gives_slot_back(self, host_id: str, task_no: int) -> None:
        held = self.held[host_id]
        del held[task_no]
        if not held:
            del self.held[host_id]

    def _log(self, session_id: str) -> Log:
        """The session's log; a new session when there is none of this name (`lacks_session` was asked before)."""
        log = self._logs.get(session_id)
        if log is None:
            self._session_no += 1
            log = self._logs[session_id] = Log(self._session_no, session_id, 1, 0)
            self._entries.sessions.append((log.no, session_id))
        return log

    def _append(self, hot: Hot, applied: Applied) -> tuple[StoredEvent, ...]:
        """Give the events their public ids. Neighbours of one origin share a row."""
        bodies = applied.events
        if not bodies:
            return ()
        log = hot.log
        if log.latest + len(bodies) > LAST_ID:
            raise OverflowError(f"session {log.id} has no event ids left")
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
            self._entries.events.append((event_no(log.no, log.latest), hot.no, attempt, end - start, joined))
            self._entries.bytes += len(joined)
            start = end
        events = tuple(stored)
        self.news.appended.append((log.id, log.first, events))
        return events

    def _count(self, status: TaskState, by: int) -> None:
        self._counts[status] += by
        self._moved = True

    def _enters_queue(self, hot: Hot, wish: Requirement) -> None:
        queue = self._by_wish.get(wish)
        if queue is None:
            no = self._numbers.get(wish)
            if no is None:
                self._queue_no += 1
                no = self._queue_no
                # The same wish may have a number that was forgotten since no task has it.
                self.write("INSERT OR REPLACE INTO queue_key VALUES (?, ?)", (no, wish.key().decode()))
                self._numbers.put(wish, no, 1)
            queue = self._open_queue(no, wish)
        rank = (hot.spec.priority, hot.no, hot.record.id, queue.no)
        queue.enter(rank)
        self.line.enter(rank)
        hot.queue = queue

    def _open_queue(self, no: int, wish: Requirement) -> Queue:
        queue = self.queues[no] = self._by_wish[wish] = Queue(no)
        self.wishes[no] = wish
        return queue

    def _leaves_queue(self, hot: Hot) -> None:
        queue = hot.queue
        assert queue is not None
        hot.queue = None
        queue.leave(hot.no)
        self.line.leave(hot.no)
        if not queue:
            del self.queues[queue.no], self._by_wish[self.wishes.pop(queue.no)]

    def put_host(self, host: HostRow) -> HostRow:
        """A host stands otherwise than before; its row is written by whoever says so."""
        self.hosts[host.host_id] = host
        self.news.hosts[host.host_id] = host
        return host


QUEUES: Final = (
    "SELECT no, requirement FROM queue_key WHERE no IN (SELECT DISTINCT key_no FROM standing WHERE key_no IS NOT NULL)"
)
QUEUED: Final = (
    "SELECT s.key_no, s.priority, s.task_no, t.id FROM standing s JOIN task t ON t.no = s.task_no"
    " WHERE s.key_no IS NOT NULL"
)
HELD: Final = (
    "SELECT a.host_id, a.task_no, t.id FROM attempt a JOIN task t ON t.no = a.task_no WHERE a.ended_at IS NULL"
)

GET_TASK: Final = (
    "SELECT t.no, t.id, t.spec, t.prompt, s.record, s.key_no, n.id FROM task t JOIN standing s ON s.task_no = t.no"
    " JOIN session n ON n.no = t.session_no WHERE t.id = ?"
)
GET_SESSION: Final = "SELECT no, id, first_kept FROM session WHERE id = ?"


def look_up(db: sqlite3.Connection, lack: Lack) -> Found:
    """In a thread, on any connection."""
    tasks = [TaskRow(*row) for id in lack.tasks if (row := db.execute(GET_TASK, (id,)).fetchone()) is not None]
    sessions = dict.fromkeys([*lack.sessions, *(task.session_id for task in tasks)])
    known = [row for id in sessions if (row := db.execute(GET_SESSION, (id,)).fetchone()) is not None]
    return Found(tasks, [SessionRow(no, id, first, latest_event(db, no, first)) for no, id, first in known])


def _spec_text(spec: Spec) -> str:
    """As its row has it: the prompt stands beside it."""
    return _encode(msgspec.structs.replace(spec, prompt="")).decode()


def _weight(spec: Spec) -> int:
    return len(spec.prompt) + 2_000
