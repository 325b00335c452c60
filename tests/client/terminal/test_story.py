"""Events as text for people, as whole texts."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.terminal.story import Piece, Story, closing
from client.terminal.tail import Tail
from shared_types.api import EventRecord
from shared_types.tasks import Task
from tests.client.fake_manager import a_task


def event(type_: str, content: str | None = None, /, **data: Any) -> EventRecord:
    return EventRecord(type=type_, timestamp=0, id=1, task_id="t", attempt=1, content=content, data=data or None)


def told(*events: EventRecord, live: bool = True, cells: int = 80, ends: bool = False) -> str:
    story = Story(cells=cells, live=live, ends=ends)
    pieces = [piece for one in events for piece in story.tell(one)]
    return "".join(piece.text for piece in [*pieces, *story.close()])


def delta(text: str, kind: str = "message") -> EventRecord:
    return event(kind, text, delta=True)


def whole(text: str, kind: str = "message", **data: Any) -> EventRecord:
    return event(kind, text, delta=False, **data)


A_RUN = [
    event("status", "Waits for a host.", status="queued"),
    event("status", "Runs on host laptop.", status="running"),
    delta("Let me ", "thinking"),
    delta("look.", "thinking"),
    whole("Let me look.", "thinking"),
    event("tool_call", id="1", name="Bash", kind="execute", title="Bash: ls", input={"command": "ls -l\n | wc"}),
    event("tool_result", "total 3\na\nb", id="1", ok=True, exitCode=0),
    event("tool_call", id="2", name="Edit", kind="edit", title="Edit", input={"file_path": "src/a.py"}),
    event("approval", "Edit src/a.py", tool="Edit", decision="deny", mode="default", reason="edits are not allowed"),
    event("tool_result", "not allowed", id="2", ok=False),
    event("file_change", path="src/b.py", op="create", diff="--- a\n+++ b\n@@\n+x\n+y\n-z\n"),
    event("tool_result", "", id="3", ok=False, exitCode=2),
    event("log", "rate limited, waiting", level="warning"),
    event("log", "noise", level="debug"),
    event("input", "and the docs too", inputId="i", state="taken"),
    event("error", "the model is overloaded", code="agent_error.provider", retryable=True),
    event("usage", inputTokens=5, outputTokens=6),
    delta("All "),
    delta("done.\nSee b.py"),
    whole("All done.\nSee b.py"),
    event("status", "Completed.", status="completed"),
]

THE_STORY = """\
· Waits for a host.
· Runs on host laptop.
Let me look.
$ Bash  ls -l | wc
  ✓ total 3 (+2 lines)
✎ Edit  src/a.py
⊘ denied: Edit src/a.py (edits are not allowed)
  ✗ failed: not allowed
  + src/b.py (+2 -1)
  ✗ exit code 2: no output
· rate limited, waiting
> and the docs too
✗ the model is overloaded (agent_error.provider)

