"""The gateway's handle on an agent process, which belongs to its keeper and not to us.

    Keeper.start(home, uid, spec)    a new keeper, and the agent under it
    Keeper.adopt(home, uid)          the keeper that a gateway before us has started
    Stranger.of(home, uid)           one that a gateway of a newer release has started: left alone
    prepare(home)                    a keeper that waits for its spec: starting it later takes a few ms (warm.py)

The handle holds nothing that must be closed: each question is a connection of its own, so dropping a handle, being
cancelled in the middle of a call or being killed leaves agent and keeper as they are.
"""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from py_compile import PycInvalidationMode
from py_compile import compile as compile_to
from typing import Any, Final

import anyio
import msgspec
from anyio.abc import Process

from gateway.agents.base import ExitFacts, StdinMode
from gateway.core.journal import MAX_KEY, MAX_WRITE
from gateway.errors import AlreadyStarted, CannotRun, KeeperLost, KeeperTooNew
from gateway.runtime import attempt, keeper
from gateway.runtime.attempt import forget as forget
from gateway.runtime.attempt import found as found
from gateway.runtime.attempt import make as make
from gateway.runtime.spool import Spool
from shared_types.tasks import Reason

GIB: Final = 1024 * 1024 * 1024
_PATIENCE_S: Final = 30.0  # for an answer: a keeper may be waiting for a slow disk
_FULL_S: Final = 0.25  # before asking again when the agent does not read, or the disk is full
_UP_S: Final = 0.005  # while a keeper is on its way up or down


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperSpec:
    """What to start and how. `cwd` is checked against `roots` by the keeper, at the moment it is used. None of the
    times: no such limit. `argv[0]` is an absolute path; `env` is all the environment there will be.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str
    roots: tuple[str, ...]
    stdin_mode: StdinMode = StdinMode.PIPE
    stdin: bytes = b""  # written at once; in the journal under the key `launch`
    stdout_to_file: bool = False
    run_s: float | None = None
    idle_s: float | None = None
    first_output_s: float | None = None
    grace_s: float = 5.0  # between TERM and KILL when a limit is passed
    budget_s: float = 15.0  # how long killing may take
    until_ms: int | None = None  # CLOCK_BOOTTIME: the end of its lease; it is not started after that
    cap_bytes: int = GIB  # of the journal
    cgroup: str | None = None  # to be made for the agent
    secrets: tuple[str, ...] = ()  # what the journal may not hold
    nice: int = 0
    oom_score_adj: int | None = None

    def encoded(self, path: Path, uid: str) -> bytes:
        # Not msgspec: names and words of the operating system need not be Unicode (surrogateescape).
        return json.dumps(
            {
                "v": keeper.VERSION,
                "dir": str(path.absolute()),
                "uid": uid,
                "argv": self.argv,
                "env": dict(self.env),
                "cwd": self.cwd,
                "roots": self.roots,
                "stdin": self.stdin_mode.value,
                "input": b64encode(self.stdin).decode(),
                "stdoutToFile": self.stdout_to_file,
                "runMs": _ms(self.run_s),
                "idleMs": _ms(self.idle_s),
                "firstOutputMs": _ms(self.first_output_s),
                "graceMs": _ms(self.grace_s),
                "budgetMs": _ms(self.budget_s),
                "untilMs": self.until_ms,
                "capBytes": self.cap_bytes,
                "cgroup": self.cgroup,
                "secrets": self.secrets,
                "nice": self.nice,
                "oomScoreAdj": self.oom_score_adj,
            }
        ).encode()


class _Report(msgspec.Struct, rename="camel"):
    """What a keeper's first process prints."""

    exit: int
    pid: int = 0
    start_time: int = 0
    reason: str = Reason.SPAWN_FAILED
    detail: str = ""


class _Answer(msgspec.Struct):
    ok: bool
    error: str = ""
    detail: str = ""


class Ready:
    """A keeper that has been started and waits for its spec. Use it for one start, or `aclose` it."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def __repr__(self) -> str:
        return f"<Ready {self._process.pid} {'waits' if self.is_alive else 'gone'}>"

    @property
    def is_alive(self) -> bool:
        """As far as is known: it may die in the next moment."""
        return self._process.returncode is None

    async def hand_over(self, spec: bytes) -> tuple[int, bytes, bytes]:
        """Exit code, output and complaints of the keeper's first process."""
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        async with self._process:
            try:
                await stdin.send(spec)
                await stdin.aclose()
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, ConnectionError):
                return keeper.BROKEN, b"", b"the keeper ended before it was told what to do"
            said = b"".join([chunk async for chunk in stdout])
            complaint = b"".join([chunk async for chunk in stderr])
            return await self._process.wait(), said, complaint

    async def aclose(self) -> None:
        """Without a spec it goes away by itself."""
        await self._process.aclose()


