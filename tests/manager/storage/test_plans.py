"""Cost: what is asked all the time goes by an index, and does not grow with what else is stored."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manager.core.scheduling import Offer
from manager.core.tasks import DEFAULT_LIMITS
from manager.storage import claims, hosts, ledger, reading, tasks
from manager.storage.claims import claim
from manager.storage.ledger import Ledger
from manager.storage.opening import open_writer
from manager.storage.rows import LAST_ID, event_no
from tests.contracts.making import T0, a_task, can


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Ledger]:
    book = Ledger(open_writer(tmp_path / "x.db"), DEFAULT_LIMITS)
    yield book
    book.close()


@pytest.mark.parametrize(
    ("sql", "parameters", "index"),
    [
        (claims.QUEUE_HEADS, (1, 10), "standing_queue"),
        (claims.SLOTS_TAKEN, ("h1",), "attempt_slots"),
        (claims.TASKS_ON_HOST, ("h1",), "attempt_slots"),
        (tasks.TASKS_DUE, (T0, 10), "standing_deadline"),
        (reading.READ_EVENTS, (event_no(1, 5), event_no(1, LAST_ID)), "INTEGER PRIMARY KEY"),
        (ledger._GET_TASK, ("t",), "sqlite_autoindex_task_1"),
        (ledger._ASKED_BEFORE, ("a", "k"), "task_asked_once"),
        (ledger._GET_SESSION, ("s",), "sqlite_autoindex_session_1"),
    ],
)
def test_nothing_hot_scans_or_sorts(book: Ledger, sql: str, parameters: tuple[object, ...], index: str) -> None:
    steps = [row[3] for row in book.db.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]

    assert any(index in step for step in steps), steps
    assert not [step for step in steps if step.startswith("SCAN") or "TEMP B-TREE" in step]


def test_counting_the_queues_reads_only_their_index(book: Ledger) -> None:
    steps = [row[3] for row in book.db.execute(f"EXPLAIN QUERY PLAN {ledger.QUEUES}")]

    assert any("COVERING INDEX standing_queue" in step for step in steps), steps


def steps_of(book: Ledger, work: Callable[[], object]) -> int:
    """How many instructions SQLite's machine runs for it: a cost without a clock."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    book.db.set_progress_handler(tick, 1)
    try:
        work()
    finally:
        book.db.set_progress_handler(None, 1)
    return count


def test_a_claim_costs_the_same_with_ten_and_ten_thousand_others_queued(book: Ledger) -> None:
    host = hosts.connected(book, "h1", can("command", slots=100), (), 2, None, None, T0)

    def fill(count: int) -> None:
        for number in range(count):
            tasks.add(book, a_task(agent_type="other", priority=number % 10), 1_000_000)
        book.commit()

    def cost() -> int:
        mine = a_task(agent_type="command")
        tasks.add(book, mine, 1_000_000)
        book.commit()
        (key,) = (no for no, wish in book.first_news().requirements.items() if wish == mine.requirement)  # type: ignore[union-attr]
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
        spent = steps_of(book, lambda: claimed.extend(claim(book, [offer], T0 + 9, T0)))
        assert len(claimed) == 1
        book.commit()
        return spent

    fill(10)
    cost()
    few = cost()
    fill(9_990)
    many = cost()

    assert many <= few * 1.5
