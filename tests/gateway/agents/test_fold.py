"""What every driver does with the journal."""

import json
from typing import Any

import pytest

from gateway.agents.base import RunSpec, Stream
from gateway.agents.fold import (
    MAX_ANSWER,
    MAX_CALLS,
    MAX_KEPT,
    MAX_NAMES,
    MAX_PENDING_BYTES,
    MAX_SAYS,
    Answer,
    Fold,
    Names,
    ToolCall,
    ToolCalls,
    kept,
)
from shared_types.events import AgentEvent, InputRefusal
from tests.gateway.agents.recorded import numbered
from tests.gateway.agents.talk import spec


class Echo(Fold):
    """Knows no words: keeps what it heard."""

    def __init__(self, of: RunSpec) -> None:
        super().__init__(of)
        self.heard_lines: list[str] = []
        self.journal: list[tuple[str, bytes]] = []

    def on_line(self, line: str) -> list[AgentEvent]:
        self.heard_lines.append(line)
        return []

    def on_written(self, key: str, data: bytes) -> list[AgentEvent]:
        self.journal.append((key, data))
        return []

    def said(self) -> None:
        for input_id, content in self._says.items():
            self.write(f"say:{input_id}", content.encode())


def hear(driver: Echo, *records: tuple[Stream, bytes, bool]) -> list[AgentEvent]:
    return [event for record in numbered(records) for event in driver.heard(record)]


def test_a_write_is_asked_for_until_the_journal_has_it() -> None:
    driver = Echo(spec())
    driver.write("a", b"1")
    driver.write("a", b"again")

    assert [(write.key, write.data) for write in driver.to_write()] == [("a", b"1")]
    hear(driver, (Stream.IN, b"a\x001", False))
    driver.write("a", b"1")

    assert driver.to_write() == []


def test_a_long_write_is_in_the_journal_when_its_last_slice_is() -> None:
    driver = Echo(spec())
    driver.write("a", b"onetwo\0three")

    hear(driver, (Stream.IN, b"a\0one", True), (Stream.IN, b"a\0two\0three", True))
    assert driver.to_write() != []
    hear(driver, (Stream.IN, b"a\0", False))

    assert driver.to_write() == []
    assert driver.journal == [("a", b"onetwo\0three")]


def test_slices_of_different_streams_do_not_mix() -> None:
    driver = Echo(spec())

    told = hear(
        driver,
        (Stream.OUT, b"out", True),
        (Stream.ERR, b"err", True),
        (Stream.OUT, b"put", False),
        (Stream.ERR, b"or", False),
    )

    assert driver.heard_lines == ["output"]
    assert [event.content for event in told] == ["error"]


def test_notes_of_the_keeper_are_nothing_to_tell() -> None:
    assert hear(Echo(spec()), (Stream.NOTE, b'{"note":"spawned"}', False)) == []


def refusal(input_id: str, code: str = "not_supported", said: str = "and this") -> tuple[Stream, bytes, bool]:
    note = {"note": "input_refused", "inputId": input_id, "code": code, "text": said}
    return Stream.NOTE, json.dumps(note).encode(), False


def test_input_that_the_journal_says_is_refused_is_told_with_its_reason() -> None:
    (event,) = hear(Echo(spec()), refusal("i1"))

    assert event.type == "input"
    assert event.content == 'The agent does not get the input "and this": it takes no input while it works.'
    assert event.data == {"inputId": "i1", "state": "refused", "code": "not_supported"}


@pytest.mark.parametrize("code", InputRefusal)
def test_every_refusal_has_its_sentence(code: InputRefusal) -> None:
    (event,) = hear(Echo(spec()), refusal("i1", code, said=""))

    assert event.content is not None
    assert event.content.startswith("The agent does not get an input: ")
    assert f": {code}." not in event.content


def test_refused_input_is_neither_written_nor_refused_again_and_keeps_nothing_open() -> None:
    driver = Echo(spec())
    driver.say("i1", "x")
    driver.write("say:i1", b"x")

    hear(driver, refusal("i1", "closed"))

    assert driver.to_write() == []
    assert driver.say("i1", "x") is None
    assert driver._says == {}


def test_nothing_is_written_to_what_has_ended() -> None:
    driver = Echo(spec())
    driver.write("a", b"1")

    hear(driver, (Stream.OUT, b"half", True), (Stream.EXIT, b"{}", False))

    assert driver.to_write() == []
    assert driver.heard_lines == ["half"]
    assert driver.say("i", "text") is InputRefusal.OVER


def test_only_so_much_input_waits() -> None:
    driver = Echo(spec())

    refused = [driver.say(f"i{n}", "x") for n in range(MAX_SAYS + 5)]

    assert refused == [None] * MAX_SAYS + [InputRefusal.FULL] * 5


def test_what_waits_to_be_written_is_bounded_but_one_write_always_may() -> None:
    driver = Echo(spec())
    half = b"x" * (MAX_PENDING_BYTES // 2 + 1)

    assert driver.write("a", half * 3)
    assert not driver.write("b", half)


def test_an_answer_keeps_its_beginning() -> None:
    answer = Answer()

    answer.add("a" * (MAX_ANSWER - 1))
    answer.add("bcd")

    assert answer.take() == "a" * (MAX_ANSWER - 1) + "b"
    assert answer.take() == ""


def test_names_calls_and_arguments_are_bounded() -> None:
    names, calls = Names(), ToolCalls()
    for n in range(MAX_NAMES + 10):
        names.add(f"n{n}")
        calls.put(f"c{n}", ToolCall("t", "other"))
    arguments: dict[str, Any] = {"path": "a", "content": "x" * (MAX_KEPT + 1), "n": 3}

    assert (len(names), len(calls)) == (MAX_NAMES, MAX_CALLS)
    assert "c0" not in calls
    assert kept(arguments) == {"path": "a"}


def test_the_last_lines_of_stderr_say_what_was_wrong_when_nothing_else_did() -> None:
    driver = Echo(spec())

    hear(driver, *((Stream.ERR, f"line {n}".encode(), False) for n in range(1000)), (Stream.EXIT, b"{}", False))

    assert (driver.evidence.error or "").endswith("line 998\nline 999")
    assert len(driver.evidence.error or "") <= 2000
