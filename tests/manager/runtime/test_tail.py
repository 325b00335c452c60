import msgspec
from hypothesis import given
from hypothesis import strategies as st

from manager.runtime.tail import MAX_SLAB_LINES, EventLine, Ring, Standing, Standings, Tail
from shared_types.events import StoredEvent
from shared_types.tasks import Task, TaskState


def event(id: int, task_id: str = "t", *, attempt: int = 1, text: str = "x") -> StoredEvent:
    body = msgspec.json.encode({"type": "message", "timestamp": 1, "content": text})
    return StoredEvent(id=id, task_id=task_id, attempt=attempt, body=msgspec.Raw(body))


def lines(*ids: int, task_id: str = "t", text: str = "x") -> list[EventLine]:
    return [EventLine(event(id, task_id, text=text)) for id in ids]


def task(rv: int = 1, status: TaskState = TaskState.QUEUED, prompt: str = "p") -> Task:
    return Task(id="t", session_id="s", status=status, prompt=prompt, agent_type="a", created_at=1, updated_at=1, rv=rv)


def test_a_line_is_one_line_whatever_its_body():
    body = b'{"type":"x",\r\n"timestamp":1}'
    line = EventLine(StoredEvent(id=7, task_id="t", attempt=0, body=msgspec.Raw(body)))

    assert line.sse == b'id: 7\ndata: {"type":"x",  "timestamp":1,"id":7,"taskId":"t","attempt":0}\n\n'
    assert line.own
    assert msgspec.json.decode(line.frame)["payload"]["event"]["id"] == 7


def test_a_reader_gets_what_stands_behind_its_id():
    ring = Ring(1_000_000)
    ring.push(lines(1, 2, 3))

    found = [ring.after(id) for id in range(4)]
    assert [[line.id for line in slab.lines] for slab in found if slab] == [[1, 2, 3], [2, 3], [3], []]
    assert ring.after(4) is None  # ahead of us: ask the store


def test_readers_at_one_place_share_their_bytes():
    ring = Ring(1_000_000)
    ring.push(lines(1, 2, 3))

    one, other = ring.after(1), ring.after(1)
    assert one is not None
    assert one is other
    assert one.sse is other.sse
    ring.push(lines(4))
    later = ring.after(1)
    assert later is not None
    assert [line.id for line in later.lines] == [2, 3, 4]


def test_what_was_pushed_before_is_left_out():
    ring = Ring(1_000_000)
    ring.push(lines(1, 2))
    ring.push(lines(2, 3))
    ring.push(lines(1))

    assert [line.id for line in ring.lines] == [1, 2, 3]


def test_behind_a_hole_the_ring_begins_anew():
    ring = Ring(1_000_000)
    ring.push(lines(1, 2))
    ring.push(lines(5, 6))

    assert (ring.first, ring.last) == (5, 6)
    assert ring.after(2) is None
    assert ring.after(4) is not None


def test_a_task_reads_its_own_lines_and_passes_by_the_others():
    ring = Ring(1_000_000)
    ring.push([*lines(1, task_id="a"), *lines(2, 3, task_id="b"), *lines(4, task_id="a")])

    slab = ring.after(1, "a")
    assert slab is not None
    assert ([line.id for line in slab.lines], slab.last) == ([4], 4)


def test_a_slab_is_bounded_and_says_that_it_is_full():
    ring = Ring(100_000_000)
    ring.push(lines(*range(1, 1001)))
    slab = ring.after(0)
    assert slab is not None
    assert (len(slab.lines), slab.is_full) == (MAX_SLAB_LINES, True)

    ring = Ring(100_000_000)
    ring.push(lines(*range(1, 101), text="x" * 10_000))
    slab = ring.after(0)
    assert slab is not None
    assert len(slab.lines) < 20
    assert slab.is_full


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5_000)), max_size=60), st.integers(0, 300))
def test_a_ring_is_bounded_and_never_gives_a_hole(pushes: list[tuple[int, int]], after: int):
    ring = Ring(20_000)
    next_id = 1
    for count, size in pushes:
        ring.push(lines(*range(next_id, next_id + count), text="x" * size))
        next_id += count

    assert ring.bytes == sum(line.size for line in ring.lines)
    assert ring.bytes <= 20_000 or len(ring.lines) == 1
    slab = ring.after(after)
    if slab is not None:
        assert [line.id for line in slab.lines] == list(range(after + 1, slab.last + 1))


def test_the_lines_of_one_task_are_all_that_its_reader_gets():
    ring = Ring(1_000_000, max_lines=10)
    ring.push(lines(1, 2, task_id="t1"))
    alone = ring.after(0, "t1")
    ring.push(lines(3, task_id="t2"))
    among_others = ring.after(0, "t1")
    for id in range(4, 1_001):
        ring.push(lines(id, task_id="t2"))

    assert alone is not None
    assert among_others is not None
    assert [line.id for line in alone.lines] == [line.id for line in among_others.lines] == [1, 2]
    assert (slab := ring.after(995, "t1")) is not None
    assert slab.lines == []
    assert (slab := ring.after(995, "t2")) is not None
    assert [line.id for line in slab.lines] == [996, 997, 998, 999, 1_000]


def test_the_tail_lets_the_session_go_that_was_not_written_to_for_longest():
    tail = Tail(max_bytes=10_000)
    for name in ("a", "b", "a", "c"):
        ring_end = tail._rings[name].last if name in tail._rings else 0
        tail.push(name, [event(ring_end + 1, text="x" * 1_800)])

    assert tail.after("b", 0) is None
    assert tail.after("c", 0) is not None
    assert tail.bytes <= 10_000


def test_a_standing_shows_a_short_prompt_and_is_encoded_once():
    standing = Standing(task(prompt="x" * 5_000))

    assert len(standing.task.prompt) == 1_000
    assert standing.sse is standing.sse


def test_a_record_that_changed_only_by_an_event_is_no_news():
    before = Standing(task(rv=1))
    after = Standing(msgspec.structs.replace(task(rv=2), last_event_id=9, updated_at=2))

    assert before.news == after.news
    assert before.news != Standing(task(rv=3, status=TaskState.RUNNING)).news


def test_a_standing_is_known_only_as_new_as_it_was_announced():
    standings = Standings()
    assert standings.newest("t") is None
    standings.saw_task(task(rv=3))
    known = standings.newest("t")
    assert known is not None
    standings.saw_task(task(rv=2))  # an answer of the store that was overtaken

    assert standings.newest("t") is known


def test_a_log_that_nobody_reads_is_not_kept_and_one_that_was_begun_goes_on() -> None:
    tail = Tail()
    tail.push("unread", [event(1)], is_wanted=False)
    tail.push("read", [event(1)])
    tail.push("read", [event(2)], is_wanted=False)

    assert tail.after("unread", 0) is None
    read = tail.after("read", 0)
    assert read is not None
    assert [line.id for line in read.lines] == [1, 2]
    assert tail.events_total == 3
