"""Store, logs: public ids without gaps, pages by count and by bytes, a task's part of its session."""

from collections.abc import Sequence

import pytest
from msgspec.json import decode

from manager.core.lifecycle import Cause
from manager.core.tasks import Record
from manager.errors import NotFound
from manager.ports import HostRow, Store
from shared_types.events import StoredEvent
from tests.contracts.making import Place, bodies, body, claim_one, connect, report, start, submit, take, whole_log

ALL = 1_000_000


async def say(store: Store, record: Record, host: HostRow, first: int, *lines: bytes) -> Record:
    return await take(store, report(record, host, span=(first, first + len(lines) - 1), events=lines))


def ids(events: Sequence[StoredEvent]) -> list[int]:
    return [event.id for event in events]


async def test_events_come_back_as_they_were(place: Place) -> None:
    store = await place.open()
    host = await connect(store)
    task = await submit(store, session="sess_a")
    record = await start(store, host)
    said = (body(1), b'{"type":"their-own","timestamp":2,"x":["\xe2\x98\x83",null]}', body(3, 5_000))
    await say(store, record, host, 1, *said)

    async for again in place.now_and_restarted():
        events = (await again.events("sess_a", 3, limit=3, max_bytes=ALL))[:3]
        assert [bytes(event.body) for event in events] == list(said)
        assert [(event.id, event.task_id, event.attempt) for event in events] == [(n, task.id, 1) for n in (4, 5, 6)]


async def test_an_event_that_was_written_on_several_lines_is_one_line(place: Place) -> None:
    store = await place.open()
    host = await connect(store)
    await submit(store, session="sess_a")
    record = await start(store, host)
    pretty = b'{\r\n  "type": "log",\n  "timestamp": 1,\n  "content": "a\\nb"\n}'
    await say(store, record, host, 1, body(1), pretty, body(3))

    async for again in place.now_and_restarted():
        events = (await again.events("sess_a", 3, limit=3, max_bytes=ALL))[:3]
        assert all(b"\n" not in bytes(event.body) and b"\r" not in bytes(event.body) for event in events)
        assert decode(events[1].body) == {"type": "log", "timestamp": 1, "content": "a\nb"}
        assert [decode(event.body)["timestamp"] for event in events] == [1, 1, 3]


async def test_a_page_begins_anywhere_even_inside_what_was_committed_together(place: Place) -> None:
    store = await place.open()
    host = await connect(store)
    await submit(store, session="sess_a")
    record = await start(store, host)
    await say(store, record, host, 1, *bodies(1, 10))
    await say(store, record, host, 11, *bodies(11, 20))

    await store.host_gone("h1", host.generation, 1)
    async for again in place.now_and_restarted():
        for after in range(25):
            assert ids(await again.events("sess_a", after, limit=5, max_bytes=ALL)) == list(
                range(after + 1, min(after + 5, 24) + 1)
            )
        assert await again.events("sess_a", 99, limit=5, max_bytes=ALL) == []


async def test_a_page_ends_before_it_holds_too_many_bytes_but_is_never_empty(place: Place) -> None:
    store = await place.open()
    host = await connect(store)
    await submit(store, session="sess_a")
    record = await start(store, host)
    await say(store, record, host, 1, *bodies(1, 6, size=1_000))

    async for again in place.now_and_restarted():
        assert ids(await again.events("sess_a", 3, limit=99, max_bytes=2_500)) == [4, 5]
        assert ids(await again.events("sess_a", 3, limit=99, max_bytes=1)) == [4]
        assert ids(await again.events("sess_a", 3, limit=2, max_bytes=ALL)) == [4, 5]


async def test_a_task_sees_its_own_part_of_the_session(place: Place) -> None:
    store = await place.open()
    host = await connect(store)
    one = await submit(store, session="sess_a")
    two = await submit(store, session="sess_a")
    record_one, record_two = (await claim_one(store, host)).record, (await claim_one(store, host)).record
    for number in range(1, 4):
        await say(store, record_one, host, number, body(number))
        await say(store, record_two, host, number, body(number))
    await take(store, report(record_one, host, Cause.SUCCEEDED))

    async for again in place.now_and_restarted():
        assert [id for id, _ in await whole_log(again, "sess_a", task_id=one.id)] == [1, 3, 5, 7, 9, 11]
        assert [id for id, _ in await whole_log(again, "sess_a", task_id=two.id)][:5] == [2, 4, 6, 8, 10]
        assert ids(await again.events("sess_a", 3, task_id=one.id, limit=2, max_bytes=ALL)) == [5, 7]


async def test_ids_go_on_where_they_were_after_a_restart(place: Place) -> None:
    store = await place.open()
    host = await connect(store)
    await submit(store, session="sess_a")
    record = await start(store, host)
    await say(store, record, host, 1, *bodies(1, 7))
    store = await place.open()
    host = await connect(store)

    await say(store, record, host, 8, *bodies(8, 9))
    await submit(store, session="sess_a")

    assert [id for id, _ in await whole_log(store, "sess_a")] == list(range(1, 16))


async def test_bounds_tell_where_a_log_begins_and_ends(place: Place) -> None:
    store = await place.open()
    host = await connect(store)
    task = await submit(store, session="sess_a")
    await submit(store, session="sess_b")
    record = await start(store, host)
    await say(store, record, host, 1, *bodies(1, 4))
    await store.host_gone("h1", host.generation, 1)

    async for again in place.now_and_restarted():
        for bounds in (await again.bounds(task_id=task.id), await again.bounds(session_id="sess_a")):
            assert (bounds.session_id, bounds.first_id, bounds.latest_id) == ("sess_a", 1, 8)


async def test_bounds_of_nothing(store: Store) -> None:
    with pytest.raises(NotFound) as task:
        await store.bounds(task_id="task_nobody")
    with pytest.raises(NotFound) as session:
        await store.bounds(session_id="sess_nobody")

    assert (task.value.code, session.value.code) == ("NO_SUCH_TASK", "NO_SUCH_SESSION")
    assert await store.events("sess_nobody", 0, limit=1, max_bytes=1) == []


async def test_a_log_longer_than_what_is_kept_at_hand_is_read_without_a_seam(store: Store) -> None:
    host = await connect(store)
    await submit(store, session="sess_a")
    record = await start(store, host)
    for first in range(1, 6_001, 50):
        await say(store, record, host, first, *bodies(first, first + 49))

    found: list[int] = []
    while page := await store.events("sess_a", found[-1] if found else 0, limit=700, max_bytes=ALL):
        found += ids(page)

    assert found == list(range(1, 6_004))
