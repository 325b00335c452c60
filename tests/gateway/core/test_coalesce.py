"""Nothing is lost by merging, and nothing grows beyond a frame."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.coalesce import (
    ANSWER_FRAME_BYTES,
    FLUSH_BYTES,
    FLUSH_S,
    FRAME_BYTES,
    MAX_ANSWER_BYTES,
    Batch,
    cut_text,
    fit,
    is_delta,
    tail_text,
)
from shared_types.events import MAX_VALUE_BYTES, AgentEvent


def delta(text, kind="message", **data):
    return AgentEvent(type=kind, timestamp=1, content=text, data={"delta": True, **data})


def answer(text):
    return AgentEvent(type="message", timestamp=1, content=text, data={"delta": False})


def log(text="line"):
    return AgentEvent(type="log", timestamp=1, content=text)


def said(batch):
    return [msgspec.json.decode(raw, type=AgentEvent) for raw in batch.close()]


def batch_of(*records, now=0.0):
    batch = Batch()
    for seq, events in enumerate(records, 1):
        batch.add(seq, fit(events), now)
    return batch


def test_deltas_of_one_text_become_one_event():
    batch = batch_of([delta("Hel")], [delta("lo")], [delta(" world")])

    assert said(batch) == [delta("Hello world")]


def test_thinking_and_text_are_not_mixed():
    batch = batch_of([delta("hm", "thinking")], [delta("so")], [delta("!")])

    assert said(batch) == [delta("hm", "thinking"), delta("so!")]


def test_deltas_of_different_speakers_are_not_mixed():
    batch = batch_of([delta("a", role="assistant"), delta("b", role="user")])

    assert [event.content for event in said(batch)] == ["a", "b"]


def test_another_event_keeps_its_place_between_deltas():
    batch = batch_of([delta("a")], [log()], [delta("b")], [delta("c")])

    assert said(batch) == [delta("a"), log(), delta("bc")]


def test_a_delta_waits_a_moment_and_anything_else_goes_at_once():
    waiting = batch_of([delta("a")], now=10.0)
    urgent = batch_of([delta("a")], [log()], now=10.0)

    assert waiting.due_at == 10.0 + FLUSH_S
    assert urgent.due_at == 10.0


def test_the_oldest_delta_sets_the_time():
    batch = Batch()
    batch.add(1, fit([delta("a")]), 10.0)
    batch.add(2, fit([delta("b")]), 10.02)

    assert batch.due_at == 10.0 + FLUSH_S


def test_many_deltas_go_at_once():
    batch = batch_of(*[[delta("x" * 1000)]] * 20, now=3.0)

    assert batch.size >= FLUSH_BYTES
    assert batch.due_at == 3.0


def test_records_without_events_are_carried_along_and_hurry_nobody():
    batch = batch_of([], [], [delta("a")], [])

    assert (batch.first, batch.last) == (1, 4)
    assert batch.due_at == FLUSH_S
    assert batch_of([], []).due_at == float("inf")


def test_a_batch_goes_on_after_its_last_record():
    batch = batch_of([log()], [log()])
    batch.close()

    assert batch.is_empty
    batch.add(3, fit([log("c")]), 0.0)
    assert (batch.first, batch.last, said(batch)) == (3, 3, [log("c")])


def test_a_hole_is_a_bug():
    batch = batch_of([log()])

    with pytest.raises(ValueError, match="3 does not follow 1"):
        batch.add(3, fit([log()]), 0.0)


def test_a_long_value_is_cut_and_says_so():
    long = AgentEvent(type="tool_result", timestamp=1, content="é" * MAX_VALUE_BYTES, data={"id": "t"})

    ((event, _),) = fit([long])

    assert len(event.content.encode()) <= MAX_VALUE_BYTES
    assert event.data == {"id": "t", "truncated": True}


def test_a_long_text_deep_in_the_data_is_cut_too():
    call = AgentEvent(type="tool_call", timestamp=1, data={"input": {"parts": ["y" * 300_000]}})

    ((event, data),) = fit([call])

    assert event.data["truncated"] is True
    assert len(data) < MAX_VALUE_BYTES + 200


def test_a_final_answer_of_300_kilobytes_arrives_whole():
    text = 'a line with "quotes" and é\n' * 11_000

    ((event, data),) = fit([answer(text)])

    assert event.content == text
    assert len(text.encode()) > 300_000
    assert len(data) <= ANSWER_FRAME_BYTES


def test_an_answer_of_many_megabytes_is_cut_to_what_a_manager_takes():
    ((event, data),) = fit([answer("z" * 5_000_000)])

    assert len(event.content) == MAX_ANSWER_BYTES
    assert event.data["truncated"] is True
    assert len(data) <= ANSWER_FRAME_BYTES


def test_an_answer_that_grows_in_json_still_fits():
    ((event, data),) = fit([answer("\x00" * MAX_ANSWER_BYTES)])

    assert event.data["truncated"] is True
    assert len(data) <= ANSWER_FRAME_BYTES


def test_what_travels_beside_the_events_takes_its_room():
    ((_, data),) = fit([answer("z" * 700_000)], beside=500_000)

    assert len(data) <= ANSWER_FRAME_BYTES - 500_000


def test_a_record_with_too_many_events_says_how_many_are_missing():
    fitted = fit([log("x" * 100) for _ in range(10_000)])

    assert sum(len(data) + 1 for _, data in fitted) <= FRAME_BYTES
    assert fitted[-1][0].content == f"{10_000 - (len(fitted) - 1)} events were too large to be kept"


def test_half_a_surrogate_does_not_stop_the_line():
    ((_, data),) = fit([log("a\ud800b")])

    assert msgspec.json.decode(data)["content"] == "a?b"


def test_absurd_nesting_does_not_stop_the_line():
    nested = "x" * 100_000
    for _ in range(400):
        nested = [nested]

    ((_, data),) = fit([AgentEvent(type="tool_call", timestamp=1, data={"input": nested})])

    assert len(data) < MAX_VALUE_BYTES


@given(st.text(max_size=400), st.integers(0, 100))
def test_a_cut_text_is_a_beginning_or_an_end_of_it(text, limit):
    head, tail = cut_text(text, limit), tail_text(text, limit)

    assert text.startswith(head)
    assert text.endswith(tail)
    assert max(len(head.encode()), len(tail.encode())) <= limit


_events = st.lists(
    st.one_of(
        st.builds(delta, st.text(max_size=40), st.sampled_from(["message", "thinking"])),
        st.builds(log, st.text(max_size=40)),
        st.builds(answer, st.text(max_size=40)),
    ),
    max_size=4,
)


def flat(events):
    """Events with neighbouring deltas of a kind joined: what a reader may rely on."""
    out = []
    for event in events:
        if out and is_delta(event) and is_delta(out[-1]) and out[-1].type == event.type:
            out[-1] = msgspec.structs.replace(event, content=out[-1].content + event.content)
        else:
            out.append(event)
    return out


@given(st.lists(_events, max_size=30), st.data())
def test_however_records_are_grouped_a_reader_sees_the_same(records, data):
    batch, seen = Batch(), []
    for seq, events in enumerate(records, 1):
        batch.add(seq, fit(events), 0.0)
        if data.draw(st.booleans()):
            seen += said(batch)
    seen += said(batch)

    assert flat(seen) == flat([event for events in records for event in events])


@given(st.lists(st.lists(st.builds(log, st.text(min_size=1, max_size=30_000)), max_size=3), max_size=30))
def test_what_is_taken_fits_a_frame(records):
    batch = Batch()
    for seq, events in enumerate(records, 1):
        fitted = fit(events)
        if not batch.takes(fitted):
            assert sum(len(raw) + 1 for raw in batch.close()) <= FRAME_BYTES
        batch.add(seq, fitted, 0.0)

    assert sum(len(raw) + 1 for raw in batch.close()) <= FRAME_BYTES
