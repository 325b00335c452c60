"""The examples of the standard (https://html.spec.whatwg.org/multipage/server-sent-events.html), and any chunking."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.sse import Frame, FrameTooLong, SseParser


def frames(stream: bytes) -> list[Frame]:
    return SseParser().feed(stream)


def data(stream: bytes) -> list[str]:
    return [frame.data for frame in frames(stream)]


def test_several_data_lines_are_one_text():
    assert data(b"data: YHOO\ndata: +2\ndata: 10\n\n") == ["YHOO\n+2\n10"]


def test_comments_ids_and_a_frame_that_is_not_closed():
    stream = b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n"

    assert frames(stream) == [Frame("message", "first event", "1"), Frame("message", "second event", "")]


def test_empty_data_is_a_frame_and_an_unclosed_one_is_not():
    assert data(b"data\n\ndata\ndata\n\ndata:") == ["", "\n"]


def test_one_space_after_the_colon_does_not_count():
    assert data(b"data:test\n\ndata: test\n\ndata:  test\n\n") == ["test", "test", " test"]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_any_line_end_will_do(end: bytes):
    assert frames(b"event: e" + end + b"data: a" + end + b"data: b" + end + end) == [Frame("e", "a\nb", "")]


def test_a_leading_bom_is_not_part_of_the_first_field():
    assert data(b"\xef\xbb\xbfdata: x\n\n") == ["x"]


def test_the_id_stays_until_another_is_said_and_one_with_nul_is_ignored():
    stream = b"id: 7\ndata: a\n\ndata: b\n\nid: 8\0\ndata: c\n\n"

    assert [frame.id for frame in frames(stream)] == ["7", "7", "7"]


def test_an_event_name_counts_for_one_frame_alone():
    assert [frame.event for frame in frames(b"event: end\ndata: x\n\ndata: y\n\n")] == ["end", "message"]


def test_a_name_without_data_is_no_frame():
    assert frames(b"event: end\n\ndata: y\n\n") == [Frame("message", "y", "")]


@pytest.mark.parametrize(("said", "heard"), [(b"250", 250), (b"2.5", None), (b"-1", None), (b"", None)])
def test_retry_is_digits_alone(said: bytes, heard: int | None):
    parser = SseParser()
    parser.feed(b"retry: " + said + b"\n\n")

    assert parser.retry_ms == heard


def test_fields_the_standard_does_not_know_are_skipped():
    assert data(b"hello: x\nhello\ndata: y\n\n") == ["y"]


def test_line_separators_of_unicode_end_no_line():
    text = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg"

    assert data(f"data: {text}\n\n".encode()) == [text]


def test_a_frame_without_end_is_not_kept_for_ever():
    parser = SseParser(max_frame_bytes=100)
    parser.feed(b"data: " + b"x" * 90)

    with pytest.raises(FrameTooLong):
        parser.feed(b"x" * 50)


ONE = st.tuples(
    st.sampled_from(["", "resume", "status"]),
    st.text(max_size=20).map(lambda text: text.replace("\r", "").replace("\n", "")),
    st.integers(0, 10**15),
)


@given(st.lists(ONE, max_size=8), st.sampled_from(["\n", "\r", "\r\n"]), st.data())
def test_however_it_is_cut_the_frames_are_the_same(ones: list[tuple[str, str, int]], end: str, draw: st.DataObject):
    stream = "".join(
        f"{f'event: {event}{end}' if event else ''}id: {id}{end}data: {text}{end}: x{end}{end}"
        for event, text, id in ones
    ).encode()
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    parser = SseParser()
    heard = [
        frame
        for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for frame in parser.feed(stream[start:stop])
    ]

    assert heard == [Frame(event or "message", text, str(id)) for event, text, id in ones]


def test_byte_by_byte_is_no_different():
    stream = "id: 1\r\ndata: ü漢\r\n\r\nid: 2\rdata: x\r\rdata: y\n\n".encode()
    parser = SseParser()

    assert [frame for at in range(len(stream)) for frame in parser.feed(stream[at : at + 1])] == frames(stream)
    assert [frame.data for frame in frames(stream)] == ["ü漢", "x", "y"]
