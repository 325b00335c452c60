"""The Agent Client Protocol where the recordings do not go: the same for all agents that speak it."""

from typing import Any

import pytest

from gateway.agents.base import End
from shared_types.tasks import PermissionMode, Reason
from tests.gateway.agents import test_gemini, test_opencode
from tests.gateway.agents.talk import Talk, answer, chunk, prompted, update

AGENTS = ["opencode", "gemini"]
each_agent = pytest.mark.parametrize("agent", AGENTS)


def ask(*kinds: str, **call: Any) -> dict[str, Any]:
    options = [{"optionId": f"o-{kind}", "kind": kind} for kind in kinds]
    tool = {"toolCallId": "c1", "title": "tool", "kind": "execute", **call}
    return {"id": 7, "method": "session/request_permission", "params": {"toolCall": tool, "options": options}}


# --- the conversation -------------------------------------------------------------------------------


@each_agent
def test_it_begins_step_by_step_and_each_step_waits_for_the_one_before(agent: str) -> None:
    talk = Talk(agent)

    assert [said["method"] for said in talk.write()] == ["initialize"]
    assert talk.write() == []
    talk.say(answer("initialize", result={"protocolVersion": 1}))
    assert [said["method"] for said in talk.write()] == ["session/new"]
    talk.say(answer("new", result={"sessionId": "s1"}))
    talk = prompted(agent)

    assert talk.written["prompt"]["params"] == {
        "sessionId": "s1",
        "prompt": [{"type": "text", "text": "the prompt"}],
    }


@each_agent
def test_another_protocol_is_an_error_and_nothing_more_is_written(agent: str) -> None:
    talk = Talk(agent)
    talk.write()

    talk.say(answer("initialize", result={"protocolVersion": 99}))

    assert talk.driver.evidence.reason == Reason.PROTOCOL_ERROR
    assert talk.driver.is_done
    assert talk.driver.to_write() == []


@each_agent
def test_a_session_that_needs_a_login_says_so(agent: str) -> None:
    talk = Talk(agent)
    talk.write()
    talk.say(answer("initialize", result={"protocolVersion": 1}))
    talk.write()

    talk.say(answer("new", error={"code": -32000, "message": "Authentication required"}))

    assert (talk.driver.evidence.end, talk.driver.evidence.reason) == (End.ERROR, Reason.PROVIDER_AUTH)
    assert talk.driver.is_done


@each_agent
def test_a_message_ends_when_something_else_begins(agent: str) -> None:
    talk = prompted(agent)

    told = talk.say(
        chunk("a"),
        chunk("b"),
        chunk("hm", "agent_thought_chunk"),
        chunk("c"),
        answer("prompt", result={"stopReason": "end_turn"}),
    )

    finals = [(event.type, event.content) for event in told if event.data and event.data.get("delta") is False]
    assert finals == [("message", "ab"), ("thinking", "hm"), ("message", "c")]
    assert talk.driver.evidence.answer == "c"


@each_agent
def test_two_messages_in_a_row_are_told_apart_by_their_names(agent: str) -> None:
    talk = prompted(agent)

    told = talk.say(chunk("one", messageId="m1"), chunk("two", messageId="m2"))

    assert [event.content for event in told if event.data and not event.data["delta"]] == ["one"]


@each_agent
def test_another_session_of_the_agents_own_is_not_ours(agent: str) -> None:
    talk = prompted(agent)
    other = {"sessionId": "s2", "update": {"sessionUpdate": "agent_message_chunk", "content": {"text": "x"}}}

    assert talk.say({"method": "session/update", "params": other}) == []


@pytest.mark.parametrize(
    ("stop", "end", "reason"),
    [
        ("end_turn", End.OK, None),
        ("cancelled", End.CANCELLED, None),
        ("refusal", End.ERROR, Reason.REFUSAL),
        ("max_turn_requests", End.ERROR, Reason.MAX_TURNS),
        ("max_tokens", End.ERROR, Reason.AGENT_ERROR),
        (None, End.ERROR, Reason.AGENT_ERROR),
    ],
)
@each_agent
def test_how_a_turn_stopped_is_how_it_ended(agent: str, stop: str | None, end: End, reason: Reason | None) -> None:
    talk = prompted(agent)

    talk.say(answer("prompt", result={"stopReason": stop}))

    assert (talk.driver.evidence.end, talk.driver.evidence.reason) == (end, reason)
    assert talk.driver.is_done


@each_agent
def test_input_waits_for_the_end_of_the_turn_one_at_a_time(agent: str) -> None:
    talk = prompted(agent)
    assert talk.driver.say("i1", "first") is None
    assert talk.driver.say("i2", "second") is None
    assert talk.write() == []

    talk.say(answer("prompt", result={"stopReason": "end_turn"}))
    assert [said["id"] for said in talk.write()] == ["say:i1"]
    assert not talk.driver.is_done
    talk.say(answer("say:i1", result={"stopReason": "end_turn"}))
    assert [said["params"]["prompt"][0]["text"] for said in talk.write()] == ["second"]
    talk.say(answer("say:i2", result={"stopReason": "end_turn"}))

    assert talk.driver.is_done


