import os
import signal
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from gateway.agents.base import Stream
from gateway.core.journal import MAX_WRITE
from gateway.errors import AlreadyStarted, CannotRun, KeeperLost
from gateway.runtime import attempt
from gateway.runtime.process import Keeper, found, make, prepare
from tests.fakes.attempts import House, is_running, records, said, survivors, wait_heard, wait_until


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(tmp_path) as house:
        yield house


# --- starting and adopting ----------------------------------------------------------------------------------------


async def test_an_attempt_is_started_once(house: House):
    keeper = await house.start("exits")
    spec = house.spec(keeper.uid, "exits")

    with pytest.raises(AlreadyStarted):
        await Keeper.start(house.home, keeper.uid, spec)
    await keeper.wait_gone()
    with pytest.raises(AlreadyStarted):
        await Keeper.start(house.home, keeper.uid, spec)

    assert len(said(await records(keeper), Stream.NOTE)) >= 1


async def test_of_many_starts_at_once_one_wins(house: House):
    uid = house.uid()
    started: list[Keeper] = []
    refused: list[AlreadyStarted] = []

    async def start() -> None:
        try:
            started.append(await Keeper.start(house.home, uid, house.spec(uid, "silent")))
        except AlreadyStarted as error:
            refused.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(start)

    assert (len(started), len(refused)) == (1, 5)


async def test_what_was_given_up_is_not_started_by_a_keeper_that_comes_late(house: House):
    late = await prepare(house.home)
    uid = house.uid()
    make(house.home, uid)
    with pytest.raises(KeeperLost):
        await Keeper.adopt(house.home, uid)

    with pytest.raises(AlreadyStarted):
        await Keeper.start(house.home, uid, house.spec(uid, "silent"), lambda: late)

    assert survivors(uid) == []


async def test_a_keeper_that_waits_for_its_spec_can_be_used_or_sent_away(house: House):
    used, unused = await prepare(house.home), await prepare(house.home)
    uid = house.uid()

    keeper = await Keeper.start(house.home, uid, house.spec(uid, "exits", "--code", "3"), lambda: used)
    await unused.aclose()

    assert (await keeper.wait_gone()).code == 3


async def test_a_start_is_not_cancelled_half_way(house: House):
    uid = house.uid()

    with anyio.CancelScope() as scope:
        scope.cancel()
        await Keeper.start(house.home, uid, house.spec(uid, "silent"))

    adopted = await Keeper.adopt(house.home, uid)
    assert is_running(adopted.pid)
    assert adopted.exit_facts is None


async def test_a_home_with_a_long_name_is_no_problem(tmp_path: Path):
    with House(tmp_path / ("long" * 40)) as house:
        keeper = await house.start("echo")

        assert await keeper.write("one", b"hello\n", close=True)

        assert b"echo: hello" in said(await records(keeper))


async def test_an_attempt_that_ended_in_order_can_still_be_adopted(house: House):
    keeper = await house.start("exits", "--code", "4")
    await keeper.wait_gone()

    adopted = await Keeper.adopt(house.home, keeper.uid)

    assert adopted.exit_facts == await adopted.wait_gone()
    assert adopted.exit_facts is not None
    assert adopted.exit_facts.code == 4
    assert not await adopted.write("late", b"too late\n")
    await adopted.stop("abort", 0)


async def test_what_was_never_started_has_no_keeper(house: House):
    uid = house.uid()
    path = make(house.home, uid)

    with pytest.raises(KeeperLost):
        await Keeper.adopt(house.home, uid)

    assert attempt.void(path)
    with pytest.raises(KeeperLost):
        await Keeper.adopt(house.home, "never-heard-of")


async def test_too_much_for_stdin_is_refused_before_anything_is_started(house: House):
    with pytest.raises(CannotRun, match="too many"):
        await house.start("counts", stdin=b"x" * (MAX_WRITE + 1))

    assert found(house.home) == []


# --- writing ------------------------------------------------------------------------------------------------------


