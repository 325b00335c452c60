"""Opening: one manager, private files, the right version, a sound file."""

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from manager.core.lifecycle import Cause
from manager.errors import StoreUnavailable
from manager.storage import opening
from manager.storage.sqlite import SqliteStore
from shared_types.tasks import TaskResult
from tests.contracts.making import T0, connect, report, start, submit, take

ROOT = Path(__file__).parents[3]


async def test_a_second_manager_is_refused_while_the_first_lives(path: Path, store: SqliteStore) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        await SqliteStore.open(path, now=T0)

    assert caught.value.code == "IN_USE"
    await store.close()
    await (await SqliteStore.open(path, now=T0)).close()


async def test_a_manager_in_another_process_is_refused_too(path: Path, store: SqliteStore) -> None:
    script = f"""
import asyncio, pathlib
from manager.errors import StoreUnavailable
from manager.storage.sqlite import SqliteStore
try:
    asyncio.run(SqliteStore.open(pathlib.Path({str(path)!r}), now=1))
except StoreUnavailable as error:
    print(error.code)
"""

    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30)

    assert done.stdout.strip() == "IN_USE", done.stderr


async def test_nobody_else_may_read_the_files(path: Path) -> None:
    old = os.umask(0)
    try:
        store = await SqliteStore.open(path, now=T0)
        try:
            await submit(store)
            found = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in path.parent.iterdir()}
        finally:
            await store.close()
    finally:
        os.umask(old)

    assert set(found) == {"fleetgate.db", "fleetgate.db-wal", "fleetgate.db-shm"}
    assert set(found.values()) == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_values_of_a_completed_tasks_environment_are_in_no_file_any_more(path: Path) -> None:
    def holds(value: bytes) -> bool:
        return any(value in entry.read_bytes() for entry in path.parent.iterdir())

    store = await SqliteStore.open(path, now=T0)
    try:
        host = await connect(store)
        await submit(store, env={"TOKEN": "s3cret-of-the-completed"})
        record = await start(store, host)
        await submit(store, env={"TOKEN": "s3cret-of-the-queued"})
        assert holds(b"s3cret-of-the-completed")

        await take(store, report(record, host, Cause.SUCCEEDED, result=TaskResult(success=True)))
    finally:
        await store.close()

    assert not holds(b"s3cret-of-the-completed")
    assert holds(b"s3cret-of-the-queued")  # in clear, for as long as it may run


async def test_a_database_of_a_newer_fleetgate_is_refused_and_left_alone(path: Path) -> None:
    await (await SqliteStore.open(path, now=T0)).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 999")
    db.close()

    with pytest.raises(StoreUnavailable) as caught:
        await SqliteStore.open(path, now=T0)

    assert caught.value.code == "NEWER"
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (999,)
    db.close()


async def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database at all " * 1_000)

    with pytest.raises(StoreUnavailable) as caught:
        await SqliteStore.open(path, now=T0)

    assert caught.value.code == "CORRUPT"
    assert path.read_bytes().startswith(b"not a database")


async def test_a_damaged_database_is_refused(path: Path) -> None:
    store = await SqliteStore.open(path, now=T0)
    for _ in range(200):
        await submit(store, prompt="x" * 2_000)
    await store.close()
    data = bytearray(path.read_bytes())
    data[40_000:120_000] = os.urandom(80_000)
    path.write_bytes(data)

    with pytest.raises(StoreUnavailable) as caught:
        await SqliteStore.open(path, now=T0)

    assert caught.value.code == "CORRUPT"


async def test_a_refused_opening_leaves_the_directory_free(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database at all " * 1_000)
    with pytest.raises(StoreUnavailable):
        await SqliteStore.open(path, now=T0)
    path.unlink()

    await (await SqliteStore.open(path, now=T0)).close()


def test_migrations_count_without_gaps_and_are_all_applied(tmp_path: Path) -> None:
    db = opening.open_writer(tmp_path / "x.db")

    numbers = [number for number, _, _ in opening.migrations()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert db.execute("PRAGMA user_version").fetchone() == (len(numbers),)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)
    db.close()


def test_a_migration_that_fails_halfway_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = opening.open_writer(tmp_path / "x.db")
    steps = [*opening.migrations()]
    broken = (len(steps) + 1, "x.sql", "CREATE TABLE half (a);\nINSERT INTO nowhere VALUES (1);\n")
    monkeypatch.setattr(opening, "migrations", lambda: [*steps, broken])

    with pytest.raises(sqlite3.OperationalError):
        opening.migrate(db, tmp_path / "x.db")

    assert db.execute("PRAGMA user_version").fetchone() == (len(steps),)
    assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'half'").fetchone() == (0,)
    db.close()


def test_readers_cannot_write(tmp_path: Path) -> None:
    opening.open_writer(tmp_path / "a b?c#.db").close()
    db = opening.open_reader(tmp_path / "a b?c#.db")

    with pytest.raises(sqlite3.OperationalError):
        db.execute("DELETE FROM task")

    assert db.execute("SELECT count(*) FROM task").fetchone() == (0,)
    db.close()


async def test_every_row_belongs_to_one_that_is_there(path: Path) -> None:
    async with await SqliteStore.open(path, now=T0) as store:
        host = await connect(store)
        for _ in range(3):
            await submit(store)
        record = await start(store, host)
        await store.add_input(record.id, "in_1", "text", T0)

    db = opening.open_reader(path)
    assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    assert db.execute("SELECT count(*) FROM attempt").fetchone() == (1,)
    db.close()