@each_agent
def test_an_answer_that_comes_before_the_journal_has_the_question_counts(agent: str) -> None:
    talk = Talk(agent)

    talk.say(answer("initialize", result={"protocolVersion": 1}))

    assert [write.key for write in talk.driver.to_write()] == ["new"]


@each_agent
def test_an_answer_to_nothing_is_nothing(agent: str) -> None:
    talk = Talk(agent)

    assert talk.say(answer("say:i9", result={"stopReason": "end_turn"}), answer("prompt", error={})) == []
    assert talk.driver.evidence.end is End.NONE


@each_agent
def test_cancelling_during_a_turn_is_a_word_and_waiting_input_is_dropped(agent: str) -> None:
    talk = prompted(agent)
    talk.driver.say("i1", "more")

    talk.driver.cancel()

    assert [said["method"] for said in talk.write()] == ["session/cancel"]
    assert not talk.driver.is_done
    talk.say(answer("prompt", result={"stopReason": "end_turn"}))
    assert (talk.driver.evidence.end, talk.driver.is_done) == (End.CANCELLED, True)
    assert talk.driver.to_write() == []


@each_agent
def test_cancelling_before_the_session_stands_stops_it_there(agent: str) -> None:
    talk = Talk(agent)
    talk.write()

    talk.driver.cancel()
    talk.say(answer("initialize", result={"protocolVersion": 1}))

    assert talk.driver.is_done
    assert "prompt" not in [write.key for write in talk.driver.to_write()]


# --- asks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "offered", "chosen"),
    [
        (PermissionMode.BYPASS, ["allow_always", "allow_once", "reject_once"], "o-allow_once"),
        (PermissionMode.BYPASS, ["allow_always"], "o-allow_always"),
        (PermissionMode.DEFAULT, ["allow_once", "reject_always", "reject_once"], "o-reject_once"),
        (PermissionMode.DEFAULT, ["allow_once"], None),
        (PermissionMode.BYPASS, ["reject_once"], None),
    ],
)
@each_agent
def test_an_ask_is_answered_with_the_narrowest_option(
    agent: str, mode: PermissionMode, offered: list[str], chosen: str | None
) -> None:
    talk = prompted(agent, mode)

    told = talk.say(ask(*offered))

    outcome = talk.write()[0]["result"]["outcome"]
    assert outcome == ({"outcome": "selected", "optionId": chosen} if chosen else {"outcome": "cancelled"})
    allowed = bool(chosen) and mode is PermissionMode.BYPASS
    assert [e.data["decision"] for e in told if e.type == "approval" and e.data] == ["allow" if allowed else "deny"]
    assert bool(talk.driver.evidence.denied) != allowed


INSIDE = "/recorded/repo/a.txt"


def edit(*paths: str, seen: tuple[str, ...] = (), **call: Any) -> dict[str, Any]:
    """An ask to change these files, with places in `seen`."""
    diffs = [{"type": "diff", "path": path, "oldText": "", "newText": "x"} for path in paths]
    locations = [{"path": path} for path in seen]
    return ask("allow_once", "reject_once", **{"kind": "edit", "content": diffs, "locations": locations, **call})


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        (edit(INSIDE), True),
        (edit("a.txt", seen=(INSIDE,)), True),
        (edit(seen=("/recorded/repo/deep/../a.txt",)), True),
        (edit("/recorded/repo/.github/a.yml"), True),
        (edit(INSIDE, kind="delete"), False),
        (edit(INSIDE, kind="execute"), False),
        (edit(), False),
        (edit(""), False),
        (edit("/recorded/repo"), False),
        (edit("/recorded/repo-of-another/a.txt"), False),
        (edit("/recorded/repo/../a.txt"), False),
        (edit("../a.txt"), False),
        (edit(INSIDE, seen=("/etc/passwd",)), False),
        (edit(INSIDE, "/etc/passwd"), False),
        (edit("/recorded/repo/.git/hooks/pre-commit"), False),
        (edit("/recorded/repo/sub/.GIT/config"), False),
    ],
)
@each_agent
def test_accepted_edits_are_those_inside_the_directory(agent: str, asked: dict[str, Any], allowed: bool) -> None:
    talk = prompted(agent, PermissionMode.ACCEPT_EDITS)

    told = talk.say(asked)

    decision = "allow" if allowed else "deny"
    assert [event.data["decision"] for event in told if event.type == "approval" and event.data] == [decision]


