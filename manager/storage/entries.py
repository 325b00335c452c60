"""What one commit writes: rows, ready to bind. Made in the event loop, written by the writer's thread.

Statements come first, in order, then the rows of the tables that change all the time, many at once, then what is done
to such rows.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from manager.storage.rows import put_rows

PAGE: Final = 4096

_ELSE_STANDING: Final = (
    "ON CONFLICT (task_no) DO UPDATE SET status = excluded.status,"
    " key_no = excluded.key_no, host_id = excluded.host_id, deadline_at = excluded.deadline_at,"
    " record = excluded.record"
)
_ELSE_ATTEMPT: Final = (
    "ON CONFLICT (task_no, attempt) DO UPDATE SET ended_at = excluded.ended_at, outcome = excluded.outcome"
)


class Entries:
    __slots__ = ("attempts", "bytes", "events", "last", "sessions", "standings", "statements", "tasks")

    def __init__(self) -> None:
        self.statements: list[tuple[str, Sequence[Any]]] = []
        self.sessions: list[tuple[int, str]] = []
        self.tasks: list[tuple[Any, ...]] = []
        self.standings: list[tuple[Any, ...]] = []
        self.attempts: list[tuple[Any, ...]] = []
        self.events: list[tuple[int, int, int, int, bytes]] = []
        self.last: list[tuple[str, Sequence[Any]]] = []
        self.bytes = 0  # of texts that may be long

    def __bool__(self) -> bool:
        return bool(self.statements or self.standings)

    def write(self, db: sqlite3.Connection) -> int:
        """Inside the caller's transaction; about how many bytes that adds to the log."""
        for sql, parameters in self.statements:
            db.execute(sql, parameters)
        put_rows(db, "INSERT INTO session (no, id) VALUES", self.sessions)
        put_rows(db, "INSERT INTO task VALUES", self.tasks)
        put_rows(db, "INSERT INTO standing VALUES", self.standings, _ELSE_STANDING)
        put_rows(db, "INSERT INTO attempt VALUES", self.attempts, _ELSE_ATTEMPT)
        put_rows(db, "INSERT INTO event VALUES", self.events)
        for sql, parameters in self.last:
            db.execute(sql, parameters)
        # Rows of neighbours share pages, and most rows have an index or two.
        return self.bytes + PAGE * (len(self.statements) + (8 + len(self.standings) // 2 if self.standings else 0))
