"""How gemini is started, and what it says outside the protocol."""

import json

import pytest

from gateway.agents.catalogue import KINDS
from shared_types.tasks import PermissionMode
from tests.gateway.agents.recorded import kind_of
from tests.gateway.agents.talk import Talk, prompted, spec, update


def failure(status: int) -> str:
    told = json.dumps({"error": {"code": status, "message": "Slow down."}})
    return f"[2026-01-01T00:00:00.000Z] [WARN] Attempt 1 failed with status {status}. Retrying... _ApiError: {told}"


def test_it_tells_of_a_failing_model_in_its_log_alone() -> None:
    (warning,) = prompted("gemini").complain(failure(429))

    assert warning.content == "the model failed (1): Slow down."


def test_a_tools_name_stands_in_its_calls_id() -> None:
    call = {"toolCallId": "write_file__fc_01", "status": "in_progress", "title": "Writing to a.txt", "kind": "edit"}

    (event,) = prompted("gemini").say(update(sessionUpdate="tool_call", **call))

    assert event.data is not None
    assert (event.data["name"], event.data["title"]) == ("write_file", "write_file: Writing to a.txt")


@pytest.mark.parametrize("mode", PermissionMode)
def test_gemini_trusts_nobody_and_asks_in_every_mode(mode: PermissionMode) -> None:
    launch = KINDS["gemini"].driver(spec(mode, model=None)).launch()

    assert launch.argv == ("/bin/agent", "--acp", "--approval-mode", "default")
    assert launch.env["GEMINI_CLI_TRUST_WORKSPACE"] == "false"


def test_gemini_plans_as_its_own_planner() -> None:
    talk = prompted("gemini", PermissionMode.PLAN)

    assert talk.written["setup:1"]["method"] == "session/set_mode"
    assert talk.written["setup:1"]["params"] == {"sessionId": "s1", "modeId": "plan"}


def test_what_a_repository_advises_stands_in_front_of_the_prompt() -> None:
    blocks = prompted("gemini", instructions="Use tabs.").written["prompt"]["params"]["prompt"]

    assert [block["text"] for block in blocks] == ["GEMINI.md of this repository says:\n\nUse tabs.", "the prompt"]


@pytest.mark.parametrize("driver", ["gemini", "gemini-oneshot"])
@pytest.mark.parametrize(
    ("owned", "options"),
    [
        ({}, '--require="{private}/guard.cjs"'),
        ({"NODE_OPTIONS": "--use-openssl-ca"}, '--use-openssl-ca --require="{private}/guard.cjs"'),
    ],
)
def test_a_guard_runs_before_gemini_beside_what_the_owner_wants_of_node(
    driver: str, owned: dict[str, str], options: str
) -> None:
    launch = kind_of(driver).driver(spec(host_env=owned)).launch()

    assert launch.env["NODE_OPTIONS"] == options
    assert b"existsSync" in launch.files["guard.cjs"]


def test_what_its_own_rules_deny_is_denied_and_not_silently() -> None:
    talk = prompted("gemini", PermissionMode.PLAN)
    words = 'Tool execution for "WriteFile" denied by policy.'
    content = [{"type": "content", "content": {"type": "text", "text": words}}]
    failed = {"toolCallId": "write_file__1", "status": "failed", "kind": "edit", "content": content}

    told = talk.say(update(sessionUpdate="tool_call_update", **failed))

    assert [event.type for event in told] == ["tool_call", "approval", "tool_result"]
    assert told[1].data is not None
    assert (told[1].data["decision"], told[1].data["reason"]) == ("deny", words)
    assert (talk.driver.evidence.denied, talk.driver.evidence.finished_after_denial) == (("write_file",), False)


def test_what_gemini_says_before_its_log_begins_may_be_all_it_ever_says() -> None:
    talk = Talk("gemini")

    told = talk.complain("Unknown argument: frob")
    told += talk.complain("[2026-01-01T00:00:00.000Z] [DEBUG] Hook registry initialized")
    told += talk.complain("  at somewhere (file.js:1:1)")
    talk.end(1)

    assert [event.content for event in told] == ["Unknown argument: frob"]
    assert talk.driver.evidence.error == "Unknown argument: frob"


@pytest.mark.parametrize(
    ("env", "files", "known"),
    [
        ({}, [], False),
        ({}, [".gemini/settings.json"], None),
        ({}, [".gemini/oauth_creds.json"], True),
        ({"GEMINI_API_KEY": "k"}, [], True),
    ],
)
def test_a_login_is_seen_missed_or_unknown(env: dict[str, str], files: list[str], known: bool | None) -> None:
    assert KINDS["gemini"].logged_in(env, frozenset(files)) is known
