"""The writer: groups share a commit, one bad operation hurts nobody else, and what fails is not half done."""

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from manager.core.lifecycle import Cause
from manager.core.tasks import Change
from manager.errors import Conflict, StoreUnavailable
from manager.storage import writer as writing
from manager.storage.ledger import Ledger
from manager.storage.sqlite import SqliteStore
from manager.storage.tasks import change_one
from manager.storage.writer import Writer
from tests.contracts.making import T0, a_token, connect, start, submit, whole_log


class Database(sqlite3.Connection):
    """Fails as the tests wish: `faults` are raised by the next statements that begin so."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.faults: list[tuple[str, Exception]] = []
        self.commits = 0
        self.checkpoints = 0
        self.checkpointed = threading.Event()

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:  # type: ignore[override]  # as it is called here
        if self.faults and sql.startswith(self.faults[0][0]):
            raise self.faults.pop(0)[1]
        done = super().execute(sql, *args)
        self.commits += sql == "COMMIT"
        if "wal_checkpoint" in sql:
            self.checkpoints += 1
            self.checkpointed.set()
        return done


class Words:
    """What one group writes."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def __bool__(self) -> bool:
        return bool(self.words)

    def write(self, db: sqlite3.Connection) -> int:
        for word in self.words:
            if word == "poison":
                raise ZeroDivisionError
            db.execute("INSERT INTO word VALUES (?)", (word,))
        return len(self.words)


class Book:
    """A ledger of words: enough to watch what the writer does."""

    def __init__(self, known: list[str]) -> None:
        self.known = known
        self.open: list[str] = []
        self.durable = 0

    @classmethod
    def read(cls, db: sqlite3.Connection) -> "Book":
        return cls([word for (word,) in db.execute("SELECT word FROM word ORDER BY rowid")])

    def put(self, word: str) -> int:
        self.open.append(word)
        self.known.append(word)
        return len(self.known)

    def close(self) -> tuple[Words, list[str]]:
        words, self.open = self.open, []
        return Words(words), words

    def settled(self, in_flight: int) -> None:
        self.durable += 1

    def take_over_from(self, older: "Book") -> None:
        pass


@pytest.fixture
def db() -> Iterator[Database]:
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, factory=Database)
    db.execute("CREATE TABLE word (word TEXT NOT NULL)")
    yield db
    db.close()


def a_writer(db: Database, learn: Callable[[Any], None] = lambda news: None) -> Writer[Book]:
    return Writer(db, Book.read(db), read=Book.read, learn=learn)


def put(word: str) -> Callable[[Book], int]:
    return lambda book: book.put(word)


async def in_the_end(writer: Writer[Book]) -> list[str]:
    """What is written."""
    words = await writer.write(lambda db: Book.read(db).known)
    await writer.close()
    return words


async def all_at_once(*operations: Any) -> list[Any]:
    """Asked in one turn; their answers or errors."""
    answers: list[Any] = [None] * len(operations)

    async def ask(number: int, asking: Any) -> None:
        try:
            answers[number] = await asking
        except Exception as error:
            answers[number] = error

    async with anyio.create_task_group() as group:
        for number, asking in enumerate(operations):
            group.start_soon(ask, number, asking)
    return answers


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("as the tests wish")
    error.sqlite_errorcode = code
    return error


async def test_operations_of_one_turn_share_a_commit(db: Database) -> None:
    writer = a_writer(db)

    answers = await all_at_once(*(writer.decide(put(str(n))) for n in range(50)))

    assert answers == list(range(1, 51))
    assert db.commits == 1
    assert await in_the_end(writer) == [str(n) for n in range(50)]


async def test_what_follows_from_an_operation_in_the_same_turn_shares_its_commit(db: Database) -> None:
    writer = a_writer(db)
    asked = anyio.Event()

    async def first() -> int:
        asked.set()
        return await writer.decide(put("a"))

    async def second() -> int:
        await asked.wait()
        return await writer.decide(put("b"))

    assert await all_at_once(second(), first()) == [2, 1]
    assert db.commits == 1
    await writer.close()


async def test_what_is_decided_while_the_disk_works_is_decided_on_what_came_before(db: Database) -> None:
    writer = a_writer(db)
    gate = threading.Event()

    async def later() -> int:
        await anyio.lowlevel.checkpoint()
        answer = writer.decide(put("b"))
        gate.set()
        return await answer

    answers = await all_at_once(
        writer.write(lambda db: gate.wait(10)), writer.decide(put("a")), later(), writer.decide(put("c"))
    )

    assert answers == [True, 1, 3, 2]
    assert await in_the_end(writer) == ["a", "c", "b"]


async def test_news_arrive_before_the_answers(db: Database) -> None:
    heard: list[str] = []
    writer = a_writer(db, heard.extend)

    await writer.decide(put("a"))

    assert heard == ["a"]
    await writer.close()


