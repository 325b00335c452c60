"""The writer thread's side of the truth: records in memory while they are hot, rows at the end of each group.

Nothing is written while a group's operations run: they change decoded records here, and `commit` writes each changed
record once, however often it changed. Since there is no other writer, what is in memory is what is in the database;
after a failure everything in memory is forgotten and read again.

Invariants: `_write` is the only place where a record changes; a row of `attempt` without an end is a taken slot.
"""

import os
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from manager.core import tasks
from manager.core.lifecycle import ON_A_HOST, Cause
from manager.core.scheduling import Candidate, Offer, Requirement, assign, satisfies
from manager.core.tasks import Change, Limits, Record, Spec, Verdict
from manager.errors import Conflict, NotFound, TooMany
from manager.ports import Claim, HostRow, NewTask, StoredInput, Taken, Token
from manager.storage.generations import Generations
from manager.storage.rows import (
    HOST_COLUMNS,
    LAST_ID,
    decode_host,
    event_no,
    hosts_in,
    latest_event,
    one_line_each,
    public_events,
)
from shared_types.api import InputState
from shared_types.events import StoredEvent
from shared_types.hosts import AgentInfo, HostCapabilities, canonical_agent
from shared_types.tasks import FINAL, Reason, Task, TaskState

MAX_HEADS: Final = 100  # queued tasks looked at per queue and claim
REST_MS: Final = 5_000  # how long a host that had no room, or did not get ready, is not asked again

_encode = msgspec.json.Encoder().encode
_spec_decoder: Final = msgspec.json.Decoder(Spec)
_record_decoder: Final = msgspec.json.Decoder(Record)
_requirement_decoder: Final = msgspec.json.Decoder(Requirement)


class Log:
    """A session's log, as far as numbering goes."""

    __slots__ = ("first", "id", "latest", "no")

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


class News:
    """What a commit changed, for the readers in the loop. Everything in it is frozen."""

    __slots__ = ("appended", "counts", "hosts", "requirements", "tasks", "tokens")

    def __init__(self) -> None:
        self.tasks: dict[str, tuple[Spec, Record]] = {}
        self.appended: list[tuple[str, int, tuple[StoredEvent, ...]]] = []  # session, first kept, events in order
        self.hosts: dict[str, HostRow] = {}
        self.tokens: list[Token] = []
        self.counts: dict[TaskState, int] | None = None
        self.requirements: dict[int, Requirement] | None = None


