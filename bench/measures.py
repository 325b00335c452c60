"""What is measured: each function starts both sides, measures them in turn, and gives ratios."""

import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

from bench.keepers import keeper
from bench.neighbours import celery_worker, free_port, redis_server
from bench.rounds import Measured, Side, interleave
from e2e.harness import Manager, Program, start, start_manager

if TYPE_CHECKING:
    from bench.__main__ import Size

EVENT_BYTES: Final = 300
PER_FRAME: Final = 50
PAUSE_MS: Final = 10  # give or take half


async def load(module: str, *arguments: object, env: Mapping[str, str] | None = None) -> dict[str, float]:
    """Run a load generator in a process of its own; what it measured."""
    argv = [sys.executable, "-m", f"bench.{module}", *map(str, arguments)]
    done = await anyio.run_process(argv, env=env, check=False)
    assert done.returncode == 0, f"{module}: {done.stderr.decode()[-4000:]}"
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def loading(
    value: str, module: str, *arguments: object, env: Mapping[str, str] | None = None
) -> Callable[[], Awaitable[float]]:
    async def once() -> float:
        return (await load(module, *arguments, env=env))[value]

    return once


@asynccontextmanager
async def running(name: str, module: str, *arguments: object, directory: Path) -> AsyncIterator[Program]:
    """One of our own helpers, ready."""
    program = await start(
        name, [f"bench.{module}", *map(str, arguments)], home=directory / name, env={}, log=directory / f"{name}.log"
    )
    try:
        yield program
    finally:
        await program.stop()


@asynccontextmanager
async def manager_with_host(directory: Path) -> AsyncIterator[Manager]:
    """A manager and one simulated host."""
    async with start_manager(directory / "manager") as manager:
        token = await manager.api.host_token("sim")
        async with running("sim", "sim_host", manager.link_url, token, "sim", directory=directory):
            await manager.api.wait_host("sim")
            yield manager


async def noop(directory: Path, size: "Size") -> list[Measured]:
    """A task that does nothing: with 64 in flight, and one at a time."""
    async with AsyncExitStack() as stack:
        manager = await stack.enter_async_context(manager_with_host(directory))
        port = await stack.enter_async_context(redis_server(directory / "redis"))
        solo = await stack.enter_async_context(celery_worker(directory, "solo", port, 0))
        prefork = await stack.enter_async_context(celery_worker(directory, "prefork", port, 1))
        ours = (manager.url, manager.token)
        many = await interleave(
            {
                "fleetgate": loading("rate", "load_fleetgate", *ours, size.tasks, 64),
                "celery solo": loading("rate", "load_celery", size.tasks // 4, 64, env=solo),
                "celery prefork": loading("rate", "load_celery", size.tasks // 4, 64, env=prefork),
            },
            size.rounds,
        )
        idle, busy = [
            await interleave(
                {
                    "fleetgate": loading("median_ms", "load_fleetgate", *ours, size.single_tasks, 1, pause),
                    "celery solo": loading("median_ms", "load_celery", size.single_tasks, 1, pause, env=solo),
                    "celery prefork": loading("median_ms", "load_celery", size.single_tasks, 1, pause, env=prefork),
                },
                size.rounds,
            )
            for pause in (PAUSE_MS, 0)
        ]
        always = ("--appendonly", "yes", "--appendfsync", "always")
        port = await stack.enter_async_context(redis_server(directory / "durable", *always))
        durable = await stack.enter_async_context(celery_worker(directory / "durable", "solo", port, 0))
        floor = free_port()
        served = running("floor", "floor", "serve", floor, directory / "floor.db", directory=directory)
        await stack.enter_async_context(served)
        await stack.enter_async_context(running("echo", "floor", "echo", floor, directory=directory))
        kept = await interleave(
            {
                "fleetgate": loading("median_ms", "load_fleetgate", *ours, size.single_tasks, 1, PAUSE_MS),
                "celery solo": loading("median_ms", "load_celery", size.single_tasks, 1, PAUSE_MS, env=durable),
                "the floor": loading("median_ms", "floor", "ask", floor, size.single_tasks, PAUSE_MS),
            },
            size.rounds,
        )
        limit = kept.pop("the floor")
    theirs = ("celery solo", "celery prefork")
    note = "POST to the final status on the fleet's SSE stream; SQLite FULL, a real link, no process spawned"

    def one_by_one(title: str, sides: Mapping[str, Side], target: float | None, about: str) -> Measured:
        rivals = tuple(side for name, side in sides.items() if name in theirs)
        return Measured(title, "ms, median", sides["fleetgate"], rivals, target, bigger_is_better=False, note=about)

    return [
        Measured(
            "1. no-op tasks, 64 in flight", "tasks/s", many["fleetgate"], tuple(many[t] for t in theirs), 5, note=note
        ),
        one_by_one(
            "2. no-op task, one at a time on an idle system", idle, 0.8, f"{note}; rests {PAUSE_MS} ms before each"
        ),
        one_by_one("2b. the same, back to back", busy, None, "for comparison: the system never comes to rest"),
        one_by_one(
            "2c. as 2, against one that keeps what it was told",
            kept,
            None,
            "for comparison: Redis with appendfsync always, where it writes nothing to disk in the others",
        ),
        Measured(
            "2d. as 2, against the floor",
            "ms, median",
            kept["fleetgate"],
            (limit,),
            None,
            bigger_is_better=False,
            note="two commits in a thread and the way there and back, and nothing else (bench/floor.py)",
        ),
    ]


async def relay(directory: Path, size: "Size") -> list[Measured]:
    """Durable events, from a host to one subscriber."""
    async with AsyncExitStack() as stack:
        manager = await stack.enter_async_context(manager_with_host(directory))
        everysec = ("--appendonly", "yes", "--appendfsync", "everysec")
        port = await stack.enter_async_context(redis_server(directory / "redis", *everysec))
        what = (size.events, PER_FRAME, EVENT_BYTES)
        sides = await interleave(
            {
                "fleetgate": loading("rate", "load_relay", manager.url, manager.token, *what),
                "redis streams": loading("rate", "load_streams", "consume", port, *what),
            },
            size.rounds,
        )
    note = (
        f"{EVENT_BYTES} B events, {PER_FRAME} a frame or pipeline; host to SSE reader, committed before it is shown, "
        "against XADD to XREAD with appendfsync everysec"
    )
    return [Measured("3. durable relay", "events/s", sides["fleetgate"], (sides["redis streams"],), 1, note=note)]


def resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1])
    raise AssertionError(f"no Rss of {pid}")


