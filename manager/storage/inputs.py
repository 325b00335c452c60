"""Follow-up inputs, in the database alone: kept until the agent has them or cannot take them.

Called with the writer's connection inside its transaction, but for `open_ones`, which only reads.
"""

import sqlite3
from typing import Final

import msgspec

from manager.errors import Conflict, TooMany
from manager.ports import StoredInput
from shared_types.api import InputState

MAX_WAITING_BYTES: Final = 8 * 1024 * 1024  # of one task; all that waits is read and said at once
ROW: Final = 1_000  # what an input costs beside its text

_PROGRESS: Final = {InputState.STORED: 0, InputState.SENT: 1, InputState.TAKEN: 2, InputState.REFUSED: 2}
_WAITING: Final = (
    "SELECT coalesce(sum(length(content) + ?), 0) FROM input WHERE task_no = ? AND state IN ('stored', 'sent')"
)
_OPEN: Final = (
    "SELECT i.input_id, i.content, i.state FROM input i JOIN task t ON t.no = i.task_no"
    " WHERE t.id = ? AND i.state IN ('stored', 'sent') ORDER BY i.no"
)


def add(
    db: sqlite3.Connection, task_no: int, task_id: str, input_id: str, content: str, now: int, ended: str | None
) -> StoredInput:
    """`ended` is the state of a task that takes no new ones."""
    known = _find(db, task_no, task_id, input_id)
    if known is not None:
        return known
    if ended is not None:
        raise Conflict(f"task {task_id} has ended ({ended})", code="TASK_ENDED")
    (waiting,) = db.execute(_WAITING, (ROW, task_no)).fetchone()
    if waiting + ROW + len(content) > MAX_WAITING_BYTES:
        raise TooMany(
            f"the agent of task {task_id} has not taken {waiting} bytes of earlier input yet",
            code="INPUTS_FULL",
            hint="wait until it has; `fleetgate logs` shows each input that was taken",
        )
    db.execute(
        "INSERT INTO input (task_no, input_id, content, state, created_at) VALUES (?, ?, ?, ?, ?)",
        (task_no, input_id, content, InputState.STORED.value, now),
    )
    return StoredInput(input_id=input_id, task_id=task_id, content=content, state=InputState.STORED)


def _find(db: sqlite3.Connection, task_no: int, task_id: str, input_id: str) -> StoredInput | None:
    row = db.execute(
        "SELECT content, state FROM input WHERE task_no = ? AND input_id = ?", (task_no, input_id)
    ).fetchone()
    if row is None:
        return None
    return StoredInput(input_id=input_id, task_id=task_id, content=row[0], state=InputState(row[1]))


def mark(db: sqlite3.Connection, task_id: str, input_id: str, state: InputState) -> StoredInput | None:
    row = db.execute("SELECT no FROM task WHERE id = ?", (task_id,)).fetchone()
    known = None if row is None else _find(db, row[0], task_id, input_id)
    if known is None or _PROGRESS[known.state] >= _PROGRESS[state]:
        return known
    db.execute("UPDATE input SET state = ? WHERE task_no = ? AND input_id = ?", (state.value, row[0], input_id))
    return msgspec.structs.replace(known, state=state)


def open_ones(db: sqlite3.Connection, task_id: str) -> list[StoredInput]:
    return [
        StoredInput(input_id=input_id, task_id=task_id, content=content, state=InputState(state))
        for input_id, content, state in db.execute(_OPEN, (task_id,))
    ]
