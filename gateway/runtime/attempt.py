"""An attempt's directory on this host: where its things are, whether its keeper lives, how it ended.

    <home>/attempts/<uid>/   attempt    our mark: only a directory that has it is ever deleted
                             void       nothing was started and nothing will be
                             private/   files of the agent's launch, its TMPDIR
                             lock, state.json, journal, ctl.sock, exit.json, keeper.log   the keeper's (keeper.py)

Nothing is remembered here: every question is put to the directory and to the operating system.
"""

import fcntl
import os
import re
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Final

import anyio
import msgspec
import structlog

from gateway.core.cgroup import is_name
from gateway.core.journal import HEADER, MAX_NOTE, ExitFacts, Record, Stream, exit_facts, exit_record
from gateway.runtime import keeper

MARK: Final = "attempt"
PRIVATE: Final = "private"
STATE: Final = "state.json"
VOID: Final = "void"
_UID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_GONE: Final = ".gone-"
_PATIENCE_S: Final = 20.0  # for a keeper that has written its last record and is about to exit
_SWEEPS: Final = 500

_log = structlog.get_logger(__name__)
_deleting = Lock()  # one at a time: each deletes what others left, too


class State(msgspec.Struct, rename="camel"):
    """Who the keeper is, or was. `v` is the contract that it keeps to (keeper.py)."""

    pid: int
    start_time: int
    boot_id: str
    v: int = keeper.VERSION
    cgroup: str | None = None  # the agent's, should the host have had room for it


class _Exit(msgspec.Struct):
    seq: int
    at: int
    facts: msgspec.Raw


def directory(home: Path, uid: str) -> Path:
    """Raises ValueError for what is no name of an attempt."""
    if not _UID.fullmatch(uid):
        raise ValueError(f"{uid!r} is not the name of an attempt")
    return home / "attempts" / uid


def make(home: Path, uid: str) -> Path:
    """The attempt's directory with our mark and `private/`, made where they are missing; nobody else may look in."""
    path = directory(home, uid)
    for part in (path.parent, path, path / PRIVATE):
        if part.parent == path:
            (path / MARK).touch(mode=0o600)  # first of all: what has no mark is empty, or not ours
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
        part.chmod(0o700)
    return path


def found(home: Path) -> list[str]:
    """The attempts whose directories are there, running or not."""
    attempts = home / "attempts"
    if not attempts.is_dir():
        return []
    return sorted(path.name for path in attempts.iterdir() if _UID.fullmatch(path.name) and (path / MARK).is_file())


def forget(home: Path, uid: str) -> None:
    """Delete an attempt that is over. Blocks; waits for a keeper that is just about to exit, and raises
    TimeoutError for one that is not. A directory without our mark is left alone.
    """
    path = directory(home, uid)
    if path.is_symlink() or not (path / MARK).is_file():
        return
    give_up_at = time.monotonic() + _PATIENCE_S
    while is_kept(path):
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"attempt {uid} still has its keeper")
        time.sleep(0.005)
    path.rename(path.with_name(_GONE + uid))  # from here on it is not found any more, however far we get
    _delete_gone(path.parent)


def bytes_taken(home: Path) -> int:
    """What the files of all attempts take on disk, but not what agents put into their TMPDIR: that may be any number
    of files, and counts as used disk like everything else of theirs.
    """
    taken = 0
    for path in _entries(home / "attempts"):
        for file in _entries(path):
            with suppress(FileNotFoundError):  # just deleted
                taken += os.stat(file, follow_symlinks=False).st_blocks * 512
    return taken


