"""What a keeper costs: until its agent runs, in memory, in lines; and many of them at once, adopted and stopped.

The manager is the one that tests use, so that nothing else is measured; the gateway is a process of its own.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

import anyio
import psutil

from bench.rounds import Measured, Side, interleave
from e2e.harness import Program, start
from gateway.runtime import attempt
from shared_types.messages import TaskAbort, TaskStart
from tests.fakes.attempts import House
from tests.fakes.manager import FakeManager

if TYPE_CHECKING:
    from bench.__main__ import Size

PAUSE_S: Final = 0.1  # the next keeper gets warm
WITHIN_S: Final = 60.0
WIDTH: Final = 80
SECRET: Final = "fgh_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGH"  # as long as a host's token
AGENTS: Final = """
[agents.clock]
argv = ["/bin/date", "+%s.%N"]
[agents.sleeper]
argv = ["/bin/sleep", "100000"]
"""


async def keeper(directory: Path, size: "Size") -> list[Measured]:
    return [
        *await starts(directory, size),
        *await memory(directory, size),
        *await many(directory, size),
        await lines(directory, size),
    ]


@asynccontextmanager
async def gateway(manager: FakeManager, home: Path, *, slots: int = 1, warm: int = 1) -> AsyncIterator[Program]:
    """One that is connected. Killed at the end, as by a crash."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "gateway.toml").write_text(AGENTS)
    before = len(manager.greetings)
    env = {
        "GATEWAY_SERVER_URL": manager.url,
        "GATEWAY_AUTH_TOKEN": manager.token,
        "GATEWAY_ONLY_AGENTS": "clock,sleeper",
        "GATEWAY_MAX_CONCURRENT": str(slots),
        "GATEWAY_WARM_KEEPERS": str(warm),
        "LOG_LEVEL": "warning",
    }
    program = await start("gateway", ["gateway", "--print-ready"], home=home, env=env, log=home.with_suffix(".log"))
    await manager.wait_connected(before + 1)
    try:
        yield program
    finally:
        await program.kill()


async def starts(directory: Path, size: "Size") -> list[Measured]:
    """From writing `task:start` to the agent's own first look at the clock."""
    manager = FakeManager(starts=False)
    number = 0

    async def one() -> float:
        nonlocal number
        number += 1
        attempt = await manager.offer(f"t{number}", agent="clock")
        await manager.wait(lambda: attempt.accepted)
        await anyio.sleep(PAUSE_S)
        began = time.time_ns() / 1e9  # the agent looks at the same clock
        await manager.say(TaskStart(task_id=attempt.task_id, attempt=attempt.number))
        await manager.wait_end(attempt.task_id)
        return (float(attempt.texts("message")[0]) - began) * 1000

    def starting(name: str, warm: int) -> Callable[[], Awaitable[float]]:
        async def once() -> float:
            async with gateway(manager, directory / name, warm=warm):
                return median([await one() for _ in range(size.starts)])

        return once

    async with manager.serving():
        sides = await interleave({"warm": starting("warm", 1), "cold": starting("cold", 0)}, size.rounds)
    note = "from writing `task:start` to what `date` prints, its loading included; with and without a warm keeper"
    return [
        Measured(
            *("10. task:start to exec", "ms, median", sides["warm"], (sides["cold"],), None),
            bigger_is_better=False,
            limit=10,
            note=note,
        )
    ]


async def memory(directory: Path, size: "Size") -> list[Measured]:
    """Of a keeper whose agent has said a little, against an interpreter that does nothing."""
    resident: dict[str, list[float]] = {"fleetgate": [], "bare python": []}
    unique: dict[str, list[float]] = {"fleetgate": [], "bare python": []}
    bare = [sys.executable, "-I", "-S", "-c", "import signal; print(flush=True); signal.pause()"]
    for number in range(size.rounds):
        with House(directory / f"memory-{number}") as house:
            keeper = await house.start("lines", "--count", "1000", "--then", "hang")
            with subprocess.Popen(bare, stdout=subprocess.PIPE) as python:
                assert python.stdout is not None
                python.stdout.readline()
                for name, pid in (("fleetgate", keeper.pid), ("bare python", python.pid)):
                    used = psutil.Process(pid).memory_full_info()
                    resident[name].append(used.rss / 1024)
                    unique[name].append(used.uss / 1024)
                python.kill()
    return [
        Measured(
            *(title, "KiB", *_sides(found), None),
            bigger_is_better=False,
            limit=limit * 1024,
            note="of the keeper alone, whose agent has said 1000 lines",
        )
        for title, found, limit in (
            ("11. memory of a keeper, resident", resident, 12),
            ("11b. the same, unique to it", unique, 7),
        )
    ]


