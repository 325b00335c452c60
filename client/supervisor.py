"""Keeps a program running: starts it, waits until it is ready, starts it again when it crashes, ends it in time.

`kept_running` is the owner: leaving it ends the program (TERM, grace, KILL) before it returns, so nested ones end
from the inside out. A program that ends before it was ever ready, or with an exit code that says "do not restart",
is `ChildEnded`. The child has a session of its own (a Ctrl-C of the terminal reaches the supervisor alone) and is
told to end when the supervisor dies (tether.py). Its log is a file, which outlives us both.
"""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
from anyio.abc import ByteReceiveStream, Process

from client.errors import BadConfig, FleetgateError

READY_WITHIN_S: Final = 60.0
GRACE_S: Final = 40.0
STABLE_S: Final = 60.0  # who lived so long starts its backoff anew
MAX_DELAY_S: Final = 30.0
DO_NOT_RESTART: Final = frozenset({75, 77, 78})  # in use by another, revoked, wrong settings
LOG_BYTES: Final = 8 * 1024 * 1024

Say = Callable[[str], None]


def ending(code: int) -> str:
    """How a program ended, for people.

    >>> ending(3), ending(-9), ending(-250)
    ('ended with exit code 3', 'was killed by SIGKILL', 'was killed by signal 250')
    """
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


class ChildEnded(FleetgateError):
    """A program of ours ended and is not started again."""

    def __init__(self, name: str, code: int, said: str, log: Path | None) -> None:
        hint = f"Its log is {log}" if log is not None else None
        super().__init__(f"the {name} {ending(code)}" + (f":\n{said}" if said else ""), hint=hint)
        self.code = code
        self.exit_code = code if code in DO_NOT_RESTART else 1  # type: ignore[misc]  # each end has its own


