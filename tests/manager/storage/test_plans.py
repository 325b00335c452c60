"""Cost: what is asked all the time goes by an index, and does not grow with what else is stored."""

import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manager.core.scheduling import Offer
from manager.core.tasks import DEFAULT_LIMITS
from manager.storage import hosts, ledger, reading, tasks
from manager.storage.claims import claim
from manager.storage.ledger import Ledger
from manager.storage.opening import open_writer
from manager.storage.rows import LAST_ID, event_no
from tests.contracts.making import T0, a_task, can


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    db = open_writer(tmp_path / "x.db")
    yield db
    db.close()


@pytest.mark.parametrize(
    ("sql", "parameters", "index"),
    [
        (reading.TASKS_DUE, (T0, 10), "standing_deadline"),
        (reading.READ_EVENTS, (event_no(1, 5), event_no(1, LAST_ID)), "INTEGER PRIMARY KEY"),
        (ledger.GET_TASK, ("t",), "sqlite_autoindex_task_1"),
        (ledger.GET_SESSION, ("s",), "sqlite_autoindex_session_1"),
        (reading.ASKED_BEFORE, ("a", "k"), "task_asked_once"),
    ],
)
def test_nothing_hot_scans_or_sorts(
    db: sqlite3.Connection, sql: str, parameters: tuple[object, ...], index: str
) -> None:
    steps = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]

    assert any(index in step for step in steps), steps
    assert not [step for step in steps if step.startswith("SCAN") or "TEMP B-TREE" in step]


@pytest.mark.parametrize(
    ("sql", "index"),
    [(ledger.QUEUES, "standing_queue"), (ledger.QUEUED, "standing_queue"), (ledger.HELD, "attempt_one_live")],
)
def test_a_start_reads_what_is_live_and_not_what_has_ended(db: sqlite3.Connection, sql: str, index: str) -> None:
    steps = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}")]

    assert any(index in step for step in steps), steps


def lines_of(work: Callable[[], object]) -> int:
    """How many lines of our code run for it: a cost without a clock."""
    count = 0

    def tick(frame: object, event: str, argument: object) -> object:
        nonlocal count
        count += event == "line"
        return tick

    before = sys.gettrace()
    sys.settrace(tick)  # type: ignore[arg-type]  # as wide as it may be
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_a_claim_costs_the_same_with_ten_and_ten_thousand_others_queued() -> None:
    book = Ledger(DEFAULT_LIMITS)
    host = hosts.connected(book, "h1", can("command", slots=100), (), 2, None, None, T0)

    def fill(count: int) -> None:
        for number in range(count):
            tasks.add(book, a_task(agent_type="other", priority=number % 10), 1_000_000)

    def cost() -> int:
        mine = a_task(agent_type="command")
        tasks.add(book, mine, 1_000_000)
        (key,) = (no for no, wish in book.wishes.items() if wish == mine.requirement)
        offer = Offer(
            host_id="h1",
            generation=host.generation,
            keys=frozenset({key}),
            used=0,
            slots=100,
            last_assigned_at=0,
            cwd="/",
        )
        claimed: list[object] = []
        spent = lines_of(lambda: claimed.extend(claim(book, [offer], T0 + 9, T0)))
        assert len(claimed) == 1
        return spent

    fill(10)
    cost()
    few = cost()
    fill(9_990)
    many = cost()

    assert many <= few * 1.5
