"""Claude's protocol where the recordings do not go."""

from typing import Any

import pytest

from gateway.agents.base import End, Stream
from gateway.agents.claude import ClaudeKind
from shared_types.events import InputRefusal
from shared_types.tasks import PermissionMode, Reason
from tests.gateway.agents.talk import Talk, spec


def ask(tool: str, arguments: Any = None, request_id: str = "r1") -> dict[str, Any]:
    request = {"subtype": "can_use_tool", "tool_name": tool, "input": arguments or {}, "tool_use_id": "t1"}
    return {"type": "control_request", "request_id": request_id, "request": request}


def result(**said: Any) -> dict[str, Any]:
    usual = {"type": "result", "subtype": "success", "is_error": False, "result": "done", "stop_reason": "end_turn"}
    return usual | said


def started(mode: PermissionMode = PermissionMode.DEFAULT) -> Talk:
    talk = Talk("claude-code", mode)
    talk.write()
    return talk


# --- starting ---------------------------------------------------------------------------------------


def test_settings_and_servers_of_a_repository_are_left_alone() -> None:
    argv = ClaudeKind().driver(spec()).launch().argv

    assert argv[argv.index("--setting-sources") + 1] == "user"
    assert "--strict-mcp-config" in argv


def test_what_a_repository_advises_comes_as_a_file_of_ours() -> None:
    launch = ClaudeKind().driver(spec(instructions="Use tabs.")).launch()

    assert launch.files == {"instructions.md": b"Use tabs."}
    assert launch.argv[launch.argv.index("--append-system-prompt-file") + 1] == "{private}/instructions.md"


def test_the_owner_may_say_how_often_it_tries() -> None:
    assert ClaudeKind().driver(spec()).launch().env["CLAUDE_CODE_MAX_RETRIES"] == "4"
    owned = spec(host_env={"CLAUDE_CODE_MAX_RETRIES": "9"})
    assert ClaudeKind().driver(owned).launch().env["CLAUDE_CODE_MAX_RETRIES"] == "9"


@pytest.mark.parametrize(
    ("is_root", "env", "honoured"), [(False, {}, True), (True, {}, False), (True, {"IS_SANDBOX": "1"}, True)]
)
def test_root_bypasses_permissions_only_where_the_owner_says_it_does_no_harm(
    is_root: bool, env: dict[str, str], honoured: bool
) -> None:
    refusal = ClaudeKind().supports(PermissionMode.BYPASS, is_root=is_root, env=env)

    assert (refusal is None) == honoured
    assert honoured or "IS_SANDBOX=1" in (refusal or "")
    assert ClaudeKind().supports(PermissionMode.PLAN, is_root=is_root, env=env) is None


@pytest.mark.parametrize(
    ("env", "files", "known"),
    [
        ({}, [], False),
        ({"ANTHROPIC_API_KEY": "k"}, [], True),
        ({}, [".claude/.credentials.json"], True),
        ({}, [".claude/settings.json"], None),
        ({"CLAUDE_CONFIG_DIR": "/x"}, [], None),
    ],
)
def test_a_login_is_seen_missed_or_unknown(env: dict[str, str], files: list[str], known: bool | None) -> None:
    assert ClaudeKind().logged_in(env, frozenset(files)) is known


# --- asks -------------------------------------------------------------------------------------------


def test_what_is_asked_in_bypass_is_allowed_with_its_own_input() -> None:
    talk = started(PermissionMode.BYPASS)
    arguments = {"command": "rm -r build", "n": 10**30}

    (event,) = talk.say(ask("Bash", arguments))

    assert event.data is not None
    assert event.data["decision"] == "allow"
    assert talk.write()[0]["response"]["response"] == {"behavior": "allow", "updatedInput": arguments}
    assert talk.driver.evidence.denied == ()


@pytest.mark.parametrize("tool", ["AskUserQuestion", "ExitPlanMode"])
def test_a_question_to_a_person_is_answered_and_is_no_denied_tool(tool: str) -> None:
    talk = started(PermissionMode.PLAN)

    (event,) = talk.say(ask(tool, {"plan": "1. rest"}))

    assert event.data is not None
    assert event.data["decision"] == "deny"
    assert talk.write()[0]["response"]["response"]["message"].startswith("Nobody is here")
    assert talk.driver.evidence.denied == ()


def test_an_ask_of_a_kind_we_do_not_know_is_answered_too() -> None:
    talk = started()

    (event,) = talk.say({"type": "control_request", "request_id": "r9", "request": {"subtype": "elicitation"}})

    assert "elicitation" in (event.content or "")
    answer = talk.write()[0]["response"]
    assert (answer["subtype"], answer["request_id"]) == ("error", "r9")


def test_an_ask_that_is_withdrawn_is_not_answered() -> None:
    talk = started()

    talk.say(ask("Write"), {"type": "control_cancel_request", "request_id": "r1"})

    assert talk.driver.to_write() == []


def test_a_denial_that_was_never_asked_is_on_record() -> None:
    talk = started()

    (event,) = talk.say(
        {"type": "system", "subtype": "permission_denied", "tool_name": "Bash", "tool_use_id": "t", "message": "rule"}
    )

    assert event.data is not None
    assert (event.data["tool"], event.data["decision"], event.data["reason"]) == ("Bash", "deny", "rule")
    assert talk.driver.evidence.denied == ("Bash",)