async def test_what_changes_nothing_needs_no_commit_but_waits_for_what_it_saw(db: Database) -> None:
    writer = a_writer(db)

    assert await writer.decide(lambda book: len(book.known)) == 0
    assert db.commits == 0
    assert await all_at_once(writer.decide(put("a")), writer.decide(lambda book: len(book.known))) == [1, 1]
    assert db.commits == 1
    await writer.close()


async def test_what_changes_nothing_waits_for_what_it_saw_on_its_way_to_the_disk(db: Database) -> None:
    writer = a_writer(db)
    gate = threading.Event()
    answers: list[Any] = []

    async def look() -> None:
        answers.append(await writer.decide(lambda book: list(book.known)))

    async with anyio.create_task_group() as group:
        group.start_soon(writer.write, lambda db: gate.wait(10))
        await anyio.wait_all_tasks_blocked()
        group.start_soon(writer.decide, put("a"))
        await anyio.wait_all_tasks_blocked()
        group.start_soon(look)
        await anyio.wait_all_tasks_blocked()
        assert answers == []
        gate.set()

    assert answers == [["a"]]
    await writer.close()


async def test_who_comes_after_a_fault_that_was_tried_alone_is_not_blamed_for_it(db: Database) -> None:
    writer = a_writer(db)

    def break_down(book: Book) -> None:
        raise ZeroDivisionError

    async def once_more() -> Any:
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        return await writer.decide(put("b"))

    answers = await all_at_once(
        writer.decide(put("a")), writer.decide(break_down), once_more(), writer.decide(put("poison"))
    )

    assert [type(answer) for answer in answers] == [int, ZeroDivisionError, int, ZeroDivisionError]
    assert sorted(await in_the_end(writer)) == ["a", "b"]


async def test_what_is_early_is_answered_with_an_earlier_group_and_written_with_the_next(db: Database) -> None:
    writer = a_writer(db)
    gate = threading.Event()
    answers: list[str] = []

    async def early(word: str, group: int) -> None:
        await writer.decide(put(word), early=lambda book, value: group)
        answers.append(word)

    await writer.decide(put("a"))  # group 1
    await early("b", 1)
    assert answers == ["b"]
    assert db.commits == 1
    await writer.decide(put("c"))  # group 2, with b
    assert db.commits == 2

    async with anyio.create_task_group() as group:
        group.start_soon(writer.write, lambda db: gate.wait(10))  # group 3
        await anyio.wait_all_tasks_blocked()
        group.start_soon(early, "d", 3)
        await anyio.wait_all_tasks_blocked()
        assert answers == ["b"]
        gate.set()

    assert answers == ["b", "d"]
    assert await in_the_end(writer) == ["a", "b", "c", "d"]


async def test_what_is_early_is_written_soon_also_when_nothing_else_comes(db: Database) -> None:
    writer = a_writer(db)

    await writer.decide(put("a"), early=lambda book, value: 0)
    with anyio.fail_after(10):
        while not db.commits:
            await anyio.lowlevel.checkpoint()

    assert await in_the_end(writer) == ["a"]


async def test_what_is_early_and_came_to_nothing_before_its_answer_is_decided_again(db: Database) -> None:
    writer = a_writer(db)
    gate = threading.Event()
    answers: list[Any] = []

    def fail(db: sqlite3.Connection) -> None:
        gate.wait(10)
        raise ZeroDivisionError

    async def failing() -> None:
        with pytest.raises(ZeroDivisionError):
            await writer.write(fail)

    async def early() -> None:
        answers.append(await writer.decide(put("b"), early=lambda book, value: book.durable + 1))

    async with anyio.create_task_group() as group:
        group.start_soon(failing)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(early)
        await anyio.wait_all_tasks_blocked()
        gate.set()

    assert answers == [1]
    assert await in_the_end(writer) == ["b"]


async def test_an_operation_that_is_refused_fails_alone(db: Database) -> None:
    writer = a_writer(db)

    def refuse(where: Any) -> None:
        raise Conflict("no")

    answers = await all_at_once(
        writer.decide(put("a")), writer.decide(refuse), writer.write(refuse), writer.decide(put("b"))
    )

    assert [type(answer) for answer in answers] == [int, Conflict, Conflict, int]
    assert await in_the_end(writer) == ["a", "b"]


async def test_a_fault_while_deciding_fails_alone_and_leaves_nothing(db: Database) -> None:
    writer = a_writer(db)

    def break_down(book: Book) -> None:
        book.put("half done")
        raise ZeroDivisionError

    answers = await all_at_once(writer.decide(put("a")), writer.decide(break_down), writer.decide(put("b")))

    assert isinstance(answers[1], ZeroDivisionError)
    assert sorted(answer for answer in answers if isinstance(answer, int)) == [1, 2]
    assert sorted(await in_the_end(writer)) == ["a", "b"]


