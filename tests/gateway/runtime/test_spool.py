import json
import os
import signal
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from gateway.core.journal import Record, Stream, encode
from gateway.errors import KeeperLost
from gateway.runtime.spool import WINDOW, Spool
from tests.fakes.attempts import House, records, said, wait_heard

EXIT = b'{"code":3,"signal":null,"stop":null,"durationMs":12}'


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(tmp_path) as house:
        yield house


def lines(*texts: bytes) -> list[Record]:
    return [Record(number, 5, Stream.OUT, text) for number, text in enumerate(texts, 1)]


def ended(found: list[Record]) -> list[Record]:
    return [*found, Record(len(found) + 1, 9, Stream.EXIT, EXIT)]


def left_behind(path: Path, found: list[Record], tail: bytes = b"") -> Spool:
    """A journal whose keeper is gone."""
    path.mkdir()
    (path / "journal").write_bytes(b"".join(map(encode, found)) + tail)
    return Spool(path)


async def read(spool: Spool, after: int = 0) -> tuple[list[Record], KeeperLost | None]:
    found: list[Record] = []
    try:
        async for batch in spool.records(after):
            found += batch
    except KeeperLost as error:
        return found, error
    return found, None


# --- journals whose keeper is gone --------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 3, 4, 9])
async def test_a_finished_journal_is_read_from_any_record_on(tmp_path: Path, after: int):
    whole = ended(lines(b"one", b"two", b"three"))
    spool = left_behind(tmp_path / "a", whole)

    assert await read(spool, after) == (whole[after:], None)


@pytest.mark.parametrize("tail", [b"", b"\x05", bytes(4096), encode(Record(3, 5, Stream.OUT, b"torn"))[:-1]])
async def test_without_an_end_the_keeper_is_lost_behind_the_last_whole_record(tmp_path: Path, tail: bytes):
    whole = lines(b"one", b"two")
    spool = left_behind(tmp_path / "a", whole, tail)

    found, lost = await read(spool)

    assert found == whole
    assert lost is not None
    assert "after record 2" in str(lost)


async def test_without_a_journal_the_keeper_is_lost(tmp_path: Path):
    assert (await read(Spool(tmp_path / "nothing")))[1] is not None


async def test_an_end_that_the_disk_had_no_room_for_is_told_all_the_same(tmp_path: Path):
    whole = lines(b"one", b"two")
    spool = left_behind(tmp_path / "a", whole)
    (spool.path / "exit.json").write_text(json.dumps({"v": 1, "seq": 3, "at": 9, "facts": json.loads(EXIT)}))

    found, lost = await read(spool)

    assert lost is None
    assert found[:2] == whole
    assert (found[2].seq, found[2].stream, json.loads(found[2].data)) == (3, Stream.EXIT, json.loads(EXIT))
    assert [record.seq for record in (await read(spool, 2))[0]] == [3]
    assert (await read(spool, 3))[0] == []


async def test_a_damaged_journal_is_not_taken_for_a_whole_one(tmp_path: Path):
    whole = ended(lines(b"one", b"two", b"three"))
    spool = left_behind(tmp_path / "a", whole)
    (spool.path / "exit.json").write_text(json.dumps({"v": 1, "seq": 4, "at": 9, "facts": json.loads(EXIT)}))
    raw = bytearray((spool.path / "journal").read_bytes())
    raw[len(encode(whole[0])) + 27] ^= 1
    (spool.path / "journal").write_bytes(raw)

    found, lost = await read(spool)

    assert found == whole[:1]
    assert lost is not None


async def test_batches_are_bounded_and_a_long_write_is_read_all_the_same(tmp_path: Path):
    big = Record(5001, 5, Stream.IN, b"key\0" + b"x" * (3 * WINDOW))
    whole = ended([*lines(*[b"y" * 400] * 5000), big])
    spool = left_behind(tmp_path / "a", whole)

    sizes = []
    found: list[Record] = []
    async for batch in spool.records(0):
        sizes.append(sum(len(encode(record)) for record in batch))
        found += batch

    assert found == whole
    assert len(sizes) > 4
    assert sorted(sizes)[-2] <= WINDOW


# --- living ones --------------------------------------------------------------------------------------------------


async def test_records_come_as_they_are_written(house: House):
    keeper = await house.start("echo")
    async with aclosing(keeper.spool.records(0)) as batches:
        for number in range(50):
            await keeper.write(str(number), b"%d\n" % number)
            async for batch in batches:
                if b"echo: %d" % number in said(batch):
                    break
            else:
                pytest.fail("the journal ended")

    await keeper.stop("abort", 0)
    await keeper.wait_gone()


async def test_any_number_of_readers_see_the_same(house: House):
    keeper = await house.start("lines", "--count", "200", "--rate", "2000")
    seen: list[list[Record]] = []

    async def follow(after: int) -> None:
        seen.append(await records(keeper, after))

    async with anyio.create_task_group() as group:
        for after in (0, 0, 10, 40, 100):
            group.start_soon(follow, after)

    longest = max(seen, key=len)
    assert all(found == longest[-len(found) :] for found in seen)
    assert [longest[0].seq, longest[-1].stream] == [1, Stream.EXIT]


async def test_a_reader_that_leaves_and_comes_back_misses_nothing(house: House):
    keeper = await house.start("lines", "--count", "400", "--rate", "2000")
    found: list[Record] = []

    while not found or found[-1].stream is not Stream.EXIT:
        with anyio.move_on_after(0.02):
            async with aclosing(keeper.spool.records(len(found))) as batches:
                async for batch in batches:
                    found += batch

    assert [record.seq for record in found] == list(range(1, len(found) + 1))
    assert said(found) == [b"line %d" % number for number in range(400)]


async def test_a_reader_goes_on_when_the_keeper_takes_no_more_connections(house: House):
    keeper = await house.start("echo")
    socket = keeper.path / "ctl.sock"
    socket.rename(socket.with_name("elsewhere"))  # as good as refused
    async with aclosing(keeper.spool.records(0)) as batches:
        async for batch in batches:
            if said(batch) == [b"ready"]:
                break
        socket.with_name("elsewhere").rename(socket)
        await keeper.write("end", b"", close=True)

        rest = [record async for batch in batches for record in batch]

    assert said(rest) == [b"end of input"]
    assert rest[-1].stream is Stream.EXIT


async def test_a_keeper_that_is_killed_is_noticed_while_waiting(house: House):
    keeper = await house.start("echo")
    await wait_heard(keeper, b"ready")
    async with aclosing(keeper.spool.records(2)) as batches, anyio.create_task_group() as group:
        group.start_soon(kill, keeper.pid)
        with pytest.raises(KeeperLost):
            await anext(batches)


async def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


async def test_what_is_taken_back_from_a_full_disk_is_not_read_as_a_record(tmp_path: Path):
    """The front of a record is there, is cut off, and another record takes its place."""
    first, second = lines(b"one", b"x" * 100)
    other = Record(2, 6, Stream.GAP, b"{}")
    path = tmp_path / "a"
    spool = left_behind(path, [first], encode(second)[:60])

    async with aclosing(spool.records(0)) as batches:
        assert await anext(batches) == [first]
        with (path / "journal").open("r+b") as journal:
            journal.truncate(len(encode(first)))
            journal.seek(0, os.SEEK_END)
            journal.write(encode(other) + encode(Record(3, 9, Stream.EXIT, EXIT)))

        assert [record async for batch in batches for record in batch] == [other, Record(3, 9, Stream.EXIT, EXIT)]