async def test_the_same_key_is_written_once_whoever_asks_and_however_often(house: House):
    keeper = await house.start("echo")
    other = await Keeper.adopt(house.home, keeper.uid)

    async def write(handle: Keeper, number: int) -> None:
        assert await handle.write(f"key-{number}", b"number %d\n" % number)

    for number in range(20):
        async with anyio.create_task_group() as group:
            for handle in (keeper, other, keeper):
                group.start_soon(write, handle, number)
    for number in range(20):  # everything again, from the start
        await write(other, number)
    await keeper.write("end", b"", close=True)

    assert said(await records(keeper))[1:-1] == [b"echo: number %d" % number for number in range(20)]


async def test_a_write_that_is_cut_off_may_be_made_again(house: House):
    keeper = await house.start("echo")

    for number in range(30):
        data = b"%d " % number + b"x" * 50_000 + b"\n"
        with anyio.move_on_after(0.0002 * number):
            await keeper.write(str(number), data)
        assert await keeper.write(str(number), data)
    await keeper.write("end", b"", close=True)

    heard = said(await records(keeper))[1:-1]
    assert [int(line.split()[1]) for line in heard] == list(range(30))


async def test_nothing_can_be_written_after_the_end(house: House):
    keeper = await house.start("echo")
    await keeper.write("end", b"", close=True)

    assert not await keeper.write("late", b"too late\n")


@pytest.mark.parametrize("key", ["", "a\0b", "x" * 257])
async def test_a_key_that_cannot_stand_in_the_journal_is_our_mistake(house: House, key: str):
    keeper = await house.start("echo")

    with pytest.raises(ValueError, match="cannot be written"):
        await keeper.write(key, b"")


# --- the end ------------------------------------------------------------------------------------------------------


async def test_everybody_who_waits_hears_of_the_end(house: House):
    keeper = await house.start("echo", "--code", "2")
    codes: list[int | None] = []

    async def wait() -> None:
        codes.append((await keeper.wait_gone()).code)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(wait)
        await wait_heard(keeper, b"ready")
        await keeper.write("end", b"", close=True)

    assert codes == [2, 2, 2]
    assert not is_running(keeper.pid)


async def test_waiting_may_be_cancelled(house: House):
    keeper = await house.start("echo")

    with anyio.move_on_after(0.05) as scope:
        await keeper.wait_gone()

    assert scope.cancelled_caught
    assert is_running(keeper.pid)


async def test_waiting_for_a_keeper_that_is_killed_ends_and_leaves_nothing(house: House):
    keeper = await house.start("forks-and-setsids", "--then", "hang")
    await wait_heard(keeper, b"left")
    lost: list[KeeperLost] = []

    async def wait() -> None:
        with pytest.raises(KeeperLost) as error:
            await keeper.wait_gone()
        lost.append(error.value)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        os.kill(keeper.pid, signal.SIGKILL)

    assert len(lost) == 1
    assert survivors(keeper.uid) == []


async def test_the_end_is_known_when_the_keeper_died_right_after_writing_it_down(house: House):
    keeper = await house.start("exits", "--code", "8")
    await keeper.wait_gone()
    (keeper.path / "exit.json").unlink()

    adopted = await Keeper.adopt(house.home, keeper.uid)

    assert adopted.exit_facts is not None
    assert adopted.exit_facts.code == 8


async def test_another_process_with_the_keepers_number_is_not_taken_for_it(house: House):
    keeper = await house.start("exits")
    await keeper.wait_gone()
    impostor = Keeper(house.home, keeper.uid, os.getpid(), 1)

    assert (await impostor.wait_gone()).code == 0


async def test_a_handle_shows_who_it_is(house: House):
    keeper = await house.start("echo")

    assert repr(keeper) == f"<Keeper {keeper.uid} pid={keeper.pid} kept>"
    await keeper.stop("abort", 0)
    await wait_until(lambda: not attempt.is_kept(keeper.path))
    assert repr(keeper) == f"<Keeper {keeper.uid} pid={keeper.pid} gone>"