@each_agent
def test_an_edit_is_accepted_in_no_other_mode_than_the_two_that_say_so(agent: str) -> None:
    for mode in (PermissionMode.DEFAULT, PermissionMode.PLAN, PermissionMode.DENY):
        (decision,) = (e.data["decision"] for e in prompted(agent, mode).say(edit(INSIDE)) if e.type == "approval")  # type: ignore[index]

        assert decision == "deny"


@each_agent
def test_a_denied_call_has_one_call_and_one_result(agent: str) -> None:
    talk = prompted(agent)

    told = talk.say(ask("reject_once"), update(sessionUpdate="tool_call_update", toolCallId="c1", status="failed"))

    assert [event.type for event in told] == ["tool_call", "approval", "tool_result"]


@each_agent
def test_nothing_more_is_said_of_a_denied_call(agent: str) -> None:
    talk = prompted(agent)
    talk.say(ask("reject_once"))

    for status in ("in_progress", "failed"):
        assert talk.say(update(sessionUpdate="tool_call_update", toolCallId="c1", status=status, kind="edit")) == []


@each_agent
def test_a_call_that_fails_before_it_is_told_of_has_a_call_and_a_result(agent: str) -> None:
    why = [{"type": "content", "content": {"type": "text", "text": "Path not in workspace"}}]
    failed = {"toolCallId": "c1", "status": "failed", "kind": "edit", "content": why}

    told = prompted(agent).say(update(sessionUpdate="tool_call_update", **failed))

    assert [(event.type, event.content) for event in told] == [
        ("tool_call", None),
        ("tool_result", "Path not in workspace"),
    ]


@each_agent
def test_what_we_did_not_offer_is_refused_with_an_error(agent: str) -> None:
    talk = prompted(agent)

    (told,) = talk.say({"id": "x", "method": "fs/write_text_file", "params": {"path": "/etc/passwd"}})

    assert told.data == {"level": "debug", "source": "agent"}
    assert talk.write() == [
        {"jsonrpc": "2.0", "id": "x", "error": {"code": -32601, "message": "fs/write_text_file is not offered"}}
    ]


@each_agent
def test_a_change_without_a_diff_is_still_a_change(agent: str) -> None:
    talk = prompted(agent)
    call = {"toolCallId": "c1", "kind": "edit", "title": "write", "rawInput": {"filePath": "a/b.txt", "content": "x\n"}}

    told = talk.say(
        update(sessionUpdate="tool_call", status="in_progress", **call),
        update(sessionUpdate="tool_call_update", toolCallId="c1", status="completed"),
    )

    assert [event.data for event in told if event.type == "file_change"] == [{"path": "a/b.txt", "op": "update"}]


# --- a model that fails -----------------------------------------------------------------------------


FAILURES = [
    ("opencode", test_opencode.failure("AI_APICallError: Rate limit reached")),
    ("gemini", test_gemini.failure(429)),
]


@pytest.mark.parametrize(("agent", "line"), FAILURES)
def test_a_model_that_fails_again_and_again_ends_the_turn(agent: str, line: str) -> None:
    talk = prompted(agent)

    told = [event for _ in range(10) for event in talk.complain(line)]

    assert [event.type for event in told][-1] == "error"
    assert talk.driver.evidence.reason == Reason.RATE_LIMIT
    assert [said["method"] for said in talk.write()] == ["session/cancel"]
    talk.say(answer("prompt", result={"stopReason": "cancelled"}))
    assert (talk.driver.evidence.end, talk.driver.is_done) == (End.ERROR, True)


@pytest.mark.parametrize(("agent", "line"), FAILURES)
def test_failures_with_progress_between_them_are_not_the_end(agent: str, line: str) -> None:
    talk = prompted(agent)

    told = [event for n in range(20) for event in [*talk.complain(line), *talk.say(chunk(f"{n} "))]]

    assert "error" not in {event.type for event in told}
    assert talk.driver.evidence.end is End.NONE


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"code": 429, "message": "busy"}, Reason.RATE_LIMIT),
        ({"code": 500, "message": "oops"}, Reason.PROVIDER_ERROR),
        ({"code": -32603, "message": "Internal error", "data": {"details": "invalid api key"}}, Reason.PROVIDER_AUTH),
        (
            {"code": -32603, "message": "Internal error", "data": {"errorName": "ContextOverflowError"}},
            Reason.CONTEXT_OVERFLOW,
        ),
        ({}, Reason.AGENT_ERROR),
        ("no object", Reason.AGENT_ERROR),
    ],
)
@each_agent
def test_an_error_instead_of_an_answer_has_its_reason(agent: str, fault: Any, reason: Reason) -> None:
    talk = prompted(agent)

    talk.say(answer("prompt", error=fault))

    assert (talk.driver.evidence.end, talk.driver.evidence.reason) == (End.ERROR, reason)
