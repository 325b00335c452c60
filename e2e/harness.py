"""Real manager and gateway processes for tests: started on port 0 with a home of their own, stopped by their pid.

    async with start_manager(tmp_path) as manager, start_gateway(manager, tmp_path / "h1", host_id="h1"):
        task = await manager.api.submit(prompt="hi", agentType="gemini")
        ended = await manager.api.wait_final(task["id"])

A program is ready when it prints one line of JSON (`--print-ready`). What it says goes to a file that a failure
quotes. When a gateway is stopped, no process that it or its keepers started may be left: that is asserted here,
for every test, and what is left is killed so that the next test is not blamed for it.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import anyio
import anyio.to_thread
import httpx

Json: TypeAlias = dict[str, Any]

READY_WITHIN_S: Final = 30.0
STOPPED_WITHIN_S: Final = 30.0
GONE_WITHIN_S: Final = 15.0
COOKIE: Final = b"FLEETGATE_ATTEMPT="
FINAL: Final = frozenset({"completed", "failed", "timeout", "aborted", "lost", "expired"})
# Nothing else of our environment reaches a program under test.
PASSED_ON: Final = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE")


async def until(condition: Any, within_s: float, what: str, every_s: float = 0.02) -> Any:
    """The first true value of `condition()`, which may be a coroutine function; fails after `within_s`."""
    with anyio.move_on_after(within_s):
        while True:
            value = condition()
            if hasattr(value, "__await__"):
                value = await value
            if value:
                return value
            await anyio.sleep(every_s)
    raise AssertionError(f"not within {within_s} s: {what}")


# --- programs ---------------------------------------------------------------------------------------


@dataclass
class Program:
    """One process of ours. `ready` is the line it printed; `log` a file with the rest of what it says."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    ready: Json = field(default_factory=dict)

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-8000:]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def wait(self, within_s: float = STOPPED_WITHIN_S) -> int:
        """Its exit code."""
        await until(lambda: self.process.poll() is not None, within_s, f"{self.name} ends\n{self.said()}")
        assert self.process.returncode is not None
        return self.process.returncode

    async def stop(self) -> int:
        """TERM, as a service manager does it; its exit code."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return await self.wait()

    async def kill(self) -> None:
        """As a crash or a power cut does it."""
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
        await self.wait()


def environment(home: Path, extra: Mapping[str, str]) -> dict[str, str]:
    ours = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {**ours, "HOME": str(home), "FLEETGATE_HOME": str(home), "PYTHONUNBUFFERED": "1", **extra}


async def start(name: str, argv: Collection[str], *, home: Path, env: Mapping[str, str], log: Path) -> Program:
    """Start `python -m <argv>` and wait for its line of JSON."""
    program = launch(name, argv, home=home, env=env, log=log)
    await wait_ready(program)
    return program


def launch(name: str, argv: Collection[str], *, home: Path, env: Mapping[str, str], log: Path) -> Program:
    """Start `python -m <argv>`."""
    home.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", *argv],
            cwd=home,
            env=environment(home, env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    program = Program(name, process, log)
    threading.Thread(target=_listen, args=(program,), daemon=True).start()
    return program


async def wait_ready(program: Program, within_s: float = READY_WITHIN_S) -> None:
    """It has printed its line; one that has not in time is killed."""
    process, name = program.process, program.name
    try:
        await until(lambda: program.ready or process.poll() is not None, within_s, f"{name} is ready\n{program.said()}")
    except AssertionError:
        await program.kill()
        raise
    assert program.ready, f"{name} ended with {process.returncode} before it was ready:\n{program.said()}"


def _listen(program: Program) -> None:
    """Keep what it prints; the first line of JSON says that it is ready."""
    assert program.process.stdout is not None
    with program.process.stdout as stdout, program.log.open("ab") as log:
        for line in stdout:
            log.write(line)
            log.flush()
            if not program.ready and line.startswith(b"{"):
                program.ready = json.loads(line)


# --- the API, as a plain program would use it -------------------------------------------------------


@dataclass
class Api:
    """The manager's HTTP by its documentation alone, without the SDK: what tests say is what goes over the wire."""

    http: httpx.AsyncClient

    async def json(self, method: str, path: str, body: Any = None, *, status: int | None = None, **more: Any) -> Any:
        answer = await self.http.request(method, path, json=body, **more)
        expected = range(200, 300) if status is None else [status]
        assert answer.status_code in expected, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    async def submit(self, **body: Any) -> Json:
        task: Json = await self.json("POST", "/api/tasks", body, status=201)
        return task

    async def task(self, task_id: str) -> Json:
        task: Json = await self.json("GET", f"/api/tasks/{task_id}")
        return task

    async def abort(self, task_id: str, **body: Any) -> None:
        await self.json("POST", f"/api/tasks/{task_id}/abort", body, status=202)

    async def input(self, task_id: str, content: str, **body: Any) -> Json:
        receipt: Json = await self.json("POST", f"/api/tasks/{task_id}/input", {"content": content, **body}, status=202)
        return receipt

    async def events(self, task_id: str, after: int = 0) -> list[Json]:
        """All the events after an id, page by page."""
        events: list[Json] = []
        while True:
            page = await self.json("GET", f"/api/tasks/{task_id}/events", params={"after": after})
            events += page["items"]
            if not page["hasMore"]:
                return events
            after = events[-1]["id"]

    async def wait_status(self, task_id: str, *wanted: str, within_s: float = 60.0) -> Json:
        task: Json = {}

        async def reached() -> bool:
            task.update(await self.task(task_id))
            return task["status"] in wanted or task["status"] in FINAL

        await until(reached, within_s, f"{task_id} is {' or '.join(wanted)}; it is {task.get('status')}", every_s=0.05)
        assert task["status"] in wanted, task
        return task

    async def wait_final(self, task_id: str, within_s: float = 60.0) -> Json:
        return await self.wait_status(task_id, *FINAL, within_s=within_s)

    async def wait_event(self, task_id: str, within_s: float = 60.0, **wanted: Any) -> Json:
        """The first event with these fields."""

        async def found() -> Json | None:
            events = await self.events(task_id)
            return next((e for e in events if all(e.get(name) == value for name, value in wanted.items())), None)

        event: Json = await until(found, within_s, f"{task_id} has an event with {wanted}", every_s=0.05)
        return event

    async def hosts(self) -> dict[str, Json]:
        return {host["hostId"]: host for host in await self.json("GET", "/api/hosts")}

    async def wait_host(self, host_id: str, *statuses: str, within_s: float = 30.0) -> Json:
        async def there() -> Json | None:
            host = (await self.hosts()).get(host_id)
            return host if host and host["status"] in (statuses or ("online", "busy")) else None

        host: Json = await until(there, within_s, f"host {host_id} is {' or '.join(statuses) or 'connected'}")
        return host

    async def host_token(self, host_id: str) -> str:
        """A new token for the link, bound to this host."""
        body = {"name": host_id, "kind": "host", "hostId": host_id}
        created: Json = await self.json("POST", "/api/auth/tokens", body, status=201)
        return str(created["token"])

    @asynccontextmanager
    async def stream(self, path: str, after: int | None = None) -> AsyncIterator[AsyncIterator[tuple[str, Json]]]:
        """An SSE stream: its frames as (event name or "message", data); events carry their id in the data."""
        headers = {"Accept": "text/event-stream"} | ({} if after is None else {"Last-Event-ID": str(after)})
        async with self.http.stream("GET", path, headers=headers, timeout=httpx.Timeout(10, read=60)) as answer:
            assert answer.status_code == 200, f"{answer.status_code} {await answer.aread()!r}"
            yield _frames(answer)