def test_work_that_found_another_way_was_not_given_up() -> None:
    talk = started()
    ok = {"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": "t2", "content": "fine"}]}}

    talk.say(ask("Bash"))
    assert not talk.driver.evidence.finished_after_denial
    talk.say(ok)

    assert talk.driver.evidence.finished_after_denial
    assert talk.driver.evidence.denied == ("Bash",)


def test_denials_that_only_the_result_tells_of_count() -> None:
    talk = started()

    talk.say(result(permission_denials=[{"tool_name": "WebFetch"}]))

    assert talk.driver.evidence.denied == ("WebFetch",)


# --- the end of a turn ------------------------------------------------------------------------------


def test_success_with_an_error_is_an_error() -> None:
    talk = started()

    talk.say(
        {"type": "assistant", "error": "billing_error", "message": {"content": [{"type": "text", "text": "Pay!"}]}},
        result(is_error=True, result="Pay!", api_error_status=None),
    )

    assert (talk.driver.evidence.end, talk.driver.evidence.reason) == (End.ERROR, Reason.QUOTA)
    assert talk.driver.evidence.answer == ""


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"subtype": "error_max_turns", "result": None}, Reason.MAX_TURNS),
        ({"stop_reason": "refusal", "result": "I will not."}, Reason.REFUSAL),
        ({"is_error": True, "result": "Not logged in · Please run /login"}, Reason.PROVIDER_AUTH),
        ({"is_error": True, "result": "Prompt is too long", "api_error_status": 400}, Reason.CONTEXT_OVERFLOW),
        (
            {
                "subtype": "error_during_execution",
                "is_error": True,
                "result": None,
                "errors": ["No conversation found"],
            },
            Reason.AGENT_ERROR,
        ),
    ],
)
def test_each_bad_end_has_its_reason(said: dict[str, Any], reason: Reason) -> None:
    talk = started()

    talk.say(result(**said))

    assert (talk.driver.evidence.end, talk.driver.evidence.reason) == (End.ERROR, reason)
    assert talk.driver.is_done


def test_a_result_with_turns_in_the_queue_is_not_the_end() -> None:
    talk = started()

    talk.say(result(queued_turn_count=1))
    assert not talk.driver.is_done
    talk.say({"type": "system", "subtype": "init"}, result(result="the rest"))

    assert talk.driver.is_done
    assert talk.driver.evidence.answer == "the rest"


def test_an_older_release_that_names_no_messages_still_comes_to_an_end() -> None:
    talk = started()
    talk.driver.say("i1", "more")
    talk.write()

    told = talk.say(result())

    assert [event.type for event in told] == ["input"]
    assert talk.driver.is_done


def test_cancelling_says_so_once_and_takes_nothing_more() -> None:
    talk = started()

    talk.driver.cancel()
    talk.driver.cancel()

    assert [said["request"]["subtype"] for said in talk.write()] == ["interrupt"]
    assert talk.write() == []
    assert talk.driver.say("i1", "more") is InputRefusal.OVER
    talk.say(result(subtype="error_during_execution", is_error=True, terminal_reason="aborted_streaming", result=None))
    assert (talk.driver.evidence.end, talk.driver.is_done) == (End.CANCELLED, True)


def test_helpers_of_the_agent_are_heard_in_the_log_alone() -> None:
    talk = started()
    words = {"content": [{"type": "text", "text": "found it"}]}

    told = talk.say(
        {"type": "stream_event", "parent_tool_use_id": "t1", "event": {"delta": {"type": "text_delta", "text": "f"}}},
        {"type": "assistant", "parent_tool_use_id": "t1", "message": words},
    )

    assert [(event.type, event.content) for event in told] == [("log", "found it")]
    assert talk.driver.evidence.answer == ""


def test_an_edit_is_shown_as_the_agent_shows_it() -> None:
    talk = started()
    hunk = {"oldStart": 3, "oldLines": 1, "newStart": 3, "newLines": 1, "lines": ["-a", "+b"]}
    changed = {"type": "update", "filePath": "/recorded/repo/src/x.py", "structuredPatch": [hunk]}

    told = talk.say({"type": "user", "message": {"content": []}, "tool_use_result": changed})

    assert [event.data for event in told] == [
        {"path": "src/x.py", "op": "update", "diff": "--- a/src/x.py\n+++ b/src/x.py\n@@ -3,1 +3,1 @@\n-a\n+b\n"}
    ]


def test_stderr_says_why_there_never_was_a_result() -> None:
    talk = started()

    talk.complain("error: unknown option '--frob'")
    talk.end(1)

    assert (talk.driver.evidence.end, talk.driver.evidence.error) == (End.NONE, "error: unknown option '--frob'")


def test_a_journal_that_was_cut_in_the_middle_of_a_line_is_no_harm() -> None:
    talk = started()

    told = [*talk.hear(Stream.OUT, b'{"type":"result","subtype":"succ'), *talk.end()]

    assert [event.type for event in told] == ["log"]
    assert talk.driver.evidence.end is End.NONE
