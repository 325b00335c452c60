"""A world to break: a real manager, real gateways, real keepers, and agents that misbehave on purpose.

    async with a_world(tmp_path, hosts=1) as world:
        task = await world.submit("lines --count 1000 --rate 100 --code 42")
        await world.hosts["h1"].kill()          # kill -9; agents go on
        await world.hosts["h1"].start()         # in the same home: it adopts them
        ended = await world.api.wait_final(task["id"])

What runs is tests/fakes/agent.py: a task's prompt is its command (`fake`; `talk` reads follow-up input, too). Each
agent signs a file when it starts, so that a second start of an attempt cannot hide.

When a world ends, three things are asserted for every test: no task ever had two live attempts (`Cookies`, 20 looks a
second), no attempt was started twice, and no process is left behind.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import httpx

from e2e.harness import (
    COOKIE,
    Api,
    Json,
    Program,
    launch,
    left_behind,
    until,
    wait_ready,
)

AGENT: Final = Path(__file__).parents[2] / "tests" / "fakes" / "agent.py"
IS_LONG: Final = os.environ.get("FLEETGATE_CHAOS") == "long"
LOOKS_A_SECOND: Final = 20
GONE_WITHIN_S: Final = 20.0
_OF_TASK: Final = b"FLEETGATE_TASK_ID="

T = TypeVar("T")


def time_of_day() -> float:
    """Seconds since the epoch."""
    return time.clock_gettime(time.CLOCK_REALTIME)


def lasting(short: T, long: T) -> T:
    """The first in every run of the tests, the second in `./dev chaos`."""
    return long if IS_LONG else short


# --- /proc --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """A living process of an attempt. `started` (clock ticks since boot) makes the pid an identity."""

    pid: int
    started: int
    task: str
    attempt: str
    parent: int


def look_at(pid: int, root: bytes = b"") -> Seen | None:
    """None for one that is gone, dying, no attempt's, or of another world than that in `root`."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        if COOKIE not in environ or root not in environ:
            return None
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    names = dict(word.partition(b"=")[::2] for word in environ.split(b"\0"))
    task, attempt = names.get(_OF_TASK[:-1], b""), names.get(COOKIE[:-1], b"")
    if stat[0] in "ZX" or not attempt:
        return None
    return Seen(pid, int(stat[19]), task.decode(), attempt.decode(), int(stat[1]))


def processes(root: bytes = b"") -> list[Seen]:
    """All that bear the cookie of an attempt now."""
    return [seen for name in os.listdir("/proc") if name.isdecimal() and (seen := look_at(int(name), root))]