def _entries(path: Path) -> list[Path]:
    """None of what is no directory, or not any more."""
    try:
        return list(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def tidy(home: Path) -> None:
    """Delete what a gateway that died has left half made or half deleted. For one that has made nothing yet."""
    attempts = home / "attempts"
    if attempts.is_dir():
        for path in attempts.iterdir():
            with suppress(OSError):  # not empty
                path.rmdir()
        _delete_gone(attempts)


def _delete_gone(attempts: Path) -> None:
    """What cannot be deleted keeps nothing else from being deleted."""
    with _deleting:
        for gone in attempts.glob(_GONE + "*"):
            try:
                _delete(gone)
            except OSError as error:
                _log.error("attempt.not_deleted", path=str(gone), error=str(error))


def _delete(path: Path) -> None:
    """Never through a link, and however deep an agent has nested: each directory is brought to the top before it is
    emptied, so neither a path nor our stack grows with it.
    """
    path.chmod(0o700)
    top = _open(path)
    try:
        while folders := _without_files(top):
            for name in folders:
                folder = _open(name, top)
                try:
                    for inner in _without_files(folder):
                        os.rename(inner, os.urandom(16).hex(), src_dir_fd=folder, dst_dir_fd=top)
                finally:
                    os.close(folder)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    path.rmdir()


def _without_files(folder: int) -> list[str]:
    """Delete its files. What is left are directories, which we may write to now: an agent may have seen to it that
    nobody could.
    """
    folders = []
    for name in os.listdir(folder):
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            os.chmod(name, 0o700, dir_fd=folder)
            folders.append(name)
        else:
            os.unlink(name, dir_fd=folder)
    return folders


def _open(path: Path | str, folder: int | None = None) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)


def void(path: Path) -> bool:
    """From now on no keeper takes the attempt on, not even one that is on its way. False: one has."""
    try:
        os.close(os.open(path / STATE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return (path / VOID).exists()
    except FileNotFoundError:
        return True  # there is no place where it could be kept
    (path / VOID).touch(mode=0o600)
    return True


def is_kept(path: Path) -> bool:
    """Its keeper lives. The kernel lets go of the lock with the process, whatever becomes of it."""
    try:
        fd = os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def state(path: Path) -> State | None:
    """None before the keeper has said who it is, and when nobody can read it."""
    try:
        return msgspec.json.decode((path / STATE).read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def last_record(path: Path) -> Record | None:
    """The EXIT record: from exit.json, or from the journal should the keeper have died between the two, or
    something else have spoilt the file.
    """
    try:
        said = msgspec.json.decode((path / "exit.json").read_bytes(), type=_Exit)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return _end_of_journal(path)
    return Record(said.seq, said.at, Stream.EXIT, bytes(said.facts))


def _end_of_journal(path: Path) -> Record | None:
    try:
        with (path / "journal").open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MAX_NOTE - HEADER.size))
            return exit_record(file.read())
    except OSError:
        return None


def ending(path: Path) -> ExitFacts | None:
    record = last_record(path)
    return None if record is None else exit_facts(record.data)


def dial(path: Path) -> socket.socket:
    """A connection to the attempt's keeper. Through a handle on the directory: a socket's name must be short.
    Raises OSError when nobody answers.
    """
    folder = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        line.setblocking(False)
        line.connect(f"/proc/self/fd/{folder}/ctl.sock")
    except BaseException:
        line.close()
        raise
    finally:
        os.close(folder)
    return line


async def sweep(path: Path) -> None:
    """After a keeper that died without ending its agent: the kernel has killed the agent; kill what it had started.
    Without a cgroup, what threw away its environment as well as its parents is not found.
    """
    cgroup = _cgroup(path)
    for _ in range(_SWEEPS):
        if not await anyio.to_thread.run_sync(_kill_left, path.name, cgroup):
            return
        await anyio.sleep(0.01)  # dying takes a moment, and may have children
    _log.error("attempt.survivors", uid=path.name)


def _cgroup(path: Path) -> str | None:
    """Only one that has this attempt's name: whatever stands in the file, no other is touched."""
    known = state(path)
    if known is None or known.cgroup is None or not is_name(Path(known.cgroup).name, path.name):
        return None
    return known.cgroup


def _kill_left(uid: str, cgroup: str | None) -> bool:
    """False: nothing was left."""
    try:
        is_populated = cgroup is not None and keeper.kill_cgroup(cgroup)
        if cgroup is not None and not is_populated:
            keeper.remove_cgroup(cgroup)
    except OSError as error:
        _log.error("attempt.cgroup", uid=uid, error=str(error))
        is_populated = False
    return bool(keeper.kill_strays(uid)) or is_populated
