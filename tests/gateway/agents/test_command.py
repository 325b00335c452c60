"""Programs that a host's owner declares."""

import json
from typing import Any

import msgspec
import pytest

from gateway.agents.base import End, Record, RunSpec, StdinMode, Stream
from gateway.agents.command import CommandAgent, CommandDriver, CommandKind
from shared_types.events import AgentEvent, InputRefusal
from shared_types.tasks import PermissionMode
from tests.gateway.agents import shapes
from tests.gateway.agents.recorded import numbered

PROMPT = "--help\n$(reboot) 'x'"


def driver(**declared: Any) -> CommandDriver:
    declaration = msgspec.convert({"name": "tool", "argv": ["tool", "-q"], **declared}, CommandAgent)
    spec = RunSpec("task_1", PROMPT, "/w", "/opt/tool", "big", PermissionMode.BYPASS, "u")
    made = CommandKind(declaration).driver(spec)
    assert isinstance(made, CommandDriver)
    return made


def out(*lines: bytes | dict[str, Any]) -> list[Record]:
    data = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    return list(numbered([*((Stream.OUT, line, False) for line in data), (Stream.EXIT, b"{}", False)]))


def hear(of: CommandDriver, records: list[Record]) -> list[AgentEvent]:
    events = [event for record in records for event in of.heard(record)]
    for event in events:
        shapes.check(event, more=True)
    return events


def test_the_prompt_goes_to_stdin_and_stdin_is_closed() -> None:
    launch = driver().launch()

    assert launch.argv == ("/opt/tool", "-q")
    assert (launch.stdin_mode, launch.stdin) == (StdinMode.ONCE, PROMPT.encode())
    assert launch.env == {"FLEETGATE_TASK_ID": "task_1", "FLEETGATE_MODE": "bypass", "FLEETGATE_MODEL": "big"}


def test_the_prompt_may_be_a_file_whose_path_stands_in_an_argument() -> None:
    launch = driver(argv=["tool", "--from={prompt_file}"]).launch()

    assert launch.argv == ("/opt/tool", "--from={private}/prompt")
    assert launch.files == {"prompt": PROMPT.encode()}
    assert (launch.stdin_mode, launch.stdin) == (StdinMode.NULL, b"")


def test_a_program_that_takes_lines_gets_the_prompt_and_then_more() -> None:
    tool = driver(input="lines")

    assert tool.launch().stdin_mode is StdinMode.PIPE
    assert tool.say("i1", "and this") is None
    assert [(write.key, write.data) for write in tool.to_write()] == [
        ("prompt", f"{PROMPT}\n".encode()),
        ("say:i1", b"and this\n"),
    ]

    heard = hear(tool, [Record(1, 5, Stream.IN, b"say:i1\0and this\n")])
    assert [(event.type, event.content) for event in heard] == [("input", "and this")]
    assert [write.key for write in tool.to_write()] == ["prompt"]


def test_a_program_that_takes_no_lines_takes_no_input() -> None:
    assert driver().say("i1", "and this") is InputRefusal.NOT_SUPPORTED


def test_text_is_an_answer_line_by_line_and_whole_at_the_end() -> None:
    tool = driver()

    told = hear(tool, out(b"\x1b[32mone\x1b[0m", b"two \xff"))

    assert [(e.content, (e.data or {})["delta"]) for e in told] == [
        ("one\n", True),
        ("two \ufffd\n", True),
        ("one\ntwo \ufffd\n", False),
    ]
    assert tool.evidence.answer == "one\ntwo \ufffd\n"


def test_its_exit_code_is_the_verdict() -> None:
    tool = driver()

    hear(tool, out(b"done"))

    assert (tool.evidence.end, tool.evidence.needs_result) == (End.NONE, False)


def test_json_lines_are_events() -> None:
    tool = driver(output="jsonl")

    told = hear(
        tool,
        out(
            {"type": "tool_call", "data": {"id": "1", "name": "make", "kind": "execute", "title": "make all"}},
            {"type": "file_change", "data": {"path": "a.txt", "op": "create"}},
            {"type": "usage", "data": {"inputTokens": 3, "outputTokens": 4}},
            {"type": "message", "content": "all made"},
        ),
    )

    assert [event.type for event in told] == ["tool_call", "file_change", "usage", "message"]
    assert tool.evidence.files_changed == ("a.txt",)
    assert tool.evidence.usage == {"inputTokens": 3, "outputTokens": 4}
    assert tool.evidence.answer == "all made"


def test_pieces_without_an_end_are_an_answer_when_the_program_ends() -> None:
    tool = driver(output="jsonl")

    told = hear(tool, out(*({"type": "message", "content": c, "data": {"delta": True}} for c in "abc")))

    assert (told[-1].content, tool.evidence.answer) == ("abc", "abc")


def test_a_fatal_error_is_an_error_of_the_run() -> None:
    tool = driver(output="jsonl")

    hear(tool, out({"type": "error", "content": "no disk", "data": {"code": "tool.disk", "fatal": True}}))

    assert (tool.evidence.end, tool.evidence.reason, tool.evidence.error) == (End.ERROR, "tool.disk", "no disk")


@pytest.mark.parametrize(
    "said", [{"type": "status", "data": {"status": "completed"}}, {"type": "approval"}, {"x": 1}, 7]
)
def test_what_only_fleetgate_may_say_is_just_a_line(said: Any) -> None:
    told = hear(driver(output="jsonl"), out(json.dumps(said).encode()))

    assert [(event.type, event.content) for event in told] == [("log", json.dumps(said))]


def test_fields_of_a_wrong_type_are_replaced_by_what_they_mean_by_default() -> None:
    told = hear(
        driver(output="jsonl"),
        out(
            {"type": "tool_result", "content": 7, "data": {"id": 5, "ok": "no", "exitCode": 2, "host": "b1"}},
            {"type": "file_change", "content": "?", "data": {"path": "a", "op": "paint", "diff": 3}},
            {"type": "message", "content": "hi", "data": [1]},
        ),
    )

    assert [(event.content, event.data) for event in told] == [
        ("", {"id": "", "ok": True, "exitCode": 2, "host": "b1"}),
        (None, {"path": "a", "op": "update"}),
        ("hi", {"delta": False, "role": "assistant"}),
    ]


def test_a_program_honours_the_modes_it_is_declared_for() -> None:
    careful = CommandKind(CommandAgent(name="t", argv=("t",), modes=(PermissionMode.DEFAULT, PermissionMode.PLAN)))

    assert careful.supports(PermissionMode.PLAN, is_root=False) is None
    refusal = careful.supports(PermissionMode.BYPASS, is_root=False)
    assert refusal == "t is a program of this host that honours permission mode default, plan; not bypass"


def test_a_declaration_with_a_typing_error_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `outptu`"):
        msgspec.convert({"name": "t", "argv": ["t"], "outptu": "jsonl"}, CommandAgent)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": "t", "argv": []}, CommandAgent)


def test_a_program_is_not_started_to_find_out_its_version() -> None:
    kind = CommandKind(CommandAgent(name="t", argv=("t",)))

    assert kind.version_argv == ()
    assert kind.logged_in({}, frozenset()) is True
    assert CommandKind(CommandAgent(name="t", argv=("t",), version_argv=("-V",))).parse_version("t 1.2.3") == "1.2.3"
