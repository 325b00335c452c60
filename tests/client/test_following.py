"""A stream followed over cuts, without sockets."""

import json
from random import Random

import pytest

from client.errors import BadAnswer, Gap
from client.following import MAX_DELAY_S, FleetFollowing, TaskFollowing
from shared_types.api import EventRecord, FleetEvent, FleetSnapshot
from shared_types.tasks import Task, TaskState
from tests.client.fake_manager import FakeManager, a_task, an_event

EVENTS = [an_event(id) for id in range(1, 6)]


def test_a_cut_at_every_byte_neither_loses_nor_doubles_an_event():
    manager = FakeManager(events=EVENTS)
    whole = manager.body(0)
    for cut in range(len(whole)):
        following = TaskFollowing("/x")
        following.connected()
        items = following.heard(whole[:cut])
        following.connected()
        items += following.heard(manager.body(following.after or 0))

        assert [item.id for item in items if isinstance(item, EventRecord)] == [1, 2, 3, 4, 5], f"cut at byte {cut}"
        assert following.is_over


def test_events_that_come_again_are_dropped():
    following = TaskFollowing("/x", after=2)
    following.connected()

    items = following.heard(FakeManager(events=EVENTS).body(0))

    assert [item.id for item in items if isinstance(item, EventRecord)] == [3, 4, 5]


def test_the_next_connection_says_where_we_are_and_of_which_log():
    following = TaskFollowing("/x")
    first = following.headers(), following.params()
    following.connected()
    following.heard(FakeManager(events=EVENTS, epoch="e7").body(0))

    assert first == ({"Accept": "text/event-stream"}, {})
    assert following.headers()["Last-Event-ID"] == "5"
    assert following.params() == {"epoch": "e7"}


def test_missing_history_is_a_gap_and_says_how_to_go_on():
    following = TaskFollowing("/x", after=2)
    following.connected()

    with pytest.raises(Gap) as gap:
        following.heard(FakeManager(events=[an_event(9)], first_id=9).body(2))

    assert (gap.value.first_id, gap.value.resume_after) == (9, 8)


def test_another_log_under_the_same_ids_is_a_gap_even_if_the_manager_does_not_say_so():
    following = TaskFollowing("/x", after=2, epoch="before")
    following.connected()

    with pytest.raises(Gap):
        following.heard(FakeManager(events=EVENTS, epoch="after").body(2))


def test_the_record_is_given_only_when_it_changed():
    following = TaskFollowing("/x")
    following.connected()
    manager = FakeManager(events=EVENTS[:1], ends=False)
    first = following.heard(manager.body(0))
    following.connected()
    again = following.heard(manager.body(1))
    manager.task = a_task(status="completed", rv=2)
    following.connected()
    changed = following.heard(manager.body(1))

    assert [type(item) for item in first] == [Task, EventRecord]
    assert again == []
    assert [item.status for item in changed if isinstance(item, Task)] == [TaskState.COMPLETED]


def test_what_comes_after_the_end_is_not_ours():
    following = TaskFollowing("/x")
    following.connected()

    items = following.heard(b'event: end\ndata: {}\n\ndata: {"type":"log"}\n\n')

    assert (items, following.is_over) == ([], True)


def test_frames_that_are_not_known_yet_are_skipped():
    following = TaskFollowing("/x")
    following.connected()

    assert following.heard(b'event: drain\ndata: {"retry":true}\n\n') == []


@pytest.mark.parametrize("stream", [b"data: {\n\n", b'data: {"id":1}\n\n', b"event: resume\ndata: []\n\n"])
def test_what_cannot_be_understood_is_said(stream: bytes):
    following = TaskFollowing("/x")
    following.connected()

    with pytest.raises(BadAnswer):
        following.heard(stream)


def test_delays_grow_to_a_limit_and_start_anew_once_the_manager_speaks():
    random = Random(1)
    following = TaskFollowing("/x")
    following.connected()
    following.heard(b"retry: 100\n\n")

    grown = [following.delay(random) for _ in range(12)]
    following.connected()
    following.heard(FakeManager(ends=False).body(0).replace(b"retry: 1\n", b"retry: 100\n"))

    assert 0.075 <= grown[0] <= 0.125
    assert 0.15 <= grown[1] <= 0.25
    assert 0.75 * MAX_DELAY_S <= grown[-1] <= 1.25 * MAX_DELAY_S
    assert following.delay(random) <= 0.125


def _resume(verdict: str, epoch: str = "f1") -> bytes:
    frame = {"verdict": verdict, "epoch": epoch, "firstId": 1, "latestId": 9}
    return f"event: resume\ndata: {json.dumps(frame)}\n\n".encode()


SNAPSHOT = b'event: snapshot\ndata: {"asOf":9,"hosts":[],"counts":{"queued":2}}\n\n'
TEN = b'id: f1-10\ndata: {"type":"task.status","timestamp":1,"id":10,"taskId":"t","status":"queued"}\n\n'


def test_the_fleet_begins_with_a_snapshot_and_goes_on_behind_it():
    following = FleetFollowing("/api/events")
    following.connected()

    items = following.heard(_resume("ok") + SNAPSHOT + TEN + TEN)

    assert [type(item) for item in items] == [FleetSnapshot, FleetEvent]
    assert following.headers()["Last-Event-ID"] == "10"


def test_a_fleet_whose_ids_began_anew_is_heard_again_from_its_snapshot():
    following = FleetFollowing("/api/events", after=500, epoch="f0")
    following.connected()

    items = following.heard(_resume("gap") + SNAPSHOT + TEN)

    assert [type(item) for item in items] == [FleetSnapshot, FleetEvent]
    assert following.after == 10
