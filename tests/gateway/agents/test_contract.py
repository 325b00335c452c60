"""What every driver promises, looped over all of them: the agents' protocols, their one-shot modes, and commands.

Recorded runs of the real CLIs are heard whole, in pieces, cut short and mutilated; then come bytes that no agent
would ever print.
"""

import json
import random
from collections.abc import Callable, Iterable
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.agents.base import Driver, End, Record, RunSpec, StdinMode, Stream
from gateway.agents.catalogue import KINDS, PROFILES
from gateway.agents.command import CommandAgent, CommandDriver, CommandKind
from gateway.agents.fold import MAX_PENDING
from shared_types.events import AgentEvent
from shared_types.tasks import PermissionMode
from tests.gateway.agents import shapes
from tests.gateway.agents.recorded import CWD, SESSION, START_MS, Transcript, all_transcripts, numbered

FOLLOW_UP: Final = "@@text:and this too@@"
PROMPT: Final = "do $(it) \"now\" -- --version 'please'"


def spec(mode: PermissionMode = PermissionMode.DEFAULT, **more: Any) -> RunSpec:
    return RunSpec("task_1", PROMPT, CWD, "/bin/agent", "model-1", mode, SESSION, **more)


COMMANDS: Final = {
    "command": CommandAgent(name="tool", argv=("tool", "-v")),
    "command-file": CommandAgent(name="tool", argv=("tool", "{prompt_file}"), input="lines"),
    "command-jsonl": CommandAgent(name="tool", argv=("tool",), output="jsonl", input="lines"),
}
MAKERS: Final[dict[str, Callable[[RunSpec], Driver]]] = {
    **{name: kind.driver for name, kind in KINDS.items()},
    **{f"{name}-{profile}": kind.driver for profile, kinds in PROFILES.items() for name, kind in kinds.items()},
    **{name: CommandKind(declared).driver for name, declared in COMMANDS.items()},
}
CONVERSATIONS: Final = ("claude-code", "opencode", "gemini")
TRANSCRIPTS: Final = all_transcripts()

each_driver = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
each_transcript = pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda transcript: transcript.name)


def keys_written(records: Iterable[Record]) -> list[str]:
    return [record.data.partition(b"\0")[0].decode() for record in records if record.stream is Stream.IN]


def hear(driver: Driver, records: Iterable[Record]) -> list[AgentEvent]:
    return [event for record in records for event in driver.heard(record)]


def state(driver: Driver) -> tuple[Any, ...]:
    return driver.evidence, driver.to_write(), driver.is_done


# --- recorded runs ----------------------------------------------------------------------------------


def test_there_are_recordings_of_every_agent_in_every_profile() -> None:
    recorded = {transcript.driver for transcript in TRANSCRIPTS}

    assert recorded == MAKERS.keys() - COMMANDS.keys()


@each_transcript
def test_what_a_driver_makes_of_a_recorded_run_is_what_it_always_made_of_it(transcript: Transcript) -> None:
    assert transcript.told().as_text() == transcript.golden.read_text()


@each_transcript
def test_events_are_of_known_shapes(transcript: Transcript) -> None:
    told = transcript.told()

    assert told.events
    for event in told.events:
        shapes.check(event)


@each_transcript
def test_everything_that_was_written_was_asked_for_and_is_asked_for_once(transcript: Transcript) -> None:
    driver = transcript.new_driver()
    says = [key.removeprefix("say:") for key in keys_written(transcript.records) if key.startswith("say:")]
    written: list[str] = []

    for record in transcript.records:
        wanted = {write.key: write.data for write in driver.to_write()}
        assert not wanted.keys() & set(written)
        if record.stream is Stream.IN:
            key, _, data = record.data.partition(b"\0")
            if key == b"cancel":  # the manager's word, not the journal's
                driver.cancel()
                wanted = {write.key: write.data for write in driver.to_write()}
            assert json.loads(wanted[key.decode()]) == json.loads(data)
            written.append(key.decode())
        driver.heard(record)
        if written[-1:] == ["prompt"]:
            assert not any(driver.say(name, FOLLOW_UP) for name in says)

    assert driver.to_write() == []


@each_transcript
def test_a_new_gateway_stands_where_the_old_one_stood(transcript: Transcript) -> None:
    old = transcript.new_driver()

    for end, record in enumerate(transcript.records, 1):
        old.heard(record)
        if end % 7 and end != len(transcript.records):
            continue
        new = transcript.new_driver()
        hear(new, transcript.records[:end])
        assert state(new) == state(old)


