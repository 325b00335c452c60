"""Reads that go to the database, on connections of their own that cannot write. Called in worker threads."""

import binascii
import sqlite3
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from manager.core import tasks
from manager.core.lifecycle import ON_A_HOST
from manager.core.tasks import Record, Spec
from manager.errors import Conflict, Invalid, NotFound
from manager.ports import LogBounds, Page, TaskQuery
from manager.storage.rows import LAST_ID, TOKEN_COLUMNS, decode_token, event_no, latest_event, public_events
from shared_types.api import TokenInfo
from shared_types.events import StoredEvent
from shared_types.tasks import TaskState

_spec: Final = msgspec.json.Decoder(Spec)
_record: Final = msgspec.json.Decoder(Record)

READ_EVENTS: Final = (
    "SELECT e.no, t.id, e.attempt, e.count, e.bodies FROM event e JOIN task t ON t.no = e.task_no"
    " WHERE e.no > ? AND e.no <= ? ORDER BY e.no"
)
TASKS_DUE: Final = (
    "SELECT t.id FROM standing s JOIN task t ON t.no = s.task_no WHERE s.deadline_at <= ?"
    " ORDER BY s.deadline_at LIMIT ?"
)
ASKED_BEFORE: Final = "SELECT id, digest FROM task WHERE actor = ? AND idempotency_key = ?"


def no_such_task(task_id: str) -> NotFound:
    return NotFound(f"there is no task {task_id}", code="NO_SUCH_TASK")


def load(db: sqlite3.Connection, task_id: str) -> tuple[Spec, Record]:
    row = db.execute(
        "SELECT t.spec, t.prompt, s.record FROM task t JOIN standing s ON s.task_no = t.no WHERE t.id = ?", (task_id,)
    ).fetchone()
    if row is None:
        raise no_such_task(task_id)
    return msgspec.structs.replace(_spec.decode(row[0]), prompt=row[1]), _record.decode(row[2])


def due(db: sqlite3.Connection, now: int, limit: int) -> list[str]:
    """Ids. How they stand the ledger knows better: these rows may be behind it."""
    return [task_id for (task_id,) in db.execute(TASKS_DUE, (now, limit))]


def asked_before(db: sqlite3.Connection, actor: str, key: str) -> tuple[str, str] | None:
    """The task that was made with this idempotency key, and the digest of its request."""
    row: tuple[str, str] | None = db.execute(ASKED_BEFORE, (actor, key)).fetchone()
    return row


def find(db: sqlite3.Connection, prefix: str) -> str:
    beginning = prefix if prefix.startswith("task_") else f"task_{prefix}"
    ids = [
        task_id
        for (task_id,) in db.execute(
            "SELECT id FROM task WHERE id >= ? AND id < ? ORDER BY id LIMIT 2", (beginning, beginning + "\U0010ffff")
        )
    ]
    if not prefix or not ids:
        raise NotFound(f"there is no task that begins with {prefix!r}", code="NO_SUCH_TASK")
    if len(ids) > 1 and ids[0] != beginning:
        raise Conflict(
            f"several tasks begin with {prefix!r}: {ids[0]}, {ids[1]} ...", code="AMBIGUOUS_ID", hint="give more of it"
        )
    return str(ids[0])


def position(db: sqlite3.Connection, task_id: str) -> int:
    row = db.execute(
        "SELECT s.key_no, s.priority, s.task_no FROM task t JOIN standing s ON s.task_no = t.no WHERE t.id = ?",
        (task_id,),
    ).fetchone()
    if row is None:
        raise no_such_task(task_id)
    if row[0] is None:
        return 0
    (before,) = db.execute(
        "SELECT count(*) FROM standing WHERE key_no = ? AND (priority, task_no) < (?, ?)", row
    ).fetchone()
    return int(before)


# --- lists --------------------------------------------------------------------------------------------


def page(db: sqlite3.Connection, query: TaskQuery) -> Page:
    """Rows are looked at from the newest on until the page is full."""
    where, parameters = _conditions(query)
    rows = db.execute(
        f"SELECT t.no, t.spec, substr(t.prompt, 1, {tasks.SHORT_PROMPT}), s.record FROM task t"  # noqa: S608 - ours
        f" CROSS JOIN standing s ON s.task_no = t.no WHERE {' AND '.join(where)} ORDER BY t.no DESC LIMIT ?",
        (*parameters, query.limit + 1),
    ).fetchall()
    items = tuple(
        tasks.show(
            msgspec.structs.replace(_spec.decode(spec), prompt=prompt), _record.decode(record), full_prompt=False
        )
        for _, spec, prompt, record in rows[: query.limit]
    )
    more = len(rows) > query.limit
    return Page(items=items, next_cursor=_cursor(rows[query.limit - 1][0]) if more else None)


