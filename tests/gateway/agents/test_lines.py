"""Lines out of records: whatever is printed, in whatever pieces."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.agents.base import MAX_LINE, Record, Stream
from gateway.agents.lines import Lines, Overlong, decode, plain

SLICE = 256 * 1024


def records_of(line: bytes, size: int) -> list[Record]:
    """A line as a keeper slices it."""
    pieces = [line[start : start + size] for start in range(0, len(line), size)] or [b""]
    return [Record(n + 1, n, Stream.OUT, piece, n + 1 < len(pieces)) for n, piece in enumerate(pieces)]


def whole_lines(lines: Lines, records: list[Record]) -> list[bytes | Overlong]:
    return [line for record in records if (line := lines.take(record)) is not None]


@given(st.lists(st.binary(max_size=50)), st.integers(1, 7))
def test_lines_come_out_as_they_went_in_however_they_were_sliced(printed: list[bytes], size: int) -> None:
    lines = Lines()

    heard = [line for one in printed for line in whole_lines(lines, records_of(one, size))]

    assert heard == printed
    assert lines.end() is None


def test_a_line_of_ten_megabytes_is_one_line() -> None:
    line = b"x" * (10 * 1024 * 1024)

    assert whole_lines(Lines(), records_of(line, SLICE)) == [line]


def test_a_line_beyond_the_limit_is_counted_and_not_kept() -> None:
    lines = Lines(limit=1000)
    most_kept = 0

    for record in records_of(b"x" * 5000, 100):
        line = lines.take(record)
        most_kept = max(most_kept, sum(map(len, lines._pieces)))

    assert line == Overlong(5000)
    assert most_kept <= 1000
    assert whole_lines(lines, records_of(b"next", 100)) == [b"next"]


def test_even_a_single_record_may_be_too_long() -> None:
    assert Lines(limit=3).take(Record(1, 0, Stream.OUT, b"long")) == Overlong(4)


def test_the_limit_leaves_room_for_what_agents_really_print() -> None:
    assert MAX_LINE >= 32 * 1024 * 1024


def test_a_line_without_an_end_is_there_at_the_end() -> None:
    lines = Lines()
    lines.take(Record(1, 0, Stream.OUT, b"half a li", partial=True))

    assert lines.end() == b"half a li"
    assert lines.end() is None


def test_what_other_programs_call_line_ends_stays_inside_a_line() -> None:
    line = "one\u2028two\u2029three\x85four\x0bfive\x0csix\rseven".encode()

    assert whole_lines(Lines(), records_of(line, SLICE)) == [line]


def test_bytes_that_are_not_text_are_replaced() -> None:
    assert decode(b"\xff\xfe ok \xc3") == "\ufffd\ufffd ok \ufffd"


@given(st.binary(max_size=300))
def test_plain_text_has_nothing_that_moves_a_cursor(data: bytes) -> None:
    text = plain(decode(data))

    assert not [c for c in text if (ord(c) < 32 and c not in "\t\n") or (127 <= ord(c) < 160 and c != "\x85")]


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=100))
def test_text_without_controls_stays_as_it_is(text: str) -> None:
    assert plain(text) == text


def test_colours_titles_and_links_leave_their_text() -> None:
    shown = "\x1b[1;31merror\x1b[0m: \x1b]8;;https://x\x1b\\file\x1b]8;;\x1b\\ \x1b]0;title\x07\x1b(Bdone\x1b[?25h"

    assert plain(shown) == "error: file done"


def test_a_sequence_that_never_ends_takes_nothing_else_along() -> None:
    assert plain("before\x1b[") == "before"
    assert plain("before\x1b]0;title") == "before"
    assert plain("a\x1b") == "a"