async def memory(directory: Path, size: "Size") -> list[Measured]:
    """Memory of one idle connected gateway. A fresh server each time: what was once used is not given back."""
    turn = 0

    async def grown(pid: int, url: str, tokens: dict[str, str]) -> float:
        file = directory / f"tokens-{turn}.json"
        file.write_text(json.dumps(tokens))
        before = resident_kib(pid)
        async with running(f"idle-{turn}", "load_idle", url, file, directory=directory):
            return (resident_kib(pid) - before) / len(tokens)

    async def fleetgate() -> float:
        nonlocal turn
        turn += 1
        async with start_manager(directory / f"manager-{turn}") as manager:
            names = [f"idle-{number}" for number in range(size.gateways)]
            tokens = {name: await manager.api.host_token(name) for name in names}
            return await grown(manager.program.pid, manager.link_url, tokens)

    async def bare() -> float:
        nonlocal turn
        turn += 1
        async with running(f"bare-{turn}", "bare_ws", directory=directory) as server:
            tokens = {f"idle-{number}": "none" for number in range(size.gateways)}
            return await grown(server.pid, server.ready["url"].replace("http", "ws", 1), tokens)

    sides = await interleave({"fleetgate": fleetgate, "bare uvicorn": bare}, size.rounds, warm_up=False)
    return [
        Measured(
            "5. memory per idle gateway",
            "KiB",
            sides["fleetgate"],
            (sides["bare uvicorn"],),
            2,
            bigger_is_better=False,
            note=f"{size.gateways} registered gateways, growth of Rss; without permessage-deflate on both sides",
        )
    ]


async def claim(directory: Path, size: "Size") -> list[Measured]:
    """One claim in the store, with few and with many queued tasks that no host can take."""
    from bench.claims import Queue

    async with Queue.of(directory / "few", 10) as few, Queue.of(directory / "many", size.queued) as many:

        def claiming(queue: Queue) -> Callable[[], Awaitable[float]]:
            async def once() -> float:
                times = []
                for _ in range(size.claims):
                    await queue.add_one_that_matches()
                    began = time.perf_counter()
                    await queue.claim_it()
                    times.append(time.perf_counter() - began)
                return statistics.median(times) * 1e6

            return once

        sides = await interleave({"many": claiming(many), "few": claiming(few)}, size.rounds)
    return [
        Measured(
            f"8. a claim with {size.queued:,} queued that do not match, against 10",
            "µs, median",
            sides["many"],
            (sides["few"],),
            1.5,
            bigger_is_better=False,
            note="SQLite FULL, committed",
        )
    ]


ALL: Final[dict[str, Callable[[Path, Any], Awaitable[list[Measured]]]]] = {
    "noop": noop,
    "relay": relay,
    "memory": memory,
    "claim": claim,
    "keeper": keeper,
}