@each_transcript
def test_how_lines_were_sliced_makes_no_difference(transcript: Transcript) -> None:
    driver = transcript.new_driver()
    told: list[AgentEvent] = []
    size = 1000

    for record in transcript.records:
        key, found, data = record.data.partition(b"\0") if record.stream is Stream.IN else (b"", b"", record.data)
        starts = range(0, max(1, len(data)), size)
        for start in starts:
            piece = key + found + data[start : start + size]
            sliced = Record(record.seq, record.at, record.stream, piece, start != starts[-1])
            told += driver.heard(sliced)

    assert (told, driver.evidence) == (transcript.told().events, transcript.told().evidence)


@each_transcript
def test_each_final_text_is_said_once_and_is_the_sum_of_its_pieces(transcript: Transcript) -> None:
    told = transcript.told()
    finals = told.finals()

    assert len(finals) == len(set(finals))
    if told.deltas() and told.evidence.end is End.OK and "cut" not in transcript.scenario:
        assert told.deltas() == "".join(final or "" for final in finals)


@each_transcript
def test_each_tool_result_belongs_to_one_call(transcript: Transcript) -> None:
    told = transcript.told()
    calls, results = told.data("tool_call", "id"), told.data("tool_result", "id")

    assert len(calls) == len(set(calls))
    assert sorted(results) == sorted(calls)


@each_transcript
def test_without_its_result_a_run_proves_nothing(transcript: Transcript) -> None:
    driver = transcript.new_driver()
    for record in transcript.records:
        before = state(driver)
        driver.heard(record)
        if driver.evidence.end is not End.NONE:
            break
    cut = transcript.new_driver()

    hear(cut, transcript.records[: record.seq - 1])
    assert state(cut) == before
    cut.heard(Record(record.seq, 0, Stream.EXIT, b'{"code":0}'))

    gave_up = cut.evidence.denied and not cut.evidence.finished_after_denial
    assert cut.evidence.end is (End.OK if transcript.driver == "opencode-oneshot" and gave_up else End.NONE)


@pytest.mark.parametrize("driver", sorted(MAKERS.keys() - COMMANDS.keys()))
def test_what_was_denied_is_on_record(driver: str) -> None:
    told = next(t for t in TRANSCRIPTS if t.name == f"{driver}/asked-deny").told()

    assert set(told.data("approval", "decision")) == {"deny"}
    assert told.evidence.denied
    assert not told.evidence.finished_after_denial
    assert told.evidence.files_changed == ()


# --- what nobody would print ------------------------------------------------------------------------

wrong_values = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([10**400, -(2**70), 1e308, "\ud800", "", "x" * 5000, [], {}, [[[]]], {"type": "text"}, "\x1b[31m"]),
    st.text(max_size=10),
)


def mutilated(value: Any, wrong: Any, chance: random.Random, rate: float) -> Any:
    """The value with some of its parts replaced by something else."""
    if chance.random() < rate:
        return wrong
    if isinstance(value, dict):
        return {key: mutilated(item, wrong, chance, rate) for key, item in value.items()}
    if isinstance(value, list):
        return [mutilated(item, wrong, chance, rate) for item in value]
    return value


def mutilated_line(data: bytes, wrong: Any, chance: random.Random) -> bytes:
    kind = chance.randrange(6)
    if kind == 0:
        return data[: chance.randrange(len(data) + 1)]
    if kind == 1:
        at = chance.randrange(len(data) + 1)
        return data[:at] + chance.randbytes(3) + data[at:]
    try:
        said = json.loads(data)
    except ValueError:
        return data
    return json.dumps(mutilated(said, wrong, chance, 0.05 if kind < 4 else 0.4)).encode()


@settings(max_examples=300)
@given(transcript=st.sampled_from(TRANSCRIPTS), wrong=wrong_values, seed=st.integers(0, 2**32))
def test_a_mutilated_run_is_heard_to_its_end(transcript: Transcript, wrong: Any, seed: int) -> None:
    chance = random.Random(seed)
    driver = transcript.new_driver()
    entries: list[tuple[Stream, bytes, bool]] = []
    for record in transcript.records[:60]:
        match chance.randrange(8):
            case 0:
                continue
            case 1:
                entries += [(record.stream, record.data, False)] * 2
            case 2 | 3 if record.stream in (Stream.OUT, Stream.ERR):
                entries.append((record.stream, mutilated_line(record.data, wrong, chance), chance.random() < 0.1))
            case _:
                entries.append((record.stream, record.data, record.partial))

    for event in hear(driver, numbered([*entries, (Stream.EXIT, b"{}", False)])):
        shapes.check(event)

    assert driver.to_write() == []
    assert isinstance(driver.evidence.answer, str)
    json.dumps(driver.evidence.usage)


