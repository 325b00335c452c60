"""What every driver does with the journal."""

from typing import Any

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
from shared_types.events import AgentEvent
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


def test_nothing_is_written_to_what_has_ended() -> None:
    driver = Echo(spec())
    driver.write("a", b"1")

    hear(driver, (Stream.OUT, b"half", True), (Stream.EXIT, b"{}", False))

    assert driver.to_write() == []
    assert driver.heard_lines == ["half"]
    assert not driver.say("i", "text")


def test_only_so_much_input_waits() -> None:
    driver = Echo(spec())

    taken = [driver.say(f"i{n}", "x") for n in range(MAX_SAYS + 5)]

    assert taken == [True] * MAX_SAYS + [False] * 5


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
