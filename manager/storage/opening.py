"""Opening a database: one manager per directory, private files, the right version, a sound file.

Knows nothing of tasks. Numbered migrations lie beside this file as plain SQL; `PRAGMA user_version` is the number of
the newest one that was applied, each in its own transaction. A database of a newer Fleetgate is refused.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Final

from manager.errors import StoreUnavailable

OLDEST_SQLITE: Final = (3, 37, 0)  # STRICT tables
BUSY_MS: Final = 5_000

_CODES: Final = (
    (sqlite3.SQLITE_FULL, "DISK_FULL"),
    (sqlite3.SQLITE_IOERR, "IO_ERROR"),
    (sqlite3.SQLITE_BUSY, "LOCKED"),
    (sqlite3.SQLITE_LOCKED, "LOCKED"),
    (sqlite3.SQLITE_CORRUPT, "CORRUPT"),
    (sqlite3.SQLITE_NOTADB, "CORRUPT"),
    (sqlite3.SQLITE_READONLY, "READ_ONLY"),
    (sqlite3.SQLITE_CANTOPEN, "IO_ERROR"),
    (sqlite3.SQLITE_PERM, "READ_ONLY"),
)


def unavailable(error: sqlite3.Error) -> StoreUnavailable | None:
    """The world's fault in our words; None when the error is a fault of ours (a constraint, wrong SQL)."""
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF  # extended codes carry the primary one in the low byte
    for code, name in _CODES:
        if primary == code:
            return StoreUnavailable(f"the database did not take it: {error}", code=name)
    return None


@contextmanager
def translated() -> Iterator[None]:
    """Raise StoreUnavailable for what the world did to the database."""
    try:
        yield
    except sqlite3.Error as error:
        ours = unavailable(error)
        if ours is None:
            raise
        raise ours from error


class DirectoryLock:
    """Held for as long as this manager lives; the kernel lets go of it when the process ends, however it ends."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._fd)
            raise StoreUnavailable(f"another manager uses {directory}", code="IN_USE") from error

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_writer(path: Path) -> sqlite3.Connection:
    """The one connection that writes and checkpoints. It is used by one thread at a time."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StoreUnavailable(f"SQLite {sqlite3.sqlite_version} is too old, 3.37 is needed")
    # The file is made by us, so that it (and the -wal and -shm beside it, which take its mode) is never readable
    # by others, whatever the umask.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)
    with translated():
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)
        try:
            db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA wal_autocheckpoint = 0")  # the writer does them when it has nothing else to do
            db.execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}")
            db.execute("PRAGMA secure_delete = ON")  # what is taken out of a row is not left in its page
            db.execute("PRAGMA temp_store = MEMORY")
            db.execute(f"PRAGMA cache_size = -{32 * 1024}")
            _check(db, path)
            migrate(db, path)
        except BaseException:
            db.close()
            raise
    return db


def open_reader(path: Path) -> sqlite3.Connection:
    with translated():
        db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        db.execute("PRAGMA query_only = ON")
        return db


def _check(db: sqlite3.Connection, path: Path) -> None:
    found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise StoreUnavailable(f"{path} is damaged: {found}; restore a backup", code="CORRUPT")


def migrations() -> list[tuple[int, str, str]]:
    """(number, name, SQL), in order; the numbers count 1, 2, 3 ... without gaps."""
    found = sorted(
        (entry.name, entry.read_text(encoding="utf-8"))
        for entry in files("manager.storage").joinpath("migrations").iterdir()
        if entry.name.endswith(".sql")
    )
    numbered = [(int(name.partition("_")[0]), name, sql) for name, sql in found]
    if [number for number, _, _ in numbered] != list(range(1, len(numbered) + 1)):
        raise RuntimeError(f"migrations are not numbered 1, 2, 3 ...: {[name for _, name, _ in numbered]}")
    return numbered


def migrate(db: sqlite3.Connection, path: Path) -> None:
    steps = migrations()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(steps):
        raise StoreUnavailable(
            f"{path} was written by a newer Fleetgate (schema {version}, this one knows {len(steps)})", code="NEWER"
        )
    for number, _, sql in steps[version:]:
        db.execute("BEGIN IMMEDIATE")
        try:
            for statement in _statements(sql):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {number}")
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise


def _statements(sql: str) -> Iterator[str]:
    """One statement at a time (`executescript` would commit behind our back)."""
    gathered = ""
    for line in sql.splitlines(keepends=True):
        gathered += line
        if sqlite3.complete_statement(gathered):
            yield gathered
            gathered = ""
    if any(line.strip() and not line.lstrip().startswith("--") for line in gathered.splitlines()):
        raise RuntimeError(f"a migration ends inside a statement: {gathered.strip()[:80]}")