@dataclass(slots=True)
class Program:
    """What to run: `python -P -m MODULE ARGUMENTS`. `log` None: it writes to our stderr."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    log: Path | None = None
    end_with: signal.Signals = signal.SIGTERM


NEEDED: Final = {"manager": "litestar"}  # what a machine that is only a host does not have


def check_installed(program: str) -> None:
    """Raises BadConfig when this installation is too light for it."""
    for module in (program, NEEDED.get(program, program)):
        if importlib.util.find_spec(module) is None:
            raise BadConfig(
                f"the {program} is not part of this installation ({module} is missing)",
                hint="This machine can be a host: fleetgate join URL CODE. All of it comes with: pip install .",
            )


def restart_delay(crashes: int) -> float:
    """Seconds before the next start, after so many crashes in a row.

    >>> [restart_delay(n) for n in (1, 2, 3, 9)]
    [1.0, 2.0, 4.0, 30.0]
    """
    return min(MAX_DELAY_S, 2.0 ** min(crashes - 1, 10))


class Child:
    """One program that is kept running. `ready` is the line of JSON it last printed when it was ready."""

    def __init__(self, program: Program, say: Say, environ: Mapping[str, str]) -> None:
        self.program = program
        self.ready: dict[str, Any] = {}
        self.starts = 0
        self._say = say
        self._environ = environ
        self._process: Process | None = None
        self._signals = 0
        # A cancellation from further out reaches all programs at once: only our owner says when it is our turn.
        self._scope = anyio.CancelScope(shield=True)
        self._log_began = 0  # where in the log this life begins
        self._was_ready = anyio.Event()

    def __repr__(self) -> str:
        return f"<Child {self.program.name} pid={self.pid} starts={self.starts}>"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def run(self) -> None:
        """Until `leave`. Raises ChildEnded."""
        with self._scope:
            await self._keep()

    async def wait_ready(self) -> None:
        """Until it was ready for the first time."""
        await self._was_ready.wait()

    def leave(self) -> None:
        """End the program, then `run`."""
        self._scope.cancel()

    async def _keep(self) -> None:
        crashes = 0
        while True:
            began = anyio.current_time()
            was_ready, code = await self._once()
            if code in DO_NOT_RESTART or not (was_ready or self.ready):
                raise ChildEnded(self.program.name, code, self._last_words(), self.program.log)
            crashes = 1 if anyio.current_time() - began >= STABLE_S else crashes + 1
            delay_s = restart_delay(crashes)
            self._say(f"the {self.program.name} {ending(code)}; starting it again in {delay_s:g} s")
            await anyio.sleep(delay_s)

    async def _once(self) -> tuple[bool, int]:
        """One life: whether it was ready, and its exit code."""
        self.starts += 1
        with anyio.CancelScope(shield=True):  # a process that nobody knows of would be left behind
            self._process = process = await self._start()
        was_ready = False

        async def listen(stdout: ByteReceiveStream) -> None:
            nonlocal was_ready
            async for line in lines(stdout):
                if not was_ready and line.startswith(b"{"):
                    if self.ready:
                        self._say(f"the {self.program.name} is up again")
                    self.ready = msgspec.json.decode(line)
                    was_ready = True
                    self._was_ready.set()

        try:
            async with anyio.create_task_group() as group:
                assert process.stdout is not None
                group.start_soon(listen, process.stdout)
                if not self.ready:
                    group.start_soon(self._expect_ready, process, lambda: was_ready)
                code = await process.wait()
                group.cancel_scope.cancel()  # who inherited its stdout may keep that open
        finally:
            with anyio.CancelScope(shield=True):
                await self._end(process)
                await process.aclose()
        return was_ready, code

    async def _start(self) -> Process:
        argv = [sys.executable, "-P", "-m", *self.program.argv]
        tether = [sys.executable, "-I", "-S", str(Path(__file__).with_name("tether.py")), str(os.getpid())]
        log = None
        if self.program.log is not None:
            self.program.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shorten(self.program.log)
            log = os.open(self.program.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            self._log_began = os.fstat(log).st_size
        try:
            return await anyio.open_process(
                [*tether, *argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**self._environ, **self.program.env},
                start_new_session=True,
            )
        finally:
            if log is not None:
                os.close(log)

    async def _expect_ready(self, process: Process, is_ready: Callable[[], bool]) -> None:
        await anyio.sleep(READY_WITHIN_S)
        if not is_ready():
            self._say(f"the {self.program.name} is not ready after {READY_WITHIN_S:g} s")
            process.terminate()

    async def _end(self, process: Process) -> None:
        """Tell it, grace, KILL; waits for the end."""
        if process.returncode is None:
            self.hurry()
            with anyio.move_on_after(GRACE_S):
                await process.wait()
        if process.returncode is None:
            self._say(f"the {self.program.name} does not end; killing it")
            process.kill()
        await process.wait()

    def hurry(self) -> None:
        """Tell it to end; said again (a second Ctrl-C) it is told again, and the third time killed."""
        if self._process is None or self._process.returncode is not None:
            return
        self._signals += 1
        if self._signals >= 3:
            self._process.kill()
        else:
            self._process.send_signal(self.program.end_with)

    def _last_words(self) -> str:
        if self.program.log is None or not self.program.log.exists():
            return ""
        with self.program.log.open("rb") as log:
            log.seek(max(self._log_began, log.seek(0, os.SEEK_END) - 4096))
            said = log.read().decode("utf-8", "replace").strip().splitlines()
        return "\n".join(said[-8:])


@asynccontextmanager
async def kept_running(program: Program, say: Say, environ: Mapping[str, str] = os.environ) -> AsyncIterator[Child]:
    """A program that is ready, until you leave. Raises ChildEnded."""
    child = Child(program, say, environ)
    async with anyio.create_task_group() as group:
        try:
            group.start_soon(child.run)
            await child.wait_ready()
            yield child
        finally:
            child.leave()


async def lines(stream: ByteReceiveStream, most: int = 1024 * 1024) -> AsyncIterator[bytes]:
    """Whole lines; a longer one than `most` is dropped."""
    rest = b""
    async for chunk in stream:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line
        rest = rest if len(rest) <= most else b""


def shorten(log: Path, most: int = LOG_BYTES) -> bool:
    """Keep a log small: beyond `most` bytes it becomes `<name>.1`. Who appends to it just goes on at its start."""
    try:
        if log.stat().st_size <= most:
            return False
    except FileNotFoundError:
        return False
    with log.open("r+b") as now, log.with_name(log.name + ".1").open("wb") as before:
        os.chmod(before.fileno(), 0o600)
        while chunk := now.read(1024 * 1024):
            before.write(chunk)
        now.truncate(0)
    return True


async def tend_logs(logs: tuple[Path, ...], every_s: float = 60.0) -> None:
    """For ever: no log grows without bound."""
    while True:
        await anyio.sleep(every_s)
        for log in logs:
            shorten(log)