def memory_mb(pid: int) -> float:
    """Resident, in MB; 0 for one that is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Cookies:
    """Looks at all processes, 20 times a second, in a thread of its own. `overlaps`: two attempts of one task that
    were alive at the same moment. A look takes time, so what it suspects it looks at again: who was there before and
    after was there in between.
    """

    def __init__(self, root: Path) -> None:
        self.looks = 0
        self._root = os.fsencode(root)  # agents have a HOME in it: there may be other worlds on this machine
        self.overlaps: list[tuple[Seen, Seen]] = []
        self.lived: dict[str, set[int]] = {}  # attempt -> pids that were seen
        self._end = threading.Event()

    @contextmanager
    def looking(self) -> Iterator["Cookies"]:
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._end.set()
            thread.join()

    def _run(self) -> None:
        while not self._end.wait(1 / LOOKS_A_SECOND):
            self._look()

    def _look(self) -> None:
        first: dict[str, Seen] = {}
        for seen in processes(self._root):
            self.lived.setdefault(seen.attempt, set()).add(seen.pid)
            other = first.setdefault(seen.task, seen) if seen.task else seen
            if other.attempt != seen.attempt and look_at(other.pid) == other and look_at(seen.pid) == seen:
                self.overlaps.append((other, seen))
        self.looks += 1


# --- programs that can be killed and started again ----------------------------------------------------


@dataclass
class Life:
    """One program of ours over all its processes, in one home."""

    name: str
    argv: Sequence[str]
    home: Path
    log: Path  # not in the home: that may be a disk that a test fills
    env: dict[str, str]
    program: Program | None = None
    starts: int = 0

    @property
    def pid(self) -> int:
        assert self.program is not None, f"{self.name} was started"
        return self.program.pid

    @property
    def is_alive(self) -> bool:
        return self.program is not None and self.program.process.poll() is None

    async def start(self, *, wait: bool = True, **env: str) -> None:
        """Where it was. `env` is for this process only. Without `wait` it may never become ready."""
        assert not self.is_alive, f"{self.name} lives"
        self.starts += 1
        self.program = launch(self.name, self.argv, home=self.home, env={**self.env, **env}, log=self.log)
        if wait:
            await wait_ready(self.program)

    async def start_to_crash(self, point: str, **env: str) -> None:
        """It will die at this place of its code (`gateway/runtime/crash.py`)."""
        home = str(self.home)
        await self.start(FLEETGATE_CRASH_AT=point, FLEETGATE_CRASH_HOME=home, **env)

    async def wait_crashed(self, within_s: float = 30.0) -> None:
        assert self.program is not None
        assert await self.program.wait(within_s) == -signal.SIGKILL, self.program.said()

    async def kill(self) -> None:
        """`kill -9`."""
        assert self.program is not None
        await self.program.kill()

    async def stop(self) -> int | None:
        return None if self.program is None else await self.program.stop()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def said(self) -> str:
        return "" if self.program is None else self.program.said()


@dataclass
class Host(Life):
    """A gateway. `work` is where its agents work."""

    host_id: str = ""
    work: Path = Path()

    def attempts(self) -> dict[str, Path]:
        """The directories of attempts that it keeps, by uid."""
        directory = self.home / "attempts"
        return (
            {one.name: one for one in directory.iterdir() if (one / "attempt").exists()} if directory.exists() else {}
        )

    def attempt_of(self, task_id: str) -> Path | None:
        """The directory of this task's attempt, once it is there."""
        for path in self.attempts().values():
            try:
                if json.loads((path / "task.json").read_text())["taskId"] == task_id:
                    return path
            except (OSError, ValueError):
                continue  # half written, or gone by now
        return None

    def keeper_of(self, task_id: str) -> int:
        """The pid of the keeper."""
        path = self.attempt_of(task_id)
        assert path is not None, f"{self.name} keeps {task_id}"
        return int(json.loads((path / "state.json").read_text())["pid"])


@dataclass
class Start:
    task: str
    attempt: str
    pid: int


@dataclass
class World:
    root: Path
    manager: Life
    hosts: dict[str, Host]
    cookies: Cookies
    token: str = ""
    url: str = ""
    chance: random.Random = field(default_factory=lambda: random.Random(20_250_101))
    _api: Api | None = None

    @property
    def api(self) -> Api:
        assert self._api is not None
        return self._api

    @property
    def host(self) -> Host:
        """The only one."""
        (host,) = self.hosts.values()
        return host

    async def submit(self, command: str, *, agent: str = "fake", host: str | None = None, **more: Any) -> Json:
        """`command` is one of tests/fakes/agent.py, with its flags."""
        wish = {} if host is None else {"hostId": host}
        return await self.api.submit(prompt=command + "\n", agentType=agent, **wish, **more)

    async def add_host(
        self, host_id: str, *, slots: int = 8, url: str | None = None, start: bool = True, **env: str
    ) -> Host:
        """A gateway in a home of its own, connected when it returns. `url`: where it dials (a proxy, say)."""
        url = url or self.url.replace("http", "ws", 1)
        token = await self.api.host_token(host_id)
        host = host_in(self.root, host_id, url=url, token=token, slots=slots, **env)
        self.hosts[host_id] = host
        if start:
            await host.start()
            await self.api.wait_host(host_id)
        return host

    def signed(self, task_id: str | None = None) -> list[Start]:
        """Each start of an agent, as the agent itself wrote it down."""
        file = self.root / "signed"
        lines = file.read_text().splitlines() if file.exists() else []
        starts = [Start(task, attempt, int(pid)) for task, attempt, pid in map(str.split, lines)]
        return [start for start in starts if task_id in (None, start.task)]

    async def wait_signed(self, task_id: str, within_s: float = 60.0) -> Start:
        """The agent runs."""
        starts: list[Start] = await until(lambda: self.signed(task_id), within_s, f"an agent of {task_id} runs")
        return starts[-1]

    async def lines(self, task_id: str) -> list[str]:
        """What the agent said, line by line."""
        return said(await self.api.events(task_id))

    async def wait_lines(self, task_id: str, count: int, within_s: float = 60.0) -> None:
        """So many lines have reached the manager."""

        async def enough() -> bool:
            return len(await self.lines(task_id)) >= count

        await until(enough, within_s, f"{count} lines of {task_id}", every_s=0.1)

    async def kill_and_start(self, life: Life) -> float:
        """Seconds until it was ready again."""
        await life.kill()
        began = time.monotonic()
        await life.start()
        return time.monotonic() - began


