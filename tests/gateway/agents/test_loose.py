"""JSON from strangers."""

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.agents.loose import MAX_DEPTH, MAX_WHOLE, clean, fields, items, number, parse, text, unparse, whole

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["\ud800", 10**400, -(2**64)])
)
anything = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(anything)
def test_whatever_was_read_can_be_passed_on(value: Any) -> None:
    passed_on = msgspec.json.encode(clean(value))

    assert json.loads(passed_on) == json.loads(json.dumps(clean(value)))


@given(anything)
def test_what_is_written_back_is_one_line_and_means_the_same(value: Any) -> None:
    line = unparse(value)

    assert b"\n" not in line
    assert str(json.loads(line)) == str(json.loads(json.dumps(value)))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_nothing(data: bytes) -> None:
    parse(data.decode(errors="surrogateescape"))


@given(anything)
def test_every_reader_takes_every_value(value: Any) -> None:
    assert isinstance(text(value), str)
    assert isinstance(items(value), list)
    assert dict(fields(value)) == (value if isinstance(value, dict) else {})
    assert whole(value) is None or abs(whole(value) or 0) <= MAX_WHOLE
    assert number(value) is None or abs(number(value) or 0) < float("inf")


def test_what_nests_absurdly_is_no_value_and_what_nests_deeply_is_cut() -> None:
    assert parse("[" * 100_000 + "]" * 100_000) is None

    deep: Any = "x"
    for _ in range(MAX_DEPTH + 5):
        deep = [deep]
    assert msgspec.json.encode(clean(deep)).count(b"[") == MAX_DEPTH


def test_lone_surrogates_and_numbers_beyond_all_bounds_are_read() -> None:
    assert parse('"\\ud800"') == "\ud800"
    assert parse("1e999") == float("inf")
    assert text("\ud800!") == "?!"


def test_a_number_of_many_thousand_digits_stops_nobody() -> None:
    huge = 10**5000

    assert clean(huge) == "a very large number"
    assert json.loads(unparse({"n": huge})) == {"n": "a very large number"}
