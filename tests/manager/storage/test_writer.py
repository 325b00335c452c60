"""The writer: groups share a commit, one bad operation hurts nobody else, and what fails is not half done."""

import logging
import sqlite3
import threading
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


class Book:
    """A ledger of words: enough to watch what the writer does."""

    def __init__(self) -> None:
        self.committed: list[str] = []
        self.pending: list[str] = []
        self.commits = 0
        self.checkpoints = 0
        self.checkpointed = threading.Event()
        self.written_bytes = 0
        self.fail_commit: Exception | None = None
        self.fail_rollbacks = 0
        self.closed = False

    def put(self, word: str) -> int:
        self.pending.append(word)
        self.written_bytes += 1
        return len(self.committed) + len(self.pending)

    def commit(self) -> list[str] | None:
        if self.fail_commit is not None and self.pending:
            error, self.fail_commit = self.fail_commit, None
            raise error
        news, self.pending = self.pending, []
        self.committed += news
        self.commits += bool(news)
        return news or None

    def rollback(self) -> None:
        if self.fail_rollbacks:
            self.fail_rollbacks -= 1
            raise sqlite_error(sqlite3.SQLITE_IOERR_READ)
        self.pending = []

    def checkpoint(self, *, truncate: bool = False) -> None:
        self.checkpoints += 1
        self.written_bytes = 0
        self.checkpointed.set()

    def close(self) -> None:
        self.closed = True


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("as the tests wish")
    error.sqlite_errorcode = code
    return error


async def all_at_once(writer: Writer[Book], *operations: Any) -> list[Any]:
    """Let the thread find all of them waiting; their answers or errors."""
    gate = threading.Event()
    answers: list[Any] = [None] * len(operations)

    async def ask(number: int, run: Any) -> None:
        try:
            answers[number] = await writer.do(run)
        except Exception as error:
            answers[number] = error

    async def hold() -> None:
        await writer.do(lambda book: gate.wait(10))

    async with anyio.create_task_group() as group:
        group.start_soon(hold)
        for number, run in enumerate(operations):
            group.start_soon(ask, number, run)
        await anyio.wait_all_tasks_blocked()
        gate.set()
    return answers


async def test_operations_that_wait_together_share_commits() -> None:
    book = Book()
    writer = Writer(book, lambda news: None)

    answers = await all_at_once(writer, *[lambda book, n=n: book.put(str(n)) for n in range(50)])
    await writer.close()

    assert answers == list(range(1, 51))
    assert book.committed == [str(n) for n in range(50)]
    assert book.commits == 1
    assert book.closed


async def test_news_arrive_before_the_answers() -> None:
    heard: list[str] = []
    writer = Writer(Book(), heard.extend)

    await writer.do(lambda book: book.put("a"))

    assert heard == ["a"]
    await writer.close()


async def test_an_operation_that_is_refused_fails_alone() -> None:
    book = Book()
    writer = Writer(book, lambda news: None)

    def refuse(book: Book) -> None:
        raise Conflict("no")

    answers = await all_at_once(writer, lambda b: b.put("a"), refuse, lambda b: b.put("b"))
    await writer.close()

    assert isinstance(answers[1], Conflict)
    assert book.committed == ["a", "b"]


async def test_an_operation_with_a_fault_of_ours_fails_alone_and_leaves_nothing() -> None:
    book = Book()
    writer = Writer(book, lambda news: None)

    def break_down(book: Book) -> None:
        book.put("half done")
        raise ZeroDivisionError

    answers = await all_at_once(writer, lambda b: b.put("a"), break_down, lambda b: b.put("b"))
    await writer.close()

    assert isinstance(answers[1], ZeroDivisionError)
    assert sorted(answer for answer in answers if isinstance(answer, int)) == [1, 2]
    assert book.committed == ["a", "b"]


async def test_a_full_disk_is_told_to_all_and_over_when_there_is_room(caplog: pytest.LogCaptureFixture) -> None:
    book = Book()
    book.fail_commit = sqlite_error(sqlite3.SQLITE_FULL)
    writer = Writer(book, lambda news: None)

    with caplog.at_level(logging.ERROR), pytest.raises(StoreUnavailable) as caught:
        await writer.do(lambda b: b.put("a"))
    await writer.do(lambda b: b.put("b"))
    await writer.close()

    assert caught.value.code == "DISK_FULL"
    assert book.committed == ["b"]
    assert "DISK_FULL" in caplog.text