json_lines = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_words := st.sampled_from(
        ["type", "subtype", "message", "content", "event", "delta", "text", "request", "response", "update", "params",
         "method", "id", "result", "error", "sessionUpdate", "toolCallId", "part", "state", "input", "tool", "data",
         "level", "kind", "op", "title", "path", "exitCode", "usage", "is_error", "delta", "choices"]
    ), inner | st.sampled_from(["assistant", "user", "result", "system", "session/update", "tool_call", "tool_use",
                                "prompt", "initialize", "new", "text", "error", "message", "control_request",
                                "log", "tool_result", "file_change", "usage", "question", "diff", "thinking"]),
        max_size=5),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode())  # fmt: skip


@settings(max_examples=150)
@given(
    make=st.sampled_from(list(MAKERS.values())),
    lines=st.lists(
        st.tuples(
            st.sampled_from([Stream.OUT, Stream.OUT, Stream.ERR, Stream.IN, Stream.NOTE, Stream.GAP]),
            st.binary(max_size=80) | json_lines,
            st.booleans(),
        ),
        max_size=20,
    ),
)
def test_any_bytes_are_heard(make: Callable[[RunSpec], Driver], lines: list[tuple[Stream, bytes, bool]]) -> None:
    driver = make(spec())

    for event in hear(driver, numbered([*lines, (Stream.EXIT, b"", False)])):
        shapes.check(event, more=isinstance(driver, CommandDriver))

    assert driver.evidence.end in End


@each_driver
def test_a_line_of_ten_megabytes_and_one_beyond_all_measure_are_survived(make: Callable[[RunSpec], Driver]) -> None:
    driver = make(spec())
    slice_ = b"x" * (256 * 1024)
    entries = [(Stream.OUT, slice_, True)] * 39 + [(Stream.OUT, slice_, False)]
    entries += [(Stream.OUT, slice_, True)] * 140 + [(Stream.OUT, b"end", False)]

    told = hear(driver, numbered(entries))

    sizes = [len(event.content or "") for event in told if "too long" not in (event.content or "")]
    assert sizes[0] >= 10 * 1024 * 1024
    assert [event.type for event in told if "too long to be read" in (event.content or "")] == ["log"]


@each_driver
def test_stdout_that_is_not_json_is_shown(make: Callable[[RunSpec], Driver]) -> None:
    driver = make(spec())

    told = hear(driver, numbered([(Stream.OUT, b"\x1b[31mpanic\x1b[0m: at the disco", False)]))

    assert [(event.content or "").strip() for event in told] == ["panic: at the disco"]


@each_driver
def test_lost_output_is_told(make: Callable[[RunSpec], Driver]) -> None:
    told = hear(make(spec()), numbered([(Stream.GAP, b'{"records":12,"bytes":99}', False)]))

    assert [event.content for event in told] == ["12 records of the agent's output could not be kept"]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_flood_of_asks_is_bounded(name: str) -> None:
    driver = MAKERS[name](spec())
    ask: dict[str, Any] = {"jsonrpc": "2.0", "method": "fs/read_text_file", "params": {}}
    if name == "claude-code":
        ask = {"type": "control_request", "request": {"subtype": "can_use_tool", "tool_name": "X", "input": {}}}
    lines = (json.dumps({**ask, "id": n, "request_id": str(n)}).encode() for n in range(MAX_PENDING * 2))

    hear(driver, numbered((Stream.OUT, line, False) for line in lines))

    assert len(driver.to_write()) == MAX_PENDING


# --- starting and speaking --------------------------------------------------------------------------


@each_driver
@pytest.mark.parametrize("mode", PermissionMode)
def test_a_start_is_always_the_same_and_never_holds_the_prompt(
    make: Callable[[RunSpec], Driver], mode: PermissionMode
) -> None:
    launch = make(spec(mode)).launch()

    assert launch == make(spec(mode)).launch()
    assert launch.argv[0] == "/bin/agent"
    assert not [part for part in (*launch.argv, *launch.env.values()) if PROMPT in part]
    assert not any(name.startswith(("LD_", "GATEWAY_")) for name in launch.env)
    assert all("/" not in name for name in launch.files)


