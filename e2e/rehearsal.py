"""One run of a real agent CLI through its driver, in this process: no manager, no gateway, no keeper.

    run = await rehearse(kind, model, directory, prompt, mode=PermissionMode.BYPASS)
    run.records, run.events, run.evidence, run.code

It does with a driver what a keeper and a runner do together, as simply as it can be done: starts the program, hands
it the lines as records, writes what it asks to be written, closes stdin when the conversation is over. Recording
transcripts and looking at how an agent is started need no more.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import anyio.abc

from e2e.harness import PASSED_ON, agent_executable, left_behind
from e2e.model_server import ModelServer, home_files
from gateway.agents.base import AgentKind, Driver, Evidence, Launch, Record, RunSpec, StdinMode, Stream
from shared_types.events import AgentEvent
from shared_types.tasks import PermissionMode

SLICE: Final = 256 * 1024
CLOSING_S: Final = 5.0
SESSION: Final = "00000000-0000-4000-8000-000000000001"
QUIET: Final = {"CI": "1", "NO_COLOR": "1", "TERM": "dumb"}

Watcher = Callable[[Driver, AgentEvent], None]


@dataclass
class Rehearsal:
    """What was heard and what was made of it; `code` is negative for a signal."""

    driver: Driver
    spec: RunSpec
    launch: Launch
    records: list[Record] = field(default_factory=list)
    events: list[AgentEvent] = field(default_factory=list)
    code: int | None = None

    @property
    def evidence(self) -> Evidence:
        return self.driver.evidence

    def of(self, kind: str) -> list[AgentEvent]:
        return [event for event in self.events if event.type == kind]


@dataclass
class _Stage:
    """One running program and its journal."""

    run: Rehearsal
    watch: Watcher
    process: anyio.abc.Process
    stdin_is_open: bool = True
    changed: anyio.Event = field(default_factory=anyio.Event)
    started: float = field(default_factory=anyio.current_time)

    def hear(self, stream: Stream, data: bytes, *, partial: bool = False) -> None:
        at = round((anyio.current_time() - self.started) * 1000)
        record = Record(len(self.run.records) + 1, at, stream, data, partial)
        self.run.records.append(record)
        for event in self.run.driver.heard(record):
            self.run.events.append(event)
            self.watch(self.run.driver, event)
        self.changed.set()

    def hear_line(self, stream: Stream, line: bytes) -> None:
        for start in range(0, max(1, len(line)), SLICE):
            piece = line[start : start + SLICE]
            self.hear(stream, piece, partial=start + SLICE < len(line))

    async def listen(self, stream: Stream, source: anyio.abc.ByteReceiveStream) -> None:
        rest = b""
        async for data in source:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self.hear_line(stream, line)
        if rest:
            self.hear_line(stream, rest)

    async def talk(self) -> None:
        """Write what the driver asks for, each key once; close stdin when the conversation is over."""
        assert self.process.stdin is not None
        while True:
            self.changed = anyio.Event()
            for write in self.run.driver.to_write():
                self.hear(Stream.IN, write.key.encode() + b"\0" + write.data)
                await self.process.stdin.send(write.data)
                if write.close:
                    await self.close()
            if self.run.driver.is_done:
                return await self.close()
            if not self.run.driver.to_write():
                await self.changed.wait()

    async def close(self) -> None:
        if self.stdin_is_open and self.process.stdin is not None:
            self.stdin_is_open = False
            await self.process.stdin.aclose()

    async def wait_done(self) -> None:
        while not self.run.driver.is_done:
            await self.changed.wait()


def spec_for(
    kind: AgentKind, model: ModelServer, directory: Path, prompt: str, mode: PermissionMode, instructions: str = ""
) -> RunSpec:
    agent = kind.name
    is_root = os.geteuid() == 0
    host_env = model.env(agent) | ({"IS_SANDBOX": "1"} if is_root else {})
    return RunSpec(
        task_id="task_1",
        prompt=prompt,
        cwd=str(directory / "repo"),
        executable=str(agent_executable(agent)),
        model="scripted/m1" if agent == "opencode" else "scripted-model",
        mode=mode,
        session_uuid=SESSION,
        is_root=is_root,
        host_env=host_env,
        instructions=instructions,
    )


async def rehearse(
    kind: AgentKind,
    model: ModelServer,
    directory: Path,
    prompt: str,
    *,
    mode: PermissionMode = PermissionMode.DEFAULT,
    watch: Watcher = lambda driver, event: None,
    env: Mapping[str, str] | None = None,
    instructions: str = "",
    within_s: float = 120,
) -> Rehearsal:
    """Run it to its end. `directory` gets `repo` (its working directory, kept when it is there), a home and a private
    directory. `watch` sees every event and may `say` or `cancel`.
    """
    spec = spec_for(kind, model, directory, prompt, mode, instructions)
    driver = kind.driver(spec)
    launch = driver.launch()
    home, private = directory / "home", directory / "private"
    for path in (home, private / "tmp", Path(spec.cwd)):
        path.mkdir(parents=True, exist_ok=True)
    for name, content in home_files(kind.name).items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(content)
    for name, data in launch.files.items():
        (private / name).write_bytes(data)
    placed = {name: value.replace("{private}", str(private)) for name, value in launch.env.items()}
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    whole_env = passed | {"HOME": str(home), "TMPDIR": str(private / "tmp")} | QUIET | dict(spec.host_env)
    run = Rehearsal(driver, spec, launch)
    try:
        with anyio.fail_after(within_s):
            await _play(run, private, {**whole_env, **placed, **(env or {})}, watch)
    except TimeoutError as error:
        said = "\n".join(repr(record)[:600] for record in run.records[-20:])
        raise AssertionError(f"{kind.name} did not end within {within_s} s:\n{said}") from error
    finally:
        for pid in left_behind(directory):
            os.kill(pid, signal.SIGKILL)
    return run


async def _play(run: Rehearsal, private: Path, env: Mapping[str, str], watch: Watcher) -> None:
    launch = run.launch
    argv = [part.replace("{private}", str(private)) for part in launch.argv]
    stdin = subprocess.DEVNULL if launch.stdin_mode is StdinMode.NULL else subprocess.PIPE
    with (private / "stdout").open("wb") as file:
        stdout = file if launch.stdout_to_file else subprocess.PIPE
        process = await anyio.open_process(
            argv, cwd=run.spec.cwd, env=dict(env), stdin=stdin, stdout=stdout, stderr=subprocess.PIPE
        )
    stage = _Stage(run, watch, process)
    try:
        async with anyio.create_task_group() as listeners:
            assert process.stderr is not None
            listeners.start_soon(stage.listen, Stream.ERR, process.stderr)
            if process.stdout is not None:
                listeners.start_soon(stage.listen, Stream.OUT, process.stdout)
            async with anyio.create_task_group() as talking:
                if launch.stdin_mode is StdinMode.PIPE:
                    talking.start_soon(stage.talk)
                elif process.stdin is not None:
                    await process.stdin.send(launch.stdin)
                    await process.stdin.aclose()
                talking.start_soon(_end, stage)
                await process.wait()
                talking.cancel_scope.cancel()
        if launch.stdout_to_file:
            for line in (private / "stdout").read_bytes().split(b"\n")[:-1]:
                stage.hear_line(Stream.OUT, line)
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
            await process.aclose()
    run.code = process.returncode
    stage.hear(Stream.EXIT, b'{"code":%d}' % (run.code or 0))


async def _end(stage: _Stage) -> None:
    """When the conversation is over the program may end by itself for a while; then it is ended."""
    await stage.wait_done()
    await anyio.sleep(CLOSING_S)
    stage.process.terminate()
    await anyio.sleep(CLOSING_S)
    stage.process.kill()


if __name__ == "__main__":
    sys.exit("this is a part of e2e.record and of tests")
