"""A cursor gives every line once, in order, wherever the lines are."""

from typing import Any, cast

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.ports import LogBounds, Store
from manager.runtime.announcer import FleetLog
from manager.runtime.follower import Follower, Place
from manager.runtime.tail import Tail
from shared_types.api import FleetEvent
from shared_types.events import StoredEvent
from shared_types.tasks import Task, TaskState

BODY = msgspec.Raw(b'{"type":"x","timestamp":1}')


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Log:
    """The reading half of a `Store`, over a list."""

    epoch = "e1"

    def __init__(self) -> None:
        self.kept: list[StoredEvent] = []
        self.reads = 0
        self.asked = 0

    def commit(self, count: int) -> list[StoredEvent]:
        begin = len(self.kept) + 1
        new = [StoredEvent(id=id, task_id="t", attempt=1, body=BODY) for id in range(begin, begin + count)]
        self.kept += new
        return new

    async def events(
        self, session_id: str, after: int, *, task_id: str | None = None, limit: int, max_bytes: int
    ) -> list[StoredEvent]:
        self.reads += 1
        await anyio.lowlevel.checkpoint()
        return self.kept[after : after + limit]

    async def task(self, task_id: str) -> Task:
        self.asked += 1
        await anyio.lowlevel.checkpoint()
        return Task(
            id="t",
            session_id="s",
            status=TaskState.RUNNING,
            prompt="p",
            agent_type="a",
            created_at=1,
            updated_at=1,
            rv=3,
        )


def follower() -> tuple[Follower, Log, Tail]:
    log, tail = Log(), Tail()
    return Follower(store=cast(Store, cast(Any, log)), tail=tail, fleet=FleetLog("f")), log, tail


BOUNDS = LogBounds(session_id="s", first_id=1, latest_id=0)


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.booleans()), max_size=40))
def test_nothing_is_lost_or_doubled_whatever_is_announced(steps: list[tuple[int, bool, bool]]):
    """Commits that are announced or not, tails that forget: the reader sees the log."""

    async def run() -> list[int]:
        f, log, tail = follower()
        cursor = f.cursor(BOUNDS, "t", 0)
        seen: list[int] = []
        for count, announced, forgotten in steps:
            new = log.commit(count)
            if announced:
                tail.push("s", new)
            if forgotten:
                tail._rings.clear()
            seen += [line.id for line in (await cursor.next()).lines]
        while (slab := await cursor.next(trust_tail=False)).lines:
            seen += [line.id for line in slab.lines]
        assert seen == [event.id for event in log.kept]
        return seen

    anyio.run(run)


async def test_a_reader_at_the_end_asks_the_tail_alone():
    f, log, tail = follower()
    tail.push("s", log.commit(3))
    cursor = f.cursor(BOUNDS, "t", 0)

    assert [line.id for line in (await cursor.next()).lines] == [1, 2, 3]
    assert (await cursor.next()).lines == []
    assert log.reads == 0


async def test_many_who_ask_how_a_task_stands_ask_the_store_once():
    f, log, _ = follower()
    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(f.standing, "t")

    assert log.asked == 1
    assert f._asking == {}


def test_a_reader_of_the_fleet_that_fell_behind_is_lost():
    f, _, _ = follower()
    f.fleet.ring.max_lines = 4
    cursor = f.fleet_cursor(0)
    for id in range(1, 10):
        f.fleet.add(FleetEvent(type="x", timestamp=1, id=id))

    assert cursor.is_lost
    assert cursor.next_nowait().lines == ()


@pytest.mark.parametrize(
    ("place", "first", "latest", "expected"),
    [
        (Place(), 1, 9, ("ok", 0)),
        (Place(), 4, 9, ("gap", 3)),
        (Place(0), 1, 0, ("ok", 0)),
        (Place(9), 1, 9, ("ok", 9)),
        (Place(3), 4, 9, ("ok", 3)),
        (Place(2), 4, 9, ("gap", 3)),
        (Place(10), 1, 9, ("gap", 0)),
        (Place(5, "e1"), 1, 9, ("ok", 5)),
        (Place(5, "e0"), 1, 9, ("gap", 0)),
    ],
)
def test_a_place_joins_the_log_or_is_told_of_the_gap(place: Place, first: int, latest: int, expected: tuple[str, int]):
    assert place.resolve("e1", first, latest) == expected