async def prepare(home: Path) -> Ready:
    program = await anyio.to_thread.run_sync(_program, home)
    env = {name: value for name in ("LD_LIBRARY_PATH",) if (value := os.environ.get(name))}
    return Ready(
        await anyio.open_process(
            [sys.executable, "-I", "-S", "-X", "utf8", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=env,
            start_new_session=True,
        )
    )


@cache
def _program(home: Path) -> Path:
    """The keeper, compiled: a script's own file would be compiled again at each start. Named for what is in it, so
    that an upgrade makes another.
    """
    source = Path(keeper.__file__)
    stamp = hashlib.sha256(source.read_bytes() + sys.version.encode()).hexdigest()[:16]
    program = home.absolute() / "keeper" / f"{stamp}.pyc"
    if not program.exists():
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        program.parent.mkdir(mode=0o700, exist_ok=True)
        compile_to(str(source), str(program), doraise=True, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    return program


class Keeper:
    """One attempt's keeper, alive or not. `spool` follows what it writes down."""

    def __init__(self, home: Path, uid: str, pid: int, start_time: int) -> None:
        self.uid = uid
        self.path = attempt.directory(home, uid)
        self.spool = Spool(self.path)
        self.pid = pid
        self._start_time = start_time

    def __repr__(self) -> str:
        return f"<Keeper {self.uid} pid={self.pid} {'kept' if attempt.is_kept(self.path) else 'gone'}>"

    @classmethod
    async def start(
        cls, home: Path, uid: str, spec: KeeperSpec, take_warm: Callable[[], Ready | None] = lambda: None
    ) -> "Keeper":
        """Returns when the agent runs. Raises CannotRun when it could not be started, and AlreadyStarted when this
        attempt was started before, whatever became of it. Cannot be cancelled: it is started, or it is not. A keeper
        that is taken warm is used, or gone, in any case.
        """
        if len(spec.stdin) > MAX_WRITE:
            raise CannotRun(Reason.SPAWN_FAILED, f"{len(spec.stdin)} bytes for the agent's stdin are too many")
        warm = None
        with anyio.CancelScope(shield=True), anyio.move_on_after(_PATIENCE_S):
            try:
                told = spec.encoded(make(home, uid), uid)
                warm = take_warm()
                report = None if warm is None else await warm.hand_over(told)
                if report is None or not report[1]:
                    # The warm one died. Had it done its work before, this one finds that the attempt was started.
                    report = await (await prepare(home)).hand_over(told)
            except OSError as error:
                if warm is not None:
                    raise KeeperLost(f"the keeper of attempt {uid} died, and there is no other: {error}") from error
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                raise CannotRun(Reason.DISK_FULL if full else Reason.SPAWN_FAILED, str(error)) from error
            return cls(home, uid, *_started(uid, *report))
        raise KeeperLost(f"the keeper of attempt {uid} did not say whether it has started the agent")

    @classmethod
    async def adopt(cls, home: Path, uid: str) -> "Keeper":
        """The keeper of an attempt that was started before, alive or ended in order. Raises KeeperLost when it
        died without an end (by then nothing of the agent's tree is left), or never lived, and then never will.
        Raises KeeperTooNew when nothing that it wrote may be taken for what we would mean by it.
        """
        path = attempt.directory(home, uid)
        is_spent = False
        with anyio.move_on_after(_PATIENCE_S):
            while True:
                is_kept = attempt.is_kept(path)  # asked first: then the files are final, or it lives
                state = attempt.state(path)
                if state is not None and state.v > keeper.VERSION:
                    raise KeeperTooNew(uid, state.v, keeper.VERSION)
                if state is not None and (is_kept or attempt.last_record(path) is not None):
                    return cls(home, uid, state.pid, state.start_time)
                if not is_kept and (state is not None or is_spent or attempt.void(path)):
                    break
                is_spent = not is_kept  # by a keeper: if that lives, it is seen the next time
                await anyio.sleep(_UP_S)
        await attempt.sweep(path)
        raise KeeperLost(f"attempt {uid} has no keeper and no end")

    async def write(self, key: str, data: bytes, close: bool = False) -> bool:
        """Say something to the agent: once, however often it is asked for with the same key. True: it is in the
        journal. False: the agent has no open stdin any more. While the agent does not read what it was told, or
        the disk is full, this waits; cancelling is safe.
        """
        if not key or "\0" in key or len(key.encode()) > MAX_KEY or len(data) > MAX_WRITE:
            raise ValueError(f"{key[:MAX_KEY]!r} with {len(data)} bytes cannot be written")
        return await self._insist({"op": "write", "key": key, "data": b64encode(data).decode(), "close": close})

    async def note(self, key: str, facts: Mapping[str, Any]) -> bool:
        """A word of ours in the journal, once for each key, unless something was written with this key. False: there
        is no keeper any more that could write it down, or one of an earlier release that has no ear for it.
        """
        try:
            return await self._insist({"op": "note", "key": key, "facts": facts})
        except ValueError:
            return False

    async def _insist(self, request: dict[str, Any]) -> bool:
        """Ask until there is room for it. False: never."""
        while True:
            answer = await self._ask(request)
            if answer is None or answer.error in ("closed", "ended"):
                return False
            if answer.ok:
                return True
            await anyio.sleep(_FULL_S)

    async def stop(self, reason: str, grace_ms: int) -> None:
        """TERM to the agent's group, KILL after the grace, then whatever is left of its tree. Returns when it has
        begun. The first reason stays; again with less grace makes it quicker. Nothing happens when it is over.
        """
        await self._ask({"op": "stop", "reason": reason, "graceMs": grace_ms})

    async def lease(self, until_ms: int | None) -> bool:
        """Its keeper ends the agent at this time of CLOCK_BOOTTIME, whatever becomes of us; None: never. It does not
        go back. False: there is no keeper any more, or one of an earlier release that knows no leases.
        """
        try:
            return await self._ask({"op": "lease", "untilMs": until_ms}) is not None
        except ValueError:
            return False

    async def wait_gone(self) -> ExitFacts:
        """Until nothing of agent and keeper is left. Raises KeeperLost when the keeper died without an end."""
        fd = _open(self.pid, self._start_time)
        if fd is not None:
            try:
                await anyio.wait_readable(fd)
            finally:
                os.close(fd)
        facts = self.exit_facts
        if facts is None:
            await attempt.sweep(self.path)
            raise KeeperLost(f"the keeper of attempt {self.uid} died without an end")
        return facts

    @property
    def exit_facts(self) -> ExitFacts | None:
        """How it ended; None while it has not."""
        return attempt.ending(self.path)

    async def _ask(self, request: dict[str, Any]) -> _Answer | None:
        """One question, one answer; None when the keeper is gone. A cut in between is asked over: all that can be
        asked may be asked twice.
        """
        line = msgspec.json.encode(request) + b"\n"
        with anyio.move_on_after(_PATIENCE_S):
            while True:
                said = await self._talk(line)
                if said is not None:
                    answer = msgspec.json.decode(said, type=_Answer)
                    if answer.error == "bad_request":
                        raise ValueError(f"the keeper of attempt {self.uid} does not understand: {answer.detail}")
                    return answer
                if not attempt.is_kept(self.path):
                    return None
                await anyio.sleep(_UP_S)
        raise KeeperLost(f"the keeper of attempt {self.uid} does not answer")

    async def _talk(self, line: bytes) -> bytes | None:
        try:
            with attempt.dial(self.path) as sock:
                while line:
                    try:
                        line = line[sock.send(line) :]
                    except BlockingIOError:
                        await anyio.wait_writable(sock)
                said = b""
                while not said.endswith(b"\n"):
                    await anyio.wait_readable(sock)
                    chunk = sock.recv(65536)
                    if not chunk:
                        return None
                    said += chunk
                return said
        except (FileNotFoundError, ConnectionError, BlockingIOError):
            return None


class Stranger:
    """A keeper of a newer release. Of what it does we know only what is the same for ever (keeper.py)."""

    def __init__(self, path: Path, pid: int, start_time: int) -> None:
        self._path = path
        self._pid = pid
        self._start_time = start_time

    def __repr__(self) -> str:
        return f"<Stranger {self._path.name} pid={self._pid} {'kept' if attempt.is_kept(self._path) else 'gone'}>"

    @classmethod
    def of(cls, home: Path, uid: str) -> "Stranger":
        """Raises KeeperLost when nobody can be named."""
        path = attempt.directory(home, uid)
        state = attempt.state(path)
        if state is None:
            raise KeeperLost(f"attempt {uid} names no keeper")
        return cls(path, state.pid, state.start_time)

    def end(self) -> None:
        """Ask it to end its agent, and itself. Nothing happens when it is gone."""
        fd = _open(self._pid, self._start_time)
        if fd is not None:
            try:
                signal.pidfd_send_signal(fd, signal.SIGTERM)
            except ProcessLookupError:
                pass  # it has just ended
            finally:
                os.close(fd)

    async def wait_gone(self) -> None:
        """Until it is gone; should it have been killed, nothing of its agent is left either."""
        fd = _open(self._pid, self._start_time)
        if fd is not None:
            try:
                await anyio.wait_readable(fd)
            finally:
                os.close(fd)
        await attempt.sweep(self._path)


def _open(pid: int, start_time: int) -> int | None:
    """A handle on a process. Taken before it is looked at: whoever has the pid by then is known."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        if keeper.start_time(pid) == start_time:
            return fd
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has just ended
    os.close(fd)
    return None


def _started(uid: str, code: int, said: bytes, complaint: bytes) -> tuple[int, int]:
    """The new keeper's pid and start time."""
    try:
        report = msgspec.json.decode(said, type=_Report)
    except msgspec.DecodeError:
        report = _Report(code, detail=f"the keeper failed ({code}): {complaint.decode(errors='replace')[-2000:]}")
    if report.exit == keeper.STARTED and report.pid:
        return report.pid, report.start_time
    if report.exit in (keeper.BUSY, keeper.SPENT):
        raise AlreadyStarted(f"attempt {uid} was started before")
    raise CannotRun(report.reason, report.detail)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)