async def test_a_disk_that_fails_while_undoing_too_leaves_nobody_waiting_and_nothing_half_done() -> None:
    book = Book()
    book.fail_commit, book.fail_rollbacks = sqlite_error(sqlite3.SQLITE_FULL), 2
    writer = Writer(book, lambda news: None)

    with anyio.fail_after(10):
        for word in ("a", "b"):
            with pytest.raises(StoreUnavailable) as caught:
                await writer.do(lambda b, word=word: b.put(word))  # type: ignore[misc]
            assert caught.value.code == "IO_ERROR"
        await writer.do(lambda b: b.put("c"))
        await writer.close()

    assert book.committed == ["c"]


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (sqlite3.SQLITE_IOERR_FSYNC, "IO_ERROR"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "LOCKED"),
        (sqlite3.SQLITE_CORRUPT_INDEX, "CORRUPT"),
        (sqlite3.SQLITE_READONLY_DBMOVED, "READ_ONLY"),
    ],
)
async def test_what_the_world_does_has_a_code(code: int, name: str) -> None:
    book = Book()
    book.fail_commit = sqlite_error(code)
    writer = Writer(book, lambda news: None)

    with pytest.raises(StoreUnavailable) as caught:
        await writer.do(lambda b: b.put("a"))

    assert caught.value.code == name
    await writer.close()


async def test_whoever_is_cancelled_does_not_take_the_operation_along() -> None:
    book = Book()
    writer = Writer(book, lambda news: None)

    with anyio.CancelScope() as scope:
        scope.cancel()
        await writer.do(lambda b: b.put("a"))
    await writer.do(lambda b: b.put("b"))
    await writer.close()

    assert book.committed == ["a", "b"]


async def test_what_was_asked_for_before_the_end_is_done_and_nothing_after() -> None:
    book = Book()
    writer = Writer(book, lambda news: None)
    answers: list[int] = []

    async def ask() -> None:
        answers.append(await writer.do(lambda b: b.put("a")))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await anyio.lowlevel.checkpoint()
        await writer.close()
    await writer.close()

    assert answers == [1]
    with pytest.raises(StoreUnavailable) as caught:
        await writer.do(lambda b: b.put("b"))
    assert caught.value.code == "CLOSED"


async def test_a_quiet_moment_is_used_for_a_checkpoint() -> None:
    book = Book()
    writer = Writer(book, lambda news: None)
    await writer.do(lambda b: b.put("a"))

    await anyio.to_thread.run_sync(book.checkpointed.wait, 10)

    assert (book.checkpoints, book.written_bytes) == (1, 0)
    await writer.close()


async def test_a_log_that_grows_is_folded_in_without_a_quiet_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "MAX_WAL_BYTES", 3)
    monkeypatch.setattr(writing, "IDLE_S", 60)
    book = Book()
    writer = Writer(book, lambda news: None)

    for word in "abcdefgh":
        await writer.do(lambda b, word=word: b.put(word))
    await writer.close()

    assert book.checkpoints == 2


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
            await store._writer.do(break_down)

        assert (await store.task(task.id)).rv == 1
        record = await start(store, host)
        assert (record.id, record.status) == (task.id, "running")
        assert [id for id, _ in await whole_log(store, "sess_a")] == [1, 2, 3]
        assert {state: n for state, n in (await store.counts()).items() if n} == {"running": 1}


async def test_a_disk_that_fills_up_refuses_and_recovers(path: Path) -> None:
    async with await SqliteStore.open(path, now=T0) as store:
        first = await submit(store)

        def limit(ledger: Ledger, pages: int) -> None:
            ledger.db.execute(f"PRAGMA max_page_count = {pages}")

        (pages,) = await store._writer.do(lambda ledger: ledger.db.execute("PRAGMA page_count").fetchone())
        await store._writer.do(lambda ledger: limit(ledger, pages))
        with pytest.raises(StoreUnavailable) as caught:
            await submit(store, prompt="x" * 100_000)
        await store._writer.do(lambda ledger: limit(ledger, 1_000_000))
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

        def cheat(ledger: Ledger) -> None:
            ledger.write("INSERT INTO attempt VALUES (1, 2, 'x', 'h1', 1, 1, NULL, NULL)")

        with pytest.raises(sqlite3.IntegrityError):
            await store._writer.do(cheat)
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