async def test_a_fault_while_writing_fails_alone_and_leaves_nothing(db: Database) -> None:
    writer = a_writer(db)
    committed: list[str] = []

    def break_down(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO word VALUES ('half done')")
        raise ZeroDivisionError

    answers = await all_at_once(
        writer.decide(put("a")),
        writer.decide(put("poison")),
        writer.write(break_down, lambda book, value: committed.append("never")),
        writer.decide(put("b")),
    )

    assert [type(answer) for answer in answers] == [int, ZeroDivisionError, ZeroDivisionError, int]
    assert sorted(await in_the_end(writer)) == ["a", "b"]
    assert committed == []


async def test_what_was_decided_behind_a_fault_is_decided_again_without_it(db: Database) -> None:
    writer = a_writer(db)
    gate = threading.Event()
    held = writer.write(lambda db: gate.wait(10))

    async def behind() -> int:
        for _ in range(3):
            await anyio.lowlevel.checkpoint()  # the poisoned group is handed over
        asked = writer.decide(put("b"))
        gate.set()
        return await asked

    answers = await all_at_once(held, writer.decide(put("poison")), behind())

    assert isinstance(answers[1], ZeroDivisionError)
    assert answers[2] == 1
    assert await in_the_end(writer) == ["b"]


async def test_a_full_disk_is_told_to_all_and_over_when_there_is_room(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    db.faults = [("COMMIT", sqlite_error(sqlite3.SQLITE_FULL))]
    writer = a_writer(db)

    with caplog.at_level(logging.ERROR):
        answers = await all_at_once(writer.decide(put("a")), writer.write(lambda db: 1))
    second = await writer.decide(put("b"))

    assert [getattr(answer, "code", None) for answer in answers] == ["DISK_FULL", "DISK_FULL"]
    assert second == 1
    assert await in_the_end(writer) == ["b"]
    assert "DISK_FULL" in caplog.text


async def test_a_disk_that_stays_full_is_not_asked_by_everybody(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "REFUSES_S", 60)
    db.faults = [("COMMIT", sqlite_error(sqlite3.SQLITE_FULL)), ("COMMIT", sqlite_error(sqlite3.SQLITE_FULL))]
    writer = a_writer(db)

    for _ in range(5):
        with pytest.raises(StoreUnavailable) as caught:
            await writer.decide(put("a"))
        assert caught.value.code == "DISK_FULL"

    assert db.faults == []
    monkeypatch.setattr(writer, "_refuses_until", 0)
    assert await writer.decide(put("b")) == 1
    await writer.close()


async def test_a_disk_that_fails_while_undoing_too_leaves_nobody_waiting_and_nothing_half_done(db: Database) -> None:
    full, broken = sqlite_error(sqlite3.SQLITE_FULL), sqlite_error(sqlite3.SQLITE_IOERR_READ)
    db.faults = [("COMMIT", full), ("ROLLBACK", broken), ("ROLLBACK", broken)]
    writer = a_writer(db)

    with anyio.fail_after(10):
        for word in ("a", "b"):
            with pytest.raises(StoreUnavailable) as caught:
                await writer.decide(put(word))
            assert caught.value.code == "IO_ERROR"
        await writer.decide(put("c"))

        assert await in_the_end(writer) == ["c"]


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (sqlite3.SQLITE_IOERR_FSYNC, "IO_ERROR"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "LOCKED"),
        (sqlite3.SQLITE_CORRUPT_INDEX, "CORRUPT"),
        (sqlite3.SQLITE_READONLY_DBMOVED, "READ_ONLY"),
    ],
)
async def test_what_the_world_does_has_a_code(db: Database, code: int, name: str) -> None:
    db.faults = [("COMMIT", sqlite_error(code))]
    writer = a_writer(db)

    with pytest.raises(StoreUnavailable) as caught:
        await writer.decide(put("a"))

    assert caught.value.code == name
    await writer.close()


async def test_whoever_is_cancelled_does_not_take_the_operation_along(db: Database) -> None:
    writer = a_writer(db)
    learnt: list[int] = []

    with anyio.CancelScope() as scope:
        scope.cancel()
        await writer.decide(put("a"))
    async with anyio.create_task_group() as group:
        group.start_soon(writer.write, lambda db: 7, lambda book, value: learnt.append(value))
        await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()

    assert await in_the_end(writer) == ["a"]
    assert learnt == [7]


