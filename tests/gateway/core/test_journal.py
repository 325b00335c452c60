import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import journal
from gateway.core.journal import ExitFacts, Record, Stream, decode, encode, exit_facts, exit_record

bodies = st.tuples(st.sampled_from(Stream), st.binary(max_size=80), st.booleans(), st.integers(0, 2**63))


def numbered(drawn: list[tuple[Stream, bytes, bool, int]]) -> list[Record]:
    return [Record(n, at, stream, data, partial) for n, (stream, data, partial, at) in enumerate(drawn, 1)]


def written(records: list[Record]) -> bytes:
    return b"".join(encode(record) for record in records)


EXIT = b'{"code":0,"signal":null,"stop":null,"durationMs":12}'


@given(st.lists(bodies, max_size=12).map(numbered))
def test_what_was_written_is_read_again(records: list[Record]) -> None:
    raw = written(records)

    assert decode(raw, 0) == (records, len(records), len(raw))


@given(st.lists(bodies, min_size=1, max_size=8).map(numbered), st.data())
def test_a_torn_tail_takes_nothing_before_it_along(records: list[Record], data: st.DataObject) -> None:
    raw = written(records)
    cut = data.draw(st.integers(0, len(raw) - 1))

    kept, last, used = decode(raw[:cut], 0)

    assert kept == records[: len(kept)]
    assert last == len(kept)
    assert used == len(written(kept)) <= cut
    assert used + len(encode(records[len(kept)])) > cut  # and nothing whole was left out


@given(st.lists(bodies, min_size=1, max_size=6).map(numbered), st.data())
def test_a_flipped_bit_ends_the_journal_there(records: list[Record], data: st.DataObject) -> None:
    raw = bytearray(written(records))
    where = data.draw(st.integers(0, len(raw) - 1))
    raw[where] ^= 1 << data.draw(st.integers(0, 7))

    kept, _, used = decode(bytes(raw), 0)

    assert kept == records[: len(kept)]
    assert used <= where


@given(st.lists(bodies, max_size=8).map(numbered), st.data())
def test_reading_on_in_pieces_gives_the_same_records(records: list[Record], data: st.DataObject) -> None:
    raw = written(records)
    cut = data.draw(st.integers(0, len(raw)))

    front, last, used = decode(raw[:cut], 0)
    back, last, _ = decode(raw[used:], last)

    assert (front + back, last) == (records, len(records))


@given(st.lists(bodies, max_size=8).map(numbered), st.integers(0, 9))
def test_only_records_behind_a_number_are_made(records: list[Record], after: int) -> None:
    assert decode(written(records), 0, after)[0] == records[after:]


def test_zeros_that_a_power_cut_left_are_not_a_record() -> None:
    whole = encode(Record(1, 5, Stream.OUT, b"a"))

    assert decode(whole + bytes(4096), 0)[1:] == (1, len(whole))


def test_a_number_that_does_not_follow_ends_the_journal() -> None:
    first = encode(Record(1, 5, Stream.OUT, b"a"))

    assert decode(first + encode(Record(3, 5, Stream.OUT, b"c")), 0)[1:] == (1, len(first))


def test_a_record_longer_than_any_keeper_writes_is_not_waited_for() -> None:
    raw = encode(Record(1, 5, Stream.OUT, b"x" * (journal.MAX_DATA + 1)))

    assert decode(raw, 0) == ([], 0, 0)


def test_an_unknown_stream_ends_the_journal() -> None:
    raw = bytearray(encode(Record(1, 5, Stream.GAP, b"")))
    raw[24] = 7

    assert decode(bytes(raw), 0)[1] == 0


@pytest.mark.parametrize("before", [b"", b"x" * 100, b"y" * 10_000])
def test_the_exit_record_is_found_at_the_end_of_a_tail(before: bytes) -> None:
    end = Record(2, 7, Stream.EXIT, EXIT)
    raw = encode(Record(1, 6, Stream.OUT, before)) + encode(end)

    assert exit_record(raw[-8192:]) == end


def test_a_line_that_looks_like_an_exit_record_is_none() -> None:
    raw = encode(Record(1, 6, Stream.OUT, EXIT))

    assert exit_record(raw) is None
    assert exit_record(b"") is None
    assert exit_record(encode(Record(2, 7, Stream.EXIT, EXIT))[:-1]) is None


def test_exit_facts_are_read_and_further_words_ignored() -> None:
    said = {"code": None, "signal": 9, "stop": "abort", "durationMs": 3, "survivors": 0}

    assert exit_facts(json.dumps(said).encode()) == ExitFacts(None, 9, "abort", 3)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"code":"0","signal":null,"stop":null,"durationMs":1}'])
def test_what_is_no_exit_record_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not an exit record"):
        exit_facts(data)