All done.
See b.py
"""


@pytest.mark.parametrize("live", [True, False], ids=["on a terminal", "in plain lines"])
def test_a_run_reads_like_this(live: bool):
    assert told(*A_RUN, live=live) == THE_STORY


def test_logs_tell_the_end_too():
    assert told(*A_RUN, ends=True) == THE_STORY + "\n· Completed.\n"


def test_only_what_the_agent_says_is_the_answer():
    story = Story()
    answer = "".join(piece.text for one in A_RUN for piece in story.tell(one) if piece.is_answer)

    assert answer == "All done.\nSee b.py\n"


def test_thinking_is_dimmed_and_errors_are_marked():
    story = Story()
    styles = {piece.text.strip(): piece.style for one in A_RUN for piece in story.tell(one)}

    assert styles["Let me"] == "thinking"
    assert styles["✗ failed: not allowed"] == "bad"


def test_input_that_the_agent_does_not_get_is_no_word_of_the_person_but_a_fault():
    refused = event("input", "The agent does not get it: its work is over.", inputId="i", state="refused", code="over")

    (piece,) = Story().tell(refused)

    assert (piece.text, piece.style) == ("✗ The agent does not get it: its work is over.\n", "bad")


def test_deltas_are_shown_as_they_come_on_a_terminal_and_by_lines_elsewhere():
    live, plain = Story(live=True), Story(live=False)
    texts = ["one ", "two\nthr", "ee"]

    assert ["".join(p.text for p in live.tell(delta(text))) for text in texts] == texts
    assert ["".join(p.text for p in plain.tell(delta(text))) for text in texts] == ["", "one two\n", ""]


def test_a_whole_text_without_deltas_is_shown():
    assert told(whole("hello")) == "hello\n"


def test_what_the_deltas_lacked_is_added():
    assert told(delta("hel"), whole("hello there")) == "hello there\n"


def test_a_whole_text_that_is_another_is_shown_on_its_own_line():
    assert told(delta("draft"), whole("final")) == "draft\nfinal\n"


def test_a_text_cut_by_the_gateway_is_the_deltas():
    assert told(delta("all of a long text"), whole("all of a", truncated=True)) == "all of a long text\n"


def test_a_cut_text_of_which_no_deltas_came_says_so():
    assert told(whole("all of a", truncated=True)) == "all of a\n  (cut: the whole text is longer)\n"


def test_a_very_long_text_is_not_said_twice():
    parts = [str(number) * 50_000 for number in range(9)]
    text = "".join(parts)

    assert told(*map(delta, parts), whole(text)) == text + "\n"
    assert told(*map(delta, parts), whole(text[:9], truncated=True)) == text + "\n"
    assert told(*map(delta, parts[:-1]), whole(text)) == text + "\n"


def test_a_tool_call_in_the_middle_of_a_text_does_not_double_it():
    call = event("tool_call", id="1", name="Read", kind="read", input={"path": "a"})

    assert told(delta("first "), call, delta("second"), whole("first second")) == "first \n\n→ Read  a\n\nsecond\n"


def test_two_messages_are_two():
    assert told(delta("a"), whole("a"), delta("a"), whole("a")) == "a\na\n"


def test_an_event_of_a_gateway_that_knows_no_deltas_is_a_whole_message():
    assert told(event("message", "plain")) == "plain\n"


def test_a_tool_call_said_again_is_told_once_unless_it_says_more():
    first = event("tool_call", id="1", name="Bash", kind="execute", title="Bash")
    more = event("tool_call", id="1", name="Bash", kind="execute", title="Bash", input={"command": "ls"})

    assert told(first, first, more) == "$ Bash\n$ Bash  ls\n"


def test_long_lines_are_cut_to_the_terminal():
    call = event("tool_call", id="1", name="Bash", kind="execute", input={"command": "x" * 200})
    result = event("tool_result", "y" * 200 + "\nmore", id="1", ok=True)

    assert told(call, result, cells=40) == "$ Bash  " + "x" * 31 + "…\n  ✓ " + "y" * 25 + "… (+1 line)\n"


def test_events_that_are_not_known_are_told_by_their_name():
    assert told(event("weather", "sunny")) == "· weather sunny\n"


EVIL = "\x1b]0;owned\x07\x1b[2J\rhidden\u202e"


@pytest.mark.parametrize(
    "one",
    [
        delta(EVIL),
        whole(EVIL, "thinking"),
        event("tool_call", id="1", name=EVIL, kind=EVIL, title=EVIL, input={"command": EVIL}),
        event("tool_call", id="1", name="x", input=[EVIL]),
        event("tool_result", EVIL, id="1", ok=False),
        event("file_change", path=EVIL, op=EVIL),
        event("approval", EVIL, tool=EVIL, decision="deny", reason=EVIL),
        event("log", EVIL, level="error"),
        event("status", EVIL),
        event("input", EVIL),
        event("input", EVIL, state="refused"),
        event("error", EVIL, code=EVIL),
        event("question", EVIL),
        event(EVIL, EVIL),
    ],
    ids=lambda one: one.type.encode("unicode_escape").decode(),
)
def test_nothing_an_agent_says_reaches_the_terminal_with_power(one: EventRecord):
    text = told(one)

    assert text
    assert not set(text) & set("\x1b\x07\r\u202e")


FIELDS = [
    *("id", "name", "kind", "title", "input", "ok", "exitCode", "path", "op", "diff"),
    *("delta", "level", "code", "status", "state", "decision", "reason", "truncated"),
]
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


@given(
    st.lists(
        st.builds(
            lambda kind, content, data: EventRecord(
                type=kind, timestamp=0, id=1, task_id="t", content=content, data=data
            ),
            st.sampled_from([one.type for one in A_RUN] + ["diff", "question", "?"]),
            st.none() | st.text(max_size=20),
            st.none()
            | st.dictionaries(
                st.sampled_from(FIELDS),
                ODD,
                max_size=4,
            ),
        ),
        max_size=6,
    )
)
def test_data_of_any_shape_is_told_without_a_fault(events: list[EventRecord]):
    assert isinstance(told(*events), str)


@given(st.lists(st.text(alphabet="ab \n", min_size=1, max_size=6), min_size=1, max_size=8), st.booleans())
def test_however_a_text_is_streamed_it_reads_the_same(parts: list[str], live: bool):
    text = "".join(parts)
    story = Story(live=live)
    pieces = [piece for part in parts for piece in story.tell(delta(part))] + story.tell(whole(text))

    assert "".join(piece.text for piece in pieces).rstrip("\n") == text.rstrip("\n")


# --- the end ----------------------------------------------------------------------------------------


def the_end(**fields: Any) -> str:
    task = msgspec.json.decode(json.dumps(a_task(**fields)), type=Task)
    return "".join(piece.text for piece in closing(task, {"inputTokens": 12, "outputTokens": 3, "costUsd": 0.5}, "lap"))


def test_the_last_line_says_how_long_where_and_for_how_much():
    assert the_end(status="completed", startedAt=0, endedAt=2500) == (
        "✓ completed · 2.5s · on lap · 12 in 3 out · $0.5000 · task_01hf7yat000000000000000000\n"
    )


def test_a_failure_has_its_reason_and_what_to_know():
    assert the_end(status="failed", reason="exit_nonzero", detail="It exited with code 3.") == (
        "✗ failed (exit_nonzero) · on lap · 12 in 3 out · $0.5000 · task_01hf7yat000000000000000000\n"
        "  It exited with code 3.\n"
    )


# --- the last lines ---------------------------------------------------------------------------------


def test_the_tail_keeps_whole_lines_and_the_one_that_has_no_end_yet():
    tail = Tail(2)

    assert tail.take([Piece("a\nb\nc"), Piece("d\ne\n"), Piece("f")]) == []
    assert "".join(piece.text for piece in tail.rest()) == "cd\ne\nf"


def test_without_a_number_everything_passes():
    tail = Tail(None)

    assert [piece.text for piece in tail.take([Piece("a\nb")])] == ["a\nb"]
    assert tail.rest() == []