async def test_what_was_asked_for_before_the_end_is_done_and_nothing_after(db: Database) -> None:
    writer = a_writer(db)
    answers: list[int] = []

    async def ask() -> None:
        answers.append(await writer.decide(put("a")))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await anyio.lowlevel.checkpoint()
        await writer.close()
    await writer.close()

    assert answers == [1]
    for asking in (writer.decide(put("b")), writer.write(lambda db: 1), writer.ledger()):
        with pytest.raises(StoreUnavailable) as caught:
            await asking  # type: ignore[misc]  # all of them are awaitable
        assert caught.value.code == "CLOSED"


async def test_a_quiet_moment_is_used_for_a_checkpoint(db: Database) -> None:
    writer = a_writer(db)
    await writer.decide(put("a"))

    await anyio.to_thread.run_sync(db.checkpointed.wait, 10)

    assert db.checkpoints == 1
    await writer.close()


async def test_a_log_that_grows_is_folded_in_without_a_quiet_moment(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "MAX_WAL_BYTES", 3)
    monkeypatch.setattr(writing, "IDLE_S", 60)
    writer = a_writer(db)

    for word in "abcdefgh":
        await writer.decide(put(word))
    await writer.close()

    assert db.checkpoints == 2 + 1  # and the last one


# --- with the real ledger -----------------------------------------------------------------------------


async def test_after_a_fault_memory_and_rows_agree(path: Path) -> None:
    async with await SqliteStore.open(path, now=T0) as store:
        host = await connect(store)
        task = await submit(store, session="sess_a")

        def break_down(ledger: Ledger) -> None:
            taken = change_one(ledger, Change(task_id=task.id, now=T0, cause=Cause.ABORT))
            assert taken.status_changed
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await store._writer.decide(break_down)

        assert (await store.task(task.id)).rv == 1
        record = await start(store, host)
        assert (record.id, record.status) == (task.id, "running")
        assert [id for id, _ in await whole_log(store, "sess_a")] == [1, 2, 3]
        assert {state: n for state, n in (await store.counts()).items() if n} == {"running": 1}


async def test_a_deadline_that_the_rows_still_have_and_the_ledger_has_not_is_not_due(path: Path) -> None:
    async with await SqliteStore.open(path, now=T0) as store:
        task = await submit(store, queue_ttl=1_000)
        late = T0 + 2_000
        gate = threading.Event()
        due: list[Any] = []

        async def look() -> None:
            due.extend(await store.due(late, 10))

        assert [record.id for record in await store.due(late, 10)] == [task.id]
        async with anyio.create_task_group() as group:
            group.start_soon(store._writer.write, lambda db: gate.wait(10))
            await anyio.wait_all_tasks_blocked()
            group.start_soon(store.change, [Change(task_id=task.id, now=T0, cause=Cause.ABORT)])
            await anyio.wait_all_tasks_blocked()
            group.start_soon(look)
            await anyio.wait_all_tasks_blocked()
            gate.set()

        assert due == []


async def test_a_disk_that_fills_up_refuses_and_recovers(path: Path) -> None:
    async with await SqliteStore.open(path, now=T0) as store:
        first = await submit(store)

        (pages,) = await store._writer.write(lambda db: db.execute("PRAGMA page_count").fetchone())
        await store._writer.write(lambda db: db.execute(f"PRAGMA max_page_count = {pages}"))
        with pytest.raises(StoreUnavailable) as caught:
            await submit(store, prompt="x" * 100_000)
        await store._writer.write(lambda db: db.execute("PRAGMA max_page_count = 1000000"))
        second = await submit(store, prompt="x" * 100_000)

        assert caught.value.code == "DISK_FULL"
        assert (await store.counts())["queued"] == 2
        assert [task.id for task in (first, second)] == [
            (await store.find(first.id)),
            (await store.find(second.id)),
        ]
    async with await SqliteStore.open(path, now=T0) as store:
        assert (await store.counts())["queued"] == 2


async def test_the_database_refuses_a_second_live_attempt(path: Path) -> None:
    async with await SqliteStore.open(path, now=T0) as store:
        host = await connect(store)
        await submit(store)
        await start(store, host)

        with pytest.raises(sqlite3.IntegrityError):
            await store._writer.write(
                lambda db: db.execute("INSERT INTO attempt VALUES (1, 2, 'x', 'h1', 1, 1, NULL, NULL)")
            )
        assert len(await store.on_host("h1")) == 1


async def test_a_closed_store_says_so(path: Path) -> None:
    store = await SqliteStore.open(path, now=T0)
    await store.close()
    await store.close()

    with pytest.raises(StoreUnavailable) as writing_to_it:
        await store.add_token(a_token())
    with pytest.raises(StoreUnavailable) as reading_it:
        await store.tokens()

    assert {writing_to_it.value.code, reading_it.value.code} == {"CLOSED"}


async def test_the_log_is_folded_into_the_database_at_the_end(path: Path) -> None:
    async with await SqliteStore.open(path, now=T0) as store:
        await submit(store)

    assert not path.with_name("fleetgate.db-wal").exists()