def said(events: Sequence[Json]) -> list[str]:
    """The lines that an agent said, out of the events of its log, which may hold several in one."""
    deltas = (event["content"] for event in events if event["type"] == "message" and event["data"]["delta"])
    return "".join(deltas).splitlines()


def numbered(count: int) -> list[str]:
    """What `lines --count N` says."""
    return [f"line {number}" for number in range(count)]


def is_whole(ids: Sequence[int]) -> bool:
    """1, 2, 3 ... without a gap and without a repeat."""
    return list(ids) == list(range(1, len(ids) + 1))


def host_in(root: Path, host_id: str, *, url: str, token: str, slots: int = 8, **env: str) -> Host:
    """A gateway that was not started yet; its agents sign `root/signed`."""
    home, work = root / host_id, root / f"work-{host_id}"
    host = Host(
        f"gateway {host_id}",
        ["gateway", "--print-ready"],
        home,
        root / f"{host_id}.log",
        {
            "GATEWAY_SERVER_URL": url,
            "GATEWAY_HOST_ID": host_id,
            "GATEWAY_HOST_NAME": host_id,
            "GATEWAY_AUTH_TOKEN": token,
            "GATEWAY_MAX_CONCURRENT": str(slots),
            "GATEWAY_CWD": str(work),
            "GATEWAY_ONLY_AGENTS": "fake,talk",
            **env,
        },
        host_id=host_id,
        work=work,
    )
    furnish(host, root / "signed")
    return host


def furnish(host: Host, signed: Path) -> None:
    """What a host's owner has in the gateway's home."""
    for directory in (host.home, host.work):
        directory.mkdir(parents=True, exist_ok=True)
    argv = json.dumps([sys.executable, "-I", "-S", str(AGENT), "--sign", str(signed), "told"])
    (host.home / "gateway.toml").write_text(
        f'[agents.fake]\nargv = {argv}\n\n[agents.talk]\nargv = {argv}\ninput = "lines"\n'
    )


@asynccontextmanager
async def a_world(
    root: Path,
    *,
    hosts: int = 1,
    slots: int = 8,
    manager_env: Mapping[str, str] | None = None,
    gateway_env: Mapping[str, str] | None = None,
) -> AsyncIterator[World]:
    """Everything started; at the end everything stopped and the promises of the head of this file asserted."""
    home = root / "manager"
    token_file = home / "token"
    manager = Life(
        "manager",
        ["manager", "--print-ready"],
        home,
        root / "manager.log",
        {
            "MANAGER_HOST": "127.0.0.1",
            "MANAGER_PORT": "0",
            "MANAGER_BOOTSTRAP_TOKEN_FILE": str(token_file),
            "MANAGER_DRAIN_S": "1",
            **(manager_env or {}),
        },
    )
    world = World(root, manager, {}, Cookies(root))
    with world.cookies.looking():
        try:
            await manager.start()
            assert manager.program is not None
            world.url = manager.program.ready["url"].rstrip("/")
            world.token = token_file.read_text().strip()
            manager.env["MANAGER_PORT"] = world.url.rpartition(":")[2]  # started again it is where it was
            headers = {"Authorization": f"Bearer {world.token}"}
            async with httpx.AsyncClient(base_url=world.url, headers=headers, timeout=30, trust_env=False) as http:
                world._api = Api(http)
                for number in range(1, hosts + 1):
                    await world.add_host(f"h{number}", slots=slots, **(gateway_env or {}))
                yield world
        finally:
            with anyio.CancelScope(shield=True):
                left = await _end(world)
    assert not left, f"processes left behind: {left}"
    assert not world.cookies.overlaps, f"two attempts of one task were alive at once: {world.cookies.overlaps[:3]}"
    started = [start.attempt for start in world.signed()]
    assert len(started) == len(set(started)), f"an attempt was started twice: {world.signed()}"