@each_driver
def test_the_prompt_arrives_as_it_was_written(make: Callable[[RunSpec], Driver]) -> None:
    driver = make(spec())
    launch = driver.launch()

    if launch.stdin_mode is StdinMode.ONCE:
        assert launch.stdin == PROMPT.encode()
    elif launch.files.get("prompt"):
        assert launch.files["prompt"] == PROMPT.encode()
    else:
        written = prompt_of(driver)
        assert PROMPT in strings_in(written)


def prompt_of(driver: Driver) -> Any:
    """What is written for the prompt, after an agent of few words said yes to everything before it."""
    seq = 0
    while True:
        write = driver.to_write()[0]
        said = json.loads(write.data) if write.data.startswith(b"{") else write.data.decode().removesuffix("\n")
        if write.key == "prompt":
            return said
        answer = {"id": write.key, "result": {"protocolVersion": 1, "sessionId": "s"}}
        driver.heard(Record(seq + 1, START_MS, Stream.IN, write.key.encode() + b"\0" + write.data))
        driver.heard(Record(seq + 2, START_MS, Stream.OUT, json.dumps(answer).encode()))
        seq += 2


def strings_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in strings_in(item)]
    if isinstance(value, list):
        return [text for item in value for text in strings_in(item)]
    return [value] if isinstance(value, str) else []


@each_driver
def test_an_agent_that_says_nothing_proves_nothing(make: Callable[[RunSpec], Driver]) -> None:
    driver = make(spec())

    hear(driver, numbered([(Stream.ERR, b"error: unknown option '--frobnicate'", False), (Stream.EXIT, b"{}", False)]))

    assert driver.evidence.end is End.NONE
    assert driver.evidence.error == "error: unknown option '--frobnicate'"
    assert driver.to_write() == []


@each_driver
def test_input_that_is_said_twice_counts_once_and_none_is_taken_after_the_end(
    make: Callable[[RunSpec], Driver],
) -> None:
    driver = make(spec())

    first, second = driver.say("i1", "more"), driver.say("i1", "more")
    waiting = [write.key for write in driver.to_write() if write.key.startswith("say:")]
    hear(driver, [Record(1, START_MS, Stream.EXIT, b"{}")])

    assert first == second
    assert len(waiting) <= 1
    assert driver.say("i2", "too late") is not None


@each_driver
def test_input_with_a_name_that_no_journal_holds_is_not_taken(make: Callable[[RunSpec], Driver]) -> None:
    driver = make(spec())

    assert driver.say("a\0b", "text") is not None
    assert driver.say("x" * 300, "text") is not None


@each_driver
def test_a_run_that_is_cancelled_before_it_began_never_begins(make: Callable[[RunSpec], Driver]) -> None:
    driver = make(spec())

    driver.cancel()

    assert not [write for write in driver.to_write() if PROMPT.encode() in write.data.replace(b'\\"', b'"')]
    assert driver.say("i1", "more") is not None


@pytest.mark.parametrize("scenario", ["abort-text", "abort-tool"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_cancelled_turn_is_over_and_says_so(name: str, scenario: str) -> None:
    transcript = next(t for t in TRANSCRIPTS if t.name == f"{name}/{scenario}")
    driver = transcript.new_driver()
    hear(driver, transcript.records[:-1])

    assert driver.evidence.end is End.CANCELLED
    assert driver.is_done
    assert keys_written(transcript.records)[-1] == "cancel"


@pytest.mark.parametrize("scenario", ["follow-up", "follow-up-in-tool"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_follow_up_input_is_taken_and_answered_before_the_end(name: str, scenario: str) -> None:
    told = next(t for t in TRANSCRIPTS if t.name == f"{name}/{scenario}").told()

    assert [(event.content, event.data) for event in told.of("input")] == [
        (FOLLOW_UP, {"inputId": "input_1", "state": "taken"})
    ]
    assert told.finals()[-1] == "and this too"
    assert told.evidence.answer == "and this too"
    assert told.evidence.end is End.OK


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_input_that_came_before_the_result_keeps_the_conversation_open(name: str) -> None:
    transcript = next(t for t in TRANSCRIPTS if t.name == f"{name}/text")
    last = max(record.seq for record in transcript.records if record.stream is Stream.OUT)
    driver = transcript.new_driver()
    done_at = 0
    while not driver.is_done:
        driver.heard(transcript.records[done_at])
        done_at += 1
    talked_to = transcript.new_driver()
    hear(talked_to, transcript.records[: done_at - 1])

    assert talked_to.say("i1", "more") is None
    hear(talked_to, transcript.records[done_at - 1 : last])

    assert not talked_to.is_done
    assert [write.key for write in talked_to.to_write()] == ["say:i1"]
