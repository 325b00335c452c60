"""Keepers that wait: taken once, refilled when told, gone with whoever keeps them warm."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from gateway.core.journal import MAX_WRITE
from gateway.errors import AlreadyStarted, CannotRun, KeeperLost
from gateway.runtime import process
from gateway.runtime.process import Keeper
from gateway.runtime.warm import WarmKeepers
from tests.fakes.attempts import House, wait_until


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(tmp_path) as house:
        yield house


def keepers_of(home: Path) -> set[int]:
    """Processes that run the keeper of this home: two for each that waits, one for each that has an agent."""
    program, found = str(home / "keeper").encode(), set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and program in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@asynccontextmanager
async def kept_warm(house: House, count: int) -> AsyncIterator[WarmKeepers]:
    warm = WarmKeepers(house.home, count)
    async with anyio.create_task_group() as group:
        group.start_soon(warm.run)
        await wait_until(lambda: len(warm._ready) == count)
        yield warm
        group.cancel_scope.cancel()


async def test_as_many_as_asked_for_wait_and_none_is_left_at_the_end(house: House):
    async with kept_warm(house, 3):
        await wait_until(lambda: len(keepers_of(house.home)) == 6)

    await wait_until(lambda: not keepers_of(house.home))


async def test_one_that_is_taken_is_replaced_when_its_start_is_over(house: House):
    async with kept_warm(house, 1) as warm:
        taken = warm.take()
        assert taken is not None
        assert warm.take() is None
        uid = house.uid()

        keeper = await Keeper.start(house.home, uid, house.spec(uid, "exits", "--code", "3"), lambda: taken)
        assert not warm._ready
        warm.refill()
        await wait_until(lambda: len(warm._ready) == 1)

        assert (await keeper.wait_gone()).code == 3
        assert warm.take() is not taken


async def test_nobody_waits_where_the_owner_wants_none(house: House):
    async with kept_warm(house, 0) as warm:
        warm.refill()

        assert warm.take() is None
    assert keepers_of(house.home) == set()


async def test_one_that_was_killed_is_not_taken_and_replaced(house: House):
    async with kept_warm(house, 1) as warm:
        (ready,) = warm._ready
        await wait_until(lambda: len(keepers_of(house.home)) == 2)
        for pid in keepers_of(house.home):
            os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: not ready.is_alive)

        assert warm.take() is None
        warm.refill()
        await wait_until(lambda: len(warm._ready) == 1)


@pytest.mark.parametrize("is_first_spared", [True, False])
async def test_a_start_does_not_fail_because_a_warm_keeper_died(house: House, is_first_spared: bool):
    async with kept_warm(house, 1) as warm:
        (ready,) = warm._ready
        await wait_until(lambda: len(keepers_of(house.home)) == 2)
        uid = house.uid()
        for pid in keepers_of(house.home) - ({ready._process.pid} if is_first_spared else set()):
            os.kill(pid, signal.SIGKILL)

        keeper = await Keeper.start(house.home, uid, house.spec(uid, "exits", "--code", "3"), lambda: ready)

        assert (await keeper.wait_gone()).code == 3
    await wait_until(lambda: not keepers_of(house.home))


async def test_a_keeper_goes_on_though_its_first_process_was_killed_and_the_attempt_is_found_started(house: House):
    async with kept_warm(house, 1) as warm:
        (ready,) = warm._ready
        await wait_until(lambda: len(keepers_of(house.home)) == 2)
        os.kill(ready._process.pid, signal.SIGKILL)
        uid = house.uid()

        with pytest.raises(AlreadyStarted):
            await Keeper.start(house.home, uid, house.spec(uid, "exits", "--code", "3"), lambda: ready)

        assert (await (await Keeper.adopt(house.home, uid)).wait_gone()).code == 3


async def test_a_warm_keeper_that_died_after_its_work_is_found_by_the_next(house: House, monkeypatch):
    hand_over = process.Ready.hand_over

    async def and_lose_the_report(ready: process.Ready, spec: bytes) -> tuple[int, bytes, bytes]:
        await hand_over(ready, spec)
        monkeypatch.setattr(process.Ready, "hand_over", hand_over)
        return -9, b"", b""

    monkeypatch.setattr(process.Ready, "hand_over", and_lose_the_report)
    async with kept_warm(house, 1) as warm:
        uid = house.uid()
        with pytest.raises(AlreadyStarted):
            await Keeper.start(house.home, uid, house.spec(uid, "silent"), warm.take)

    assert (await Keeper.adopt(house.home, uid)).exit_facts is None


async def test_where_no_other_can_be_started_nobody_claims_that_nothing_runs(house: House, monkeypatch):
    async def no_more(home: Path) -> process.Ready:
        raise BlockingIOError("fork")

    async with kept_warm(house, 1) as warm:
        (ready,) = warm._ready
        for pid in keepers_of(house.home):
            os.kill(pid, signal.SIGKILL)
        monkeypatch.setattr(process, "prepare", no_more)
        uid = house.uid()

        with pytest.raises(KeeperLost):
            await Keeper.start(house.home, uid, house.spec(uid, "silent"), lambda: ready)


async def test_what_cannot_be_started_takes_no_warm_keeper(house: House):
    async with kept_warm(house, 1) as warm:
        uid = house.uid()
        with pytest.raises(CannotRun):
            await Keeper.start(house.home, uid, house.spec(uid, stdin=b"x" * (MAX_WRITE + 1)), warm.take)

        assert len(warm._ready) == 1


async def test_a_system_that_starts_none_is_asked_again_and_meanwhile_starts_are_cold(house: House, monkeypatch):
    asked, prepare = [], process.prepare

    async def fail_once(home: Path) -> process.Ready:
        asked.append(home)
        if len(asked) == 1:
            raise BlockingIOError("fork")
        return await prepare(home)

    monkeypatch.setattr("gateway.runtime.warm.prepare", fail_once)
    monkeypatch.setattr("gateway.runtime.warm.RETRY_S", 0.01)
    async with kept_warm(house, 1):
        assert len(asked) == 2


GATEWAY = """
import anyio, sys
from pathlib import Path
from gateway.runtime.warm import WarmKeepers

async def main():
    warm = WarmKeepers(Path(sys.argv[1]), 2)
    async with anyio.create_task_group() as group:
        group.start_soon(warm.run)
        while len(warm._ready) < 2:
            await anyio.sleep(0.005)
        print("warm", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


async def test_when_the_gateway_is_killed_those_that_wait_end_by_themselves(house: House):
    argv = [sys.executable, "-c", GATEWAY, str(house.home)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as gateway:
        assert gateway.stdout is not None
        assert gateway.stdout.readline() == b"warm\n"
        await wait_until(lambda: len(keepers_of(house.home)) == 4)
        gateway.kill()

    await wait_until(lambda: not keepers_of(house.home))