async def _end(world: World) -> dict[int, str]:
    """What was left behind, and is dead now."""
    for host in world.hosts.values():
        if host.is_alive:
            host.thaw()
            await host.stop()
    if world.manager.is_alive:
        world.manager.thaw()
        await world.manager.stop()
    cookies = {attempt for host in world.hosts.values() for attempt in host.attempts()}
    homes = [*world.hosts.values(), world.manager]

    def left() -> dict[int, str]:
        return {pid: words for life in homes for pid, words in left_behind(life.home, cookies).items()}

    try:
        await until(lambda: not left(), GONE_WITHIN_S, "all processes are gone")
    except AssertionError:
        found = left()
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        return found
    return {}


# --- readers ------------------------------------------------------------------------------------------


class Follower:
    """Follows the events of one task over SSE, from an id on, through whatever happens to its connections. `cut`
    drops the connection it has.
    """

    def __init__(self, url: str, token: str, task_id: str) -> None:
        self.events: list[Json] = []
        self.connections = 0
        self.at: list[float] = []  # when each event came: the time of day in seconds
        self._url, self._headers = f"{url}/api/tasks/{task_id}/events", {"Authorization": f"Bearer {token}"}
        self._connection = anyio.CancelScope()
        self.is_over = False

    @property
    def lines(self) -> list[str]:
        return said(self.events)

    @property
    def last_id(self) -> int:
        return self.events[-1]["id"] if self.events else 0

    def cut(self) -> None:
        self._connection.cancel()

    async def run(self) -> None:
        """Until the log has ended."""
        while not self.is_over:
            with anyio.CancelScope() as self._connection:
                try:
                    await self._follow()
                except (httpx.HTTPError, OSError):
                    await anyio.sleep(0.1)

    async def _follow(self) -> None:
        headers = {**self._headers, "Accept": "text/event-stream", "Last-Event-ID": str(self.last_id)}
        timeout = httpx.Timeout(10, read=60)
        async with (
            httpx.AsyncClient(headers=headers, timeout=timeout, trust_env=False) as http,
            http.stream("GET", self._url) as answer,
        ):
            if answer.status_code == 204:
                self.is_over = True
                return
            answer.raise_for_status()
            self.connections += 1
            await self._read(answer)

    async def _read(self, answer: httpx.Response) -> None:
        name, data = "", ""
        async for line in answer.aiter_lines():
            word, _, value = line.partition(": ")
            if word == "event":
                name = value
            elif word == "data":
                data += value
            elif not line and data:
                if name == "end":
                    self.is_over = True
                    return
                if not name:
                    self.events.append(json.loads(data))
                    self.at.append(time_of_day())
                name = data = ""


@asynccontextmanager
async def following(world: World, task_id: str, url: str | None = None) -> AsyncIterator[Follower]:
    follower = Follower(url or world.url, world.token, task_id)
    async with anyio.create_task_group() as group:
        group.start_soon(follower.run)
        yield follower
        group.cancel_scope.cancel()


async def within(seconds: float, condition: Callable[[], Any], what: str) -> float:
    """Seconds until the condition held; it must in time."""
    began = time.monotonic()
    await until(condition, seconds, what, every_s=0.002)
    return time.monotonic() - began


def figures(fault: str, **numbers: object) -> None:
    """One line for people: `pytest -s` shows it, and so does `./dev chaos`."""
    told = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in numbers.items())
    print(f"\nchaos: {fault}: {told}", flush=True)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