async def _frames(answer: httpx.Response) -> AsyncIterator[tuple[str, Json]]:
    name, data = "message", ""
    async for line in answer.aiter_lines():
        field_name, _, value = line.partition(": ")
        if field_name == "event":
            name = value
        elif field_name == "data":
            data += value
        elif not line and data:
            yield name, json.loads(data)
            name, data = "message", ""


# --- manager and gateway ----------------------------------------------------------------------------


@dataclass
class Manager:
    program: Program
    url: str
    token: str
    api: Api
    home: Path

    @property
    def link_url(self) -> str:
        return self.url.replace("http", "ws", 1)


@dataclass
class Gateway:
    program: Program
    host_id: str
    token: str
    home: Path

    def attempts(self) -> set[str]:
        """Names of the attempts it still keeps."""
        directory = self.home / "attempts"
        return {entry.name for entry in directory.iterdir() if entry.is_dir()} if directory.exists() else set()


@asynccontextmanager
async def start_manager(home: Path, *, port: int = 0, env: Mapping[str, str] | None = None) -> AsyncIterator[Manager]:
    """A manager with its database in `home`; started there again it finds what it had. Stopped at the end."""
    token_file = home / "token"
    settings = {
        "MANAGER_HOST": "127.0.0.1",
        "MANAGER_PORT": str(port),
        "MANAGER_BOOTSTRAP_TOKEN_FILE": str(token_file),
        **(env or {}),
    }
    log = home / "manager.log"
    program = await start("manager", ["manager", "--print-ready"], home=home, env=settings, log=log)
    url, token = program.ready["url"].rstrip("/"), token_file.read_text().strip()
    try:
        async with httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False
        ) as http:
            yield Manager(program, url, token, Api(http), home)
    finally:
        with anyio.CancelScope(shield=True):
            code = await program.stop()
    assert code in (0, -signal.SIGKILL), f"the manager ended with {code}\n{program.said()}"