def _sides(found: dict[str, list[float]]) -> tuple[Side, tuple[Side, ...]]:
    ours, *theirs = (Side(name, tuple(values)) for name, values in found.items())
    return ours, tuple(theirs)


async def many(directory: Path, size: "Size") -> list[Measured]:
    """All slots of a host taken by agents that run; its gateway is killed, the next one adopts them, and stops them."""
    adopting: dict[str, list[float]] = {"fleetgate": [], "nothing to adopt": []}
    stopping: dict[str, list[float]] = {"fleetgate": [], "one": []}
    manager = FakeManager()
    async with manager.serving():
        for number in range(size.rounds):
            home = directory / f"many-{number}"
            async with gateway(manager, home, slots=size.agents + 1):
                names = [f"m{number}-{name}" for name in range(size.agents + 1)]
                attempts = [await manager.offer(name, agent="sleeper") for name in names]
                await manager.wait(lambda: all(attempt.started for attempt in attempts), WITHIN_S)  # noqa: B023
            before = len(manager.greetings)
            began = time.perf_counter()
            async with gateway(manager, home, slots=size.agents + 1):
                adopting["fleetgate"].append((time.perf_counter() - began) * 1000)
                assert len(manager.greetings[before].running) == size.agents + 1
                last = [attempts.pop()]
                for name, some in (("one", last), ("fleetgate", attempts)):
                    began = time.perf_counter()
                    for one in some:
                        await manager.say(TaskAbort(task_id=one.task_id, attempt=one.number))
                    await manager.wait(lambda: all(attempt.end for attempt in some), WITHIN_S)  # noqa: B023
                    stopping[name].append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            async with gateway(manager, directory / f"none-{number}"):
                adopting["nothing to adopt"].append((time.perf_counter() - began) * 1000)
    return [
        Measured(
            *(f"12. {size.agents} running agents adopted", "ms", *_sides(adopting), None),
            bigger_is_better=False,
            limit=1000 + Side("", tuple(adopting["nothing to adopt"])).median,
            note="from starting a gateway to its welcome, its greeting names all; the limit is 1 s above an idle one's",
        ),
        Measured(
            *(f"13. {size.agents} running agents stopped", "ms", *_sides(stopping), None),
            bigger_is_better=False,
            limit=1000,
            note="from the first `task:abort` to the last end, their trees gone",
        ),
    ]


async def lines(directory: Path, size: "Size") -> Measured:
    """Of one agent that floods, written down; with a secret to look for, and without."""

    def flooding(secrets: tuple[str, ...]) -> Callable[[], Awaitable[float]]:
        async def once() -> float:
            with tempfile.TemporaryDirectory(dir=directory) as home, House(Path(home) / "house") as house:
                keeper = await house.start(
                    "floods", "--count", str(size.flood_mib), "--width", str(WIDTH), secrets=secrets
                )
                facts = await keeper.wait_gone()
                written = os.stat(attempt.directory(house.home, keeper.uid) / "journal").st_size
                assert written > size.flood_mib * 2**20, "nothing was left out"
                return size.flood_mib * (2**20 // (WIDTH + 1)) / facts.duration_ms * 1000

        return once

    sides = await interleave({"nothing to mask": flooding(()), "one secret": flooding((SECRET,))}, size.rounds)
    return Measured(
        *("14. lines through one keeper", "lines/s", sides["nothing to mask"], (sides["one secret"],), None),
        note=f"{WIDTH} characters each, from a pipe to the journal; with a host's token to look for, and with nothing",
    )
