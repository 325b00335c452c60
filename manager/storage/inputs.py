"""Operations on follow-up inputs, in the writer's thread: kept until the agent has them, never going back."""

from typing import Final

import msgspec

from manager.errors import Conflict, TooMany
from manager.ports import StoredInput
from manager.storage.ledger import Hot, Ledger
from shared_types.api import InputState
from shared_types.tasks import FINAL

MAX_WAITING_BYTES: Final = 8 * 1024 * 1024  # of one task; all that waits is read and said at once
ROW: Final = 1_000  # what an input costs beside its text

_PROGRESS: Final = {InputState.STORED: 0, InputState.SENT: 1, InputState.TAKEN: 2}
_WAITING: Final = "SELECT coalesce(sum(length(content) + ?), 0) FROM input WHERE task_no = ? AND state != 'taken'"


def add(ledger: Ledger, task_id: str, input_id: str, content: str, now: int) -> StoredInput:
    hot = ledger.must_find(task_id)
    known = _find(ledger, hot, input_id)
    if known is not None:
        return known
    if hot.record.status in FINAL:
        raise Conflict(f"task {task_id} has ended ({hot.record.status})", code="TASK_ENDED")
    (waiting,) = ledger.db.execute(_WAITING, (ROW, hot.no)).fetchone()
    if waiting + ROW + len(content) > MAX_WAITING_BYTES:
        raise TooMany(
            f"the agent of task {task_id} has not taken {waiting} bytes of earlier input yet",
            code="INPUTS_FULL",
            hint="wait until it has; `fleetgate logs` shows each input that was taken",
        )
    ledger.write(
        "INSERT INTO input (task_no, input_id, content, state, created_at) VALUES (?, ?, ?, ?, ?)",
        (hot.no, input_id, content, InputState.STORED.value, now),
    )
    ledger.written_bytes += len(content)
    return StoredInput(input_id=input_id, task_id=task_id, content=content, state=InputState.STORED)


def _find(ledger: Ledger, hot: Hot, input_id: str) -> StoredInput | None:
    row = ledger.db.execute(
        "SELECT content, state FROM input WHERE task_no = ? AND input_id = ?", (hot.no, input_id)
    ).fetchone()
    if row is None:
        return None
    return StoredInput(input_id=input_id, task_id=hot.record.id, content=row[0], state=InputState(row[1]))


def mark(ledger: Ledger, task_id: str, input_id: str, state: InputState) -> StoredInput | None:
    hot = ledger.find(task_id)
    known = None if hot is None else _find(ledger, hot, input_id)
    if hot is None or known is None or _PROGRESS[known.state] >= _PROGRESS[state]:
        return known
    ledger.write("UPDATE input SET state = ? WHERE task_no = ? AND input_id = ?", (state.value, hot.no, input_id))
    return msgspec.structs.replace(known, state=state)


def open_ones(ledger: Ledger, task_id: str) -> list[StoredInput]:
    hot = ledger.find(task_id)
    if hot is None:
        return []
    rows = ledger.db.execute(
        "SELECT input_id, content, state FROM input WHERE task_no = ? AND state != 'taken' ORDER BY no", (hot.no,)
    )
    return [
        StoredInput(input_id=input_id, task_id=task_id, content=content, state=InputState(state))
        for input_id, content, state in rows
    ]