@asynccontextmanager
async def start_gateway(
    manager: Manager,
    home: Path,
    *,
    host_id: str = "h1",
    slots: int = 2,
    cwd: Path | None = None,
    token: str | None = None,
    env: Mapping[str, str] | None = None,
    argv: Collection[str] = (),
) -> AsyncIterator[Gateway]:
    """A gateway that is connected. Stopped at the end; then none of the processes it started may be left."""
    token = token or await manager.api.host_token(host_id)
    async with start_gateway_at(
        manager.link_url, home, host_id=host_id, slots=slots, cwd=cwd, token=token, env=env, argv=argv
    ) as gateway:
        await manager.api.wait_host(host_id)
        yield gateway


@asynccontextmanager
async def start_gateway_at(
    url: str,
    home: Path,
    *,
    host_id: str,
    token: str,
    slots: int = 2,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    argv: Collection[str] = (),
) -> AsyncIterator[Gateway]:
    """A gateway of any manager: `url` is ws://host:port."""
    work = cwd or home / "work"
    work.mkdir(parents=True, exist_ok=True)
    settings = {
        "GATEWAY_SERVER_URL": url,
        "GATEWAY_HOST_ID": host_id,
        "GATEWAY_HOST_NAME": host_id,
        "GATEWAY_AUTH_TOKEN": token,
        "GATEWAY_MAX_CONCURRENT": str(slots),
        "GATEWAY_CWD": str(work),
        **(env or {}),
    }
    log = home / "gateway.log"
    program = await start(f"gateway {host_id}", ["gateway", "--print-ready", *argv], home=home, env=settings, log=log)
    gateway = Gateway(program, host_id, token, home)
    try:
        yield gateway
    finally:
        with anyio.CancelScope(shield=True):
            await program.stop()
            left = await wait_nothing_left(gateway)
    assert not left, f"processes left behind: {left}\n{program.said()}"


# --- nothing left behind ----------------------------------------------------------------------------


def left_behind(home: Path, attempts: Collection[str] = ()) -> dict[int, str]:
    """Processes that bear the cookie of one of these attempts, or this home in what they were started with."""
    marks = [os.fsencode(home), *(COOKIE + attempt.encode() for attempt in attempts)]
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            started_with = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it is gone by now, or not ours
        if state != "Z" and any(mark in started_with for mark in marks):
            found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


async def wait_nothing_left(gateway: Gateway) -> dict[int, str]:
    """Give keepers their time to end; what is left then is killed, by its pid, and told."""
    attempts = gateway.attempts()
    try:
        await until(lambda: not left_behind(gateway.home, attempts), GONE_WITHIN_S, "all processes are gone")
    except AssertionError:
        left = left_behind(gateway.home, attempts)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return left
    return {}


# --- the real agents --------------------------------------------------------------------------------


def agents_directory() -> Path:
    """Where the three agent CLIs are installed. A missing one is an error, never a skip."""
    named = os.environ.get("FLEETGATE_AGENTS_DIR")
    if not named:
        dev = Path(__file__).parents[1] / "dev"
        asked = subprocess.run([sys.executable, dev, "where"], capture_output=True, text=True, check=True)
        named = json.loads(asked.stdout)["agents"]
    directory = Path(named)
    assert (directory / "node_modules").is_dir(), f"no agent CLIs in {directory}: run ./dev install"
    return directory


def agent_executable(agent: str) -> Path:
    """The program of `opencode`, `claude-code` or `gemini`."""
    modules = agents_directory() / "node_modules"
    patterns = {
        "opencode": "opencode-linux-*/bin/opencode",
        "claude-code": "@anthropic-ai/claude-code-linux-*/claude",
        "gemini": ".bin/gemini",
    }
    found = sorted(modules.glob(patterns[agent]))
    assert found, f"{agent} is not installed in {modules}: run ./dev install"
    return found[0]
