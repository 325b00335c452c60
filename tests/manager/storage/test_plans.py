"""Cost: what is asked all the time goes by an index, and does not grow with what else is stored."""

import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from manager.core.scheduling import Offer, satisfies
from manager.core.tasks import DEFAULT_LIMITS
from manager.storage import claims, hosts, ledger, reading, tasks
from manager.storage.claims import _along_the_line, claim
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


def offer_of(book: Ledger, host_id: str, keys: frozenset[int], slots: int) -> Offer:
    host = book.hosts[host_id]
    return Offer(
        host_id=host_id,
        generation=host.generation,
        keys=keys,
        used=0,
        slots=slots,
        last_assigned_at=0,
        cwd="/",
        labels=host.capabilities.labels,
    )


def test_a_claim_costs_the_same_with_ten_and_ten_thousand_queues_to_take_from() -> None:
    book = Ledger(DEFAULT_LIMITS)
    hosts.connected(book, "h1", can("command", slots=100), (), 2, None, None, T0)
    claimed = 0

    def fill(count: int) -> None:
        for number in range(count):
            tasks.add(book, a_task(avoid={"job": f"{len(book.queues)}.{number}"}), 1_000_000)

    def cost() -> int:
        nonlocal claimed
        offers = [offer_of(book, "h1", frozenset(book.queues), claimed + 2)]
        taken: list[object] = []
        spent = lines_of(lambda: taken.extend(claim(book, offers, T0 + 9, T0)))
        assert len(taken) == 2
        claimed += 2
        return spent

    fill(10)
    cost()
    few = cost()
    fill(10_000)
    many = cost()

    assert many <= few * 1.5


def test_looking_for_what_lies_behind_others_costs_no_more_than_looking_at_each_head() -> None:
    book = Ledger(DEFAULT_LIMITS)
    hosts.connected(book, "h1", can("command"), (), 2, None, None, T0)
    for _ in range(20_000):
        tasks.add(book, a_task(agent_type="other", priority=0), 1_000_000)
    others = frozenset(book.queues)
    for number in range(200):
        tasks.add(book, a_task(avoid={"job": str(number)}, priority=9), 1_000_000)
    offers = [offer_of(book, "h1", frozenset(book.queues) - others, 1)]

    assert _along_the_line(book, offers) is None
    assert len(claim(book, offers, T0 + 9, T0)) == 1


def a_fleet_with_work(seed: int) -> tuple[Ledger, list[Offer]]:
    book = Ledger(DEFAULT_LIMITS)
    random = Random(seed)
    zones = ["a", "b", "c"]
    slots = {f"h{number}": random.randint(0, 4) for number in range(4)}
    for host_id in slots:
        labels = {"zone": random.choice(zones)}
        hosts.connected(book, host_id, can("command", labels=labels), (), 2, None, None, T0)
    for number in range(40):
        rule = random.choice(["require", "avoid", "prefer"])
        wish = a_task(f"t{number}", priority=random.randint(0, 2), **{rule: {"zone": random.choice(zones)}})
        tasks.add(book, wish, 1_000_000)

    def satisfied(host_id: str) -> frozenset[int]:
        labels = book.hosts[host_id].capabilities.labels
        return frozenset(
            no
            for no, wish in book.wishes.items()
            if satisfies(wish, host_id=host_id, agents=["command"], labels=labels)
        )

    return book, [offer_of(book, host_id, satisfied(host_id), room) for host_id, room in slots.items()]


@pytest.mark.parametrize("seed", range(30))
def test_along_the_line_and_by_the_heads_the_same_tasks_are_chosen_for_the_same_hosts(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    def choose() -> list[tuple[str, str]]:
        book, offers = a_fleet_with_work(seed)
        return [(claimed.record.id, claimed.host_id) for claimed in claim(book, offers, T0 + 9, T0)]

    by_heads = choose()
    monkeypatch.setattr(claims, "MANY_QUEUES", 0)
    monkeypatch.setattr(claims, "STEPS_PER_HEAD", 1_000)
    along_the_line = choose()

    assert by_heads
    assert along_the_line == by_heads