def _conditions(query: TaskQuery) -> tuple[list[str], list[Any]]:
    where = ["t.no < ?"]
    parameters: list[Any] = [_before(query.cursor)]
    if query.statuses:
        where.append(f"s.status IN ({', '.join('?' * len(query.statuses))})")
        parameters += [status.value for status in query.statuses]
        if query.statuses <= ON_A_HOST:
            where.append("t.no IN (SELECT task_no FROM attempt WHERE ended_at IS NULL)")
        elif query.statuses == {TaskState.QUEUED}:
            where.append("t.no IN (SELECT task_no FROM standing WHERE key_no IS NOT NULL)")
    if query.host_id is not None:
        where.append("s.host_id = ?")
        parameters.append(query.host_id)
    if query.agent is not None:
        where.append("t.agent = ?")
        parameters.append(query.agent)
    if query.session_id is not None:
        where.append("t.session_no = (SELECT no FROM session WHERE id = ?)")
        parameters.append(query.session_id)
    if query.label is not None:
        where.append("EXISTS (SELECT 1 FROM json_each(t.spec, '$.metadata') WHERE key = ? AND atom = ?)")
        parameters += query.label
    if query.text:
        where.append("instr(lower(t.prompt), lower(?)) > 0")
        parameters.append(query.text)
    return where, parameters


def _cursor(no: int) -> str:
    return urlsafe_b64encode(b"%d" % no).decode().rstrip("=")


def _before(cursor: str | None) -> int:
    if cursor is None:
        return (1 << 63) - 1
    try:
        no = int(urlsafe_b64decode(cursor.encode() + b"=="))
    except (ValueError, binascii.Error) as error:
        raise Invalid("this cursor is not one of ours", code="BAD_CURSOR", field="cursor") from error
    if not 0 < no < 1 << 63:
        raise Invalid("this cursor is not one of ours", code="BAD_CURSOR", field="cursor")
    return no


# --- events -------------------------------------------------------------------------------------------


def bounds(db: sqlite3.Connection, *, task_id: str | None, session_id: str | None) -> LogBounds:
    if task_id is not None:
        sql = "SELECT n.no, n.id, n.first_kept FROM task t JOIN session n ON n.no = t.session_no WHERE t.id = ?"
        row = db.execute(sql, (task_id,)).fetchone()
        if row is None:
            raise no_such_task(task_id)
    else:
        row = db.execute("SELECT no, id, first_kept FROM session WHERE id = ?", (session_id,)).fetchone()
        if row is None:
            raise NotFound(f"there is no session {session_id}", code="NO_SUCH_SESSION")
    no, name, first = row
    return LogBounds(session_id=name, first_id=first, latest_id=latest_event(db, no, first))


def events(
    db: sqlite3.Connection, session_id: str, after: int, *, task_id: str | None, limit: int, max_bytes: int
) -> list[StoredEvent]:
    row = db.execute("SELECT no FROM session WHERE id = ?", (session_id,)).fetchone()
    if row is None:
        return []
    (session_no,) = row
    last = LAST_ID
    if task_id is not None:
        # Its own stretch of the log; the session's other tasks before and behind it are not even looked at.
        _, record = load(db, task_id)
        after = max(after, record.first_event_id - 1)
        last = record.last_event_id
    if after >= last:
        return []
    found: list[StoredEvent] = []
    size = 0
    rows = db.execute(READ_EVENTS, (event_no(session_no, after), event_no(session_no, last)))
    for no, owner, attempt, count, bodies in rows:
        if task_id is not None and owner != task_id:
            continue
        first = (no & LAST_ID) - count + 1
        lines = bodies.split(b"\n")
        if first <= after:
            lines = lines[after + 1 - first :]
            first = after + 1
        for event in public_events(first, owner, attempt, lines):
            size += len(event.body)
            if found and (len(found) >= limit or size > max_bytes):
                return found
            found.append(event)
    return found


def cut(events: Sequence[StoredEvent], *, task_id: str | None, limit: int, max_bytes: int) -> list[StoredEvent]:
    """The same page from events that are at hand."""
    found: list[StoredEvent] = []
    size = 0
    for event in events:
        if task_id is not None and event.task_id != task_id:
            continue
        size += len(event.body)
        if found and (len(found) >= limit or size > max_bytes):
            break
        found.append(event)
    return found


# --- access -------------------------------------------------------------------------------------------


def tokens(db: sqlite3.Connection) -> list[TokenInfo]:
    rows = db.execute(f"SELECT {TOKEN_COLUMNS} FROM token ORDER BY created_at, id")  # noqa: S608 - our own names
    return [decode_token(row).info for row in rows]


def marked(db: sqlite3.Connection, principal: str, device: str, session_id: str) -> int:
    row = db.execute(
        "SELECT event_id FROM mark WHERE principal = ? AND device = ? AND session_id = ?",
        (principal, device, session_id),
    ).fetchone()
    return 0 if row is None else int(row[0])