class Ledger:
    """Used by the writer's thread alone. `random` gives so many bytes of chance."""

    def __init__(self, db: sqlite3.Connection, limits: Limits, random: Callable[[int], bytes] = os.urandom) -> None:
        self.db = db
        self.limits = limits
        self.written_bytes = 0
        self._random = random
        self._hot: Generations[str, Hot] = Generations(max_weight=32 * 1024 * 1024)
        self._logs: Generations[str, Log] = Generations(max_weight=50_000)
        self._key_numbers: Generations[Requirement, int] = Generations(max_weight=10_000)
        self._requirements: dict[int, Requirement] = {}  # of the queues that are not empty
        self._queued: dict[int, int] = {}
        self._hosts: dict[str, HostRow] = {}
        self._resting: dict[str, int] = {}  # host -> until when
        self._counts: dict[TaskState, int] = {}
        self._moved: dict[TaskState, int] = {}  # of this group
        self._in_transaction = False
        self._task_no = self._top("task")
        self._session_no = self._top("session")
        (self._newest_session,) = db.execute("SELECT coalesce(max(id), '') FROM session").fetchone()
        self._reload()
        self._counts = dict.fromkeys(TaskState, 0) | {
            TaskState(status): count
            for status, count in db.execute("SELECT status, count(*) FROM standing GROUP BY status")
        }
        self._forget_group()

    def __repr__(self) -> str:
        return f"<Ledger unwritten={len(self._changed)} hosts={len(self._hosts)}>"

    def _top(self, table: str) -> int:
        (top,) = self.db.execute(f"SELECT coalesce(max(no), 0) FROM {table}").fetchone()  # noqa: S608 - our own name
        return int(top)

    def _reload(self) -> None:
        """Read again what is kept in memory without being written there first."""
        self._hot.clear()
        self._logs.clear()
        self._key_numbers.clear()
        self._hosts = {row.host_id: row for row in hosts_in(self.db)}
        rows = self.db.execute(
            "SELECT q.no, q.requirement, s.n FROM queue_key q JOIN (SELECT key_no, count(*) AS n FROM standing"
            " WHERE key_no IS NOT NULL GROUP BY key_no) s ON s.key_no = q.no"
        ).fetchall()
        self._requirements = {no: _requirement_decoder.decode(text) for no, text, _ in rows}
        self._queued = {no: count for no, _, count in rows}

    def _forget_group(self) -> None:
        self._news = News()
        self._queues_changed = False
        self._moved.clear()
        self._changed: dict[int, Hot] = {}
        self._new_sessions: list[tuple[int, str]] = []
        self._new_tasks: list[tuple[Any, ...]] = []
        self._asked: dict[tuple[str, str], tuple[str, str]] = {}
        self._attempts: list[tuple[Any, ...]] = []
        self._events: list[tuple[int, int, int, int, bytes]] = []

    def first_news(self) -> News:
        """What the readers must know before the first commit."""
        news = News()
        news.hosts = dict(self._hosts)
        news.counts = dict(self._counts)
        news.requirements = dict(self._requirements)
        return news

    # --- the transaction ------------------------------------------------------------------------------

    def write(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> sqlite3.Cursor:
        """For the few things that are not hot: a statement of this group's transaction."""
        self._begin()
        return self.db.execute(sql, parameters)

    def _begin(self) -> None:
        if not self._in_transaction:
            self.db.execute("BEGIN IMMEDIATE")
            self._in_transaction = True
            self.written_bytes += 4096

    def flush(self) -> None:
        """Bring the rows up to the records in memory; still inside the transaction."""
        if not (self._changed or self._events):
            return
        self._begin()
        db = self.db
        if self._new_sessions:
            db.executemany("INSERT INTO session (no, id) VALUES (?, ?)", self._new_sessions)
            self._new_sessions = []
        if self._new_tasks:
            db.executemany("INSERT INTO task VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", self._new_tasks)
            self._new_tasks = []
        rows = [
            (
                no,
                hot.record.status.value,
                hot.spec.priority,
                hot.key_no,
                hot.record.host_id,
                hot.record.deadline_at,
                _encode(hot.record).decode(),
            )
            for no, hot in self._changed.items()
        ]
        db.executemany(_PUT_STANDING, rows)
        self._changed = {}
        if self._attempts:
            db.executemany(_PUT_ATTEMPT, self._attempts)
            self._attempts = []
        if self._events:
            db.executemany("INSERT INTO event VALUES (?, ?, ?, ?, ?)", self._events)
            self._events = []

    def commit(self) -> News | None:
        self.flush()
        if not self._in_transaction:
            return None
        self.db.execute("COMMIT")
        self._in_transaction = False
        news = self._news
        if self._moved:
            for status, by in self._moved.items():
                self._counts[status] += by
            news.counts = dict(self._counts)
        if self._queues_changed:
            news.requirements = dict(self._requirements)
        self._forget_group()
        self._hot.age()
        self._logs.age()
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
        self.checkpoint(truncate=True)
        self.db.close()

    # --- what is in memory ----------------------------------------------------------------------------

    def _find(self, task_id: str) -> Hot | None:
        hot = self._hot.get(task_id)
        if hot is not None:
            return hot
        row = self.db.execute(_GET_TASK, (task_id,)).fetchone()
        if row is None:
            return None
        no, spec, prompt, record, key_no, session_id = row
        hot = Hot(
            no,
            self._log(session_id),
            msgspec.structs.replace(_spec_decoder.decode(spec), prompt=prompt),
            _record_decoder.decode(record),
            key_no,
        )
        self._hot.put(task_id, hot, _weight(hot.spec))
        return hot

    def _must_find(self, task_id: str) -> Hot:
        hot = self._find(task_id)
        if hot is None:
            raise NotFound(f"there is no task {task_id}", code="NO_SUCH_TASK")
        return hot

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
            self._logs.put(session_id, log, 1)
        return log

    def _key_number(self, requirement: Requirement) -> int:
        no = self._key_numbers.get(requirement)
        if no is None:
            text = requirement.key().decode()
            row = self.db.execute("SELECT no FROM queue_key WHERE requirement = ?", (text,)).fetchone()
            if row is None:
                no = self.write("INSERT INTO queue_key (requirement) VALUES (?)", (text,)).lastrowid
                assert no is not None
            else:
                no = int(row[0])
            self._key_numbers.put(requirement, no, 1)
        return no

    # --- tasks ----------------------------------------------------------------------------------------

    def add(self, new: NewTask, max_queued: int) -> tuple[Task, bool]:
        spec = new.spec
        if new.idempotency_key is not None:
            name = (spec.actor, new.idempotency_key)
            known = (
                self._asked.get(name)
                or self.db.execute(
                    "SELECT id, digest FROM task WHERE actor = ? AND idempotency_key = ?", name
                ).fetchone()
            )
            if known is not None:
                task_id, digest = known
                if digest != new.digest:
                    raise Conflict(
                        f"the idempotency key was used for another request (task {task_id})",
                        code="IDEMPOTENCY_MISMATCH",
                        hint="use a new key for a new request",
                    )
                old = self._must_find(task_id)
                return tasks.show(old.spec, old.record, full_prompt=True), False
        queued = self._counts[TaskState.QUEUED] + self._moved.get(TaskState.QUEUED, 0)
        if queued >= max_queued:
            raise TooMany(
                f"{queued} tasks are queued, and no more than {max_queued} may be",
                code="QUEUE_FULL",
                hint="wait until hosts have taken some, or connect more hosts",
            )

        key_no = self._key_number(new.requirement)
        log = self._log(new.session_id)
        applied = tasks.new(new.task_id, new.session_id, spec, latest=log.latest)
        self._task_no += 1
        hot = Hot(self._task_no, log, spec, applied.record, key_no)
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
        self._queue(hot, new.requirement, 1)
        self._append(hot, applied)
        self._changed[hot.no] = hot
        self._news.tasks[new.task_id] = (spec, applied.record)
        return tasks.show(spec, applied.record, full_prompt=True), True

    def change(self, changes: Sequence[Change]) -> list[Taken]:
        return [self._change(change) for change in changes]

    def _change(self, change: Change) -> Taken:
        hot = self._find(change.task_id)
        if hot is None:
            return Taken(verdict=Verdict.UNKNOWN)
        if change.generation is not None:
            host = self._hosts.get(change.host_id or "")
            if host is None or host.generation != change.generation:
                return Taken(verdict=Verdict.STALE, heard=hot.record.heard, record=hot.record)
        before = hot.record
        applied = tasks.apply(hot.spec, before, change, latest=hot.log.latest, limits=self.limits)
        after = applied.record
        if applied.verdict is not Verdict.TAKEN or after is before:
            return Taken(verdict=applied.verdict, heard=before.heard, record=before)
        events = self._write(hot, applied)
        if after.status is TaskState.QUEUED and before.status in ON_A_HOST:
            events += self._came_back(hot, before, change)
        return Taken(
            verdict=Verdict.TAKEN, heard=after.heard, record=hot.record, status_changed=applied.shown, events=events
        )

    def _came_back(self, hot: Hot, before: Record, change: Change) -> tuple[StoredEvent, ...]:
        """A host gave a task back. When nobody is left who might take it, it has failed, and says so now."""
        assert before.host_id is not None
        if change.reason in tasks.PASSING or change.reason == Reason.START_TIMEOUT:
            self._resting[before.host_id] = change.now + REST_MS
        if hot.record.excluded_hosts == before.excluded_hosts:
            return ()
        wish = tasks.requirement(hot.spec, hot.record.excluded_hosts)
        if any(_fits(host, wish) for host in self._hosts.values()):
            return ()
        given_up = tasks.given_up(hot.record, change.now)
        return self._write(hot, tasks.apply(hot.spec, hot.record, given_up, latest=hot.log.latest, limits=self.limits))

    def _write(self, hot: Hot, applied: tasks.Applied, generation: int = 0) -> tuple[StoredEvent, ...]:
        """Take over what was decided: the only place where a record changes."""
        before, after = hot.record, applied.record
        hot.record = after
        if after.status is not before.status:
            self._count(before.status, -1)
            self._count(after.status, 1)
            if before.status is TaskState.QUEUED:
                self._queue(hot, None, -1)
            elif after.status is TaskState.QUEUED:
                wish = tasks.requirement(hot.spec, after.excluded_hosts)
                hot.key_no = self._key_number(wish)
                self._queue(hot, wish, 1)
        if after.attempt != before.attempt:
            row = (hot.no, after.attempt, after.uid, after.host_id, generation, after.assigned_at, None, None)
            self._attempts.append(row)
        elif before.status in ON_A_HOST and after.status not in ON_A_HOST:
            outcome = after.status.value
            self._attempts.append(
                (hot.no, before.attempt, before.uid, before.host_id, 0, before.assigned_at, after.updated_at, outcome)
            )
        self._changed[hot.no] = hot
        self._news.tasks[after.id] = (hot.spec, after)
        return self._append(hot, applied)

    def _append(self, hot: Hot, applied: tasks.Applied) -> tuple[StoredEvent, ...]:
        """Give the events their public ids. Neighbours of one origin share a row."""
        if not applied.events:
            return ()
        log = hot.log
        stored: list[StoredEvent] = []
        start = 0
        bodies = applied.events
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
        self._news.appended.append((log.id, log.first, events))
        return events

    def _count(self, status: TaskState, by: int) -> None:
        self._moved[status] = self._moved.get(status, 0) + by

    def _queue(self, hot: Hot, wish: Requirement | None, by: int) -> None:
        """A task enters (`wish` given) or leaves the queue `hot.key_no`."""
        key_no = hot.key_no
        assert key_no is not None
        length = self._queued.get(key_no, 0) + by
        if length:
            self._queued[key_no] = length
        else:
            del self._queued[key_no]
            del self._requirements[key_no]
            self._queues_changed = True
        if wish is None:
            hot.key_no = None
        elif key_no not in self._requirements:
            self._requirements[key_no] = wish
            self._queues_changed = True

    def claim(self, offers: Sequence[Offer], accept_by: int, now: int) -> list[Claim]:
        open_offers = [offer for offer in offers if self._may_offer(offer, now)]
        wanted = {key for offer in open_offers for key in offer.keys if key in self._queued}
        if not wanted:
            return []
        self.flush()
        counted = [msgspec.structs.replace(offer, used=self._slots_used(offer.host_id)) for offer in open_offers]
        candidates = [
            candidate
            for key in wanted
            for candidate in self._heads(key, sum(max(0, o.slots - o.used) for o in counted if key in o.keys))
        ]
        return [
            self._assign(chosen.task_id, chosen.host_id, chosen.generation, accept_by, now)
            for chosen in assign(candidates, counted)
        ]

    def _may_offer(self, offer: Offer, now: int) -> bool:
        host = self._hosts.get(offer.host_id)
        return (
            host is not None
            and host.generation == offer.generation
            and host.is_connected
            and not host.draining
            and self._resting.get(offer.host_id, 0) <= now
            and not offer.keys.isdisjoint(self._queued)
        )

    def _slots_used(self, host_id: str) -> int:
        (used,) = self.db.execute(COUNT_SLOTS, (host_id,)).fetchone()
        return int(used)

    def _heads(self, key: int, room: int) -> list[Candidate]:
        rows = self.db.execute(QUEUE_HEADS, (key, min(room, MAX_HEADS))).fetchall()
        found = []
        for task_id, no, priority in rows:
            hot = self._must_find(task_id)
            prefer = tuple(hot.spec.labels.prefer.items())
            found.append(Candidate(task_id=task_id, key=key, rank=(priority, no), prefer=prefer))
        return found

    def _assign(self, task_id: str, host_id: str, generation: int, accept_by: int, now: int) -> Claim:
        hot = self._must_find(task_id)
        host = self._hosts[host_id]
        change = Change(
            task_id=task_id,
            now=now,
            cause=Cause.CLAIM,
            host_id=host_id,
            uid=self._random(10).hex(),
            accept_by=accept_by,
            accepted=host.protocol < 2,  # the base dialect has no word for it: told is started
        )
        applied = tasks.apply(hot.spec, hot.record, change, latest=hot.log.latest, limits=self.limits)
        assert applied.verdict is Verdict.TAKEN, f"{task_id} at the head of a queue is {hot.record.status}"
        events = self._write(hot, applied, generation)
        if host.last_assigned_at != now:
            # In memory for now: it only breaks ties, and goes to disk with the host's next heartbeat.
            self._hosts[host_id] = msgspec.structs.replace(host, last_assigned_at=now)
            self._news.hosts[host_id] = self._hosts[host_id]
        return Claim(spec=hot.spec, record=hot.record, host_id=host_id, generation=generation, events=events)

    def on_host(self, host_id: str) -> list[Record]:
        return [hot.record for hot in self._on_host(host_id)]

    def _on_host(self, host_id: str) -> list[Hot]:
        self.flush()
        rows = self.db.execute(TASKS_ON_HOST, (host_id,)).fetchall()
        return [self._must_find(task_id) for (task_id,) in rows]

    def due(self, now: int, limit: int) -> list[Record]:
        self.flush()
        rows = self.db.execute(TASKS_DUE, (now, limit)).fetchall()
        return [self._must_find(task_id).record for (task_id,) in rows]

    # --- hosts ----------------------------------------------------------------------------------------

    def host_connected(
        self,
        host_id: str,
        capabilities: HostCapabilities,
        agents: tuple[AgentInfo, ...],
        protocol: int,
        version: str | None,
        boot_id: str | None,
        now: int,
    ) -> HostRow:
        values = {
            "id": host_id,
            "capabilities": _encode(capabilities).decode(),
            "agents": _encode(agents).decode(),
            "protocol": protocol,
            "version": version,
            "boot_id": boot_id,
            "now": now,
        }
        (row,) = self.write(_PUT_HOST, values).fetchall()
        self._resting.pop(host_id, None)
        return self._put_host(decode_host(row))

    def _put_host(self, host: HostRow) -> HostRow:
        self._hosts[host.host_id] = host
        self._news.hosts[host.host_id] = host
        return host

    def host_seen(self, host_id: str, generation: int, now: int) -> bool:
        host = self._hosts.get(host_id)
        if host is None or host.generation != generation or not host.is_connected:
            return False
        (tokens, valid) = self.db.execute(
            "SELECT count(*), count(*) FILTER (WHERE revoked_at IS NULL) FROM token"
            " WHERE host_id = ? AND kind = 'host'",
            (host_id,),
        ).fetchone()
        if tokens and not valid:
            return False
        self.write(
            "UPDATE host SET last_seen_at = ?, last_assigned_at = ? WHERE id = ?",
            (now, host.last_assigned_at, host_id),
        )
        self._put_host(msgspec.structs.replace(host, last_seen_at=now))
        return True

    def host_gone(self, host_id: str, generation: int, now: int) -> list[Taken]:
        host = self._hosts.get(host_id)
        if host is None or host.generation != generation or not host.is_connected:
            return []
        self.write("UPDATE host SET disconnected_at = ? WHERE id = ?", (now, host_id))
        self._put_host(msgspec.structs.replace(host, disconnected_at=now))
        return [self._change(tasks.host_gone(hot.record, now)) for hot in self._on_host(host_id)]

    def nobody_connected(self, now: int) -> None:
        """A manager starts: whoever was connected to the one before is not connected to this one."""
        for host in list(self._hosts.values()):
            self.host_gone(host.host_id, host.generation, now)

    def set_draining(self, host_id: str, draining: bool) -> HostRow:
        host = self._hosts.get(host_id)
        if host is None:
            raise NotFound(f"there is no host {host_id}", code="NO_SUCH_HOST")
        if host.draining is draining:
            return host
        self.write("UPDATE host SET draining = ? WHERE id = ?", (int(draining), host_id))
        return self._put_host(msgspec.structs.replace(host, draining=draining))

    def relabel(self, host_id: str, labels: dict[str, str]) -> None:
        """Labels given by the manager changed; a host that never connected has none to show yet."""
        host = self._hosts.get(host_id)
        if host is not None:
            self._put_host(msgspec.structs.replace(host, labels=labels))

    # --- inputs ---------------------------------------------------------------------------------------

    def add_input(self, task_id: str, input_id: str, content: str, now: int) -> StoredInput:
        hot = self._must_find(task_id)
        self.flush()
        known = self._input(hot.no, task_id, input_id)
        if known is not None:
            return known
        if hot.record.status in FINAL:
            raise Conflict(f"task {task_id} has ended ({hot.record.status})", code="TASK_ENDED")
        self.write(
            "INSERT INTO input (task_no, input_id, content, state, created_at) VALUES (?, ?, ?, ?, ?)",
            (hot.no, input_id, content, InputState.STORED.value, now),
        )
        self.written_bytes += len(content)
        return StoredInput(input_id=input_id, task_id=task_id, content=content, state=InputState.STORED)

    def _input(self, task_no: int, task_id: str, input_id: str) -> StoredInput | None:
        row = self.db.execute(
            "SELECT content, state FROM input WHERE task_no = ? AND input_id = ?", (task_no, input_id)
        ).fetchone()
        if row is None:
            return None
        return StoredInput(input_id=input_id, task_id=task_id, content=row[0], state=InputState(row[1]))

    def mark_input(self, task_id: str, input_id: str, state: InputState) -> StoredInput | None:
        hot = self._find(task_id)
        known = None if hot is None else self._input(hot.no, task_id, input_id)
        if hot is None or known is None or _PROGRESS[known.state] >= _PROGRESS[state]:
            return known
        self.write("UPDATE input SET state = ? WHERE task_no = ? AND input_id = ?", (state.value, hot.no, input_id))
        return msgspec.structs.replace(known, state=state)

    def open_inputs(self, task_id: str) -> list[StoredInput]:
        hot = self._find(task_id)
        if hot is None:
            return []
        rows = self.db.execute(
            "SELECT input_id, content, state FROM input WHERE task_no = ? AND state != 'taken' ORDER BY no", (hot.no,)
        )
        return [
            StoredInput(input_id=input_id, task_id=task_id, content=content, state=InputState(state))
            for input_id, content, state in rows
        ]

    def put_token(self, token: Token) -> None:
        """Tell the readers how this token stands."""
        self._news.tokens.append(token)


_PROGRESS: Final = {InputState.STORED: 0, InputState.SENT: 1, InputState.TAKEN: 2}

_PUT_STANDING: Final = (
    "INSERT INTO standing VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (task_no) DO UPDATE SET status = excluded.status,"
    " key_no = excluded.key_no, host_id = excluded.host_id, deadline_at = excluded.deadline_at,"
    " record = excluded.record"
)
_PUT_HOST: Final = (
    "INSERT INTO host (id, capabilities, agents, generation, protocol, version, boot_id, last_seen_at, connected_at)"  # noqa: S608 - our own names
    " VALUES (:id, :capabilities, :agents, 1, :protocol, :version, :boot_id, :now, :now)"
    " ON CONFLICT (id) DO UPDATE SET capabilities = :capabilities, agents = :agents, generation = generation + 1,"
    " protocol = :protocol, version = :version, boot_id = :boot_id, last_seen_at = :now, connected_at = :now,"
    f" disconnected_at = NULL RETURNING {HOST_COLUMNS}"
)
_PUT_ATTEMPT: Final = (
    "INSERT INTO attempt VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (task_no, attempt) DO UPDATE SET"
    " ended_at = excluded.ended_at, outcome = excluded.outcome"
)
_GET_SESSION: Final = "SELECT no, first_kept FROM session WHERE id = ?"
_GET_TASK: Final = (
    "SELECT t.no, t.spec, t.prompt, s.record, s.key_no, n.id FROM task t JOIN standing s ON s.task_no = t.no"
    " JOIN session n ON n.no = t.session_no WHERE t.id = ?"
)
QUEUE_HEADS: Final = (
    "SELECT t.id, s.task_no, s.priority FROM standing s JOIN task t ON t.no = s.task_no WHERE s.key_no = ?"
    " ORDER BY s.priority, s.task_no LIMIT ?"
)
COUNT_SLOTS: Final = "SELECT count(*) FROM attempt WHERE host_id = ? AND ended_at IS NULL"
TASKS_ON_HOST: Final = (
    "SELECT t.id FROM attempt a JOIN task t ON t.no = a.task_no WHERE a.host_id = ? AND a.ended_at IS NULL"
    " ORDER BY a.task_no"
)
TASKS_DUE: Final = (
    "SELECT t.id FROM standing s JOIN task t ON t.no = s.task_no WHERE s.deadline_at <= ?"
    " ORDER BY s.deadline_at LIMIT ?"
)


def _weight(spec: Spec) -> int:
    return len(spec.prompt) + 2_000


def _fits(host: HostRow, wish: Requirement) -> bool:
    return satisfies(
        wish,
        host_id=host.host_id,
        agents=[canonical_agent(agent) for agent in host.capabilities.agents],
        labels=host.capabilities.labels | host.labels,
    )
