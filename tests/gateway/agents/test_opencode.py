"""How opencode is started, and what it says outside the protocol."""

import json

import pytest

from gateway.agents.catalogue import KINDS
from shared_types.tasks import PermissionMode
from tests.gateway.agents.recorded import SESSION
from tests.gateway.agents.talk import Talk, answer, prompted, spec


def failure(words: str) -> str:
    return f'timestamp=2026-01-01T00:00:00.000Z level=ERROR message="stream error" x=1 error.error={json.dumps(words)}'


def test_it_tells_of_a_failing_model_on_stderr_alone() -> None:
    talk = prompted("opencode")

    (warning,) = talk.complain(failure('AI_APICallError: it said "no"'))

    assert warning.content == 'the model failed (1): it said "no"'


def test_other_lines_of_its_log_are_for_those_who_look_for_a_fault() -> None:
    (line,) = prompted("opencode").complain("level=ERROR message=process error=x")

    assert line.data == {"level": "debug", "source": "stderr"}


def test_its_server_has_a_password_that_is_the_same_for_a_session_and_no_part_of_its_name() -> None:
    password = KINDS["opencode"].driver(spec()).launch().env["OPENCODE_SERVER_PASSWORD"]

    assert password == KINDS["opencode"].driver(spec()).launch().env["OPENCODE_SERVER_PASSWORD"]
    assert len(password) == 64
    assert SESSION not in password


def test_configuration_of_a_repository_is_left_alone() -> None:
    assert KINDS["opencode"].driver(spec()).launch().env["OPENCODE_DISABLE_PROJECT_CONFIG"] == "1"


def test_a_model_that_opencode_does_not_know_ends_it_before_the_prompt() -> None:
    talk = Talk("opencode", model="nope/nothing")
    talk.write()
    talk.say(answer("initialize", result={"protocolVersion": 1}))
    talk.write()
    talk.say(answer("new", result={"sessionId": "s1"}))

    (configure,) = talk.write()
    assert configure["params"] == {"sessionId": "s1", "configId": "model", "value": "nope/nothing"}
    talk.say(answer("setup:1", error={"code": -32602, "message": "unknown model nope/nothing"}))

    assert talk.driver.evidence.error == "unknown model nope/nothing"
    assert "prompt" not in talk.written
    assert talk.driver.is_done


def test_opencode_lays_what_a_mode_needs_over_the_owners_own_rules() -> None:
    owned = {"OPENCODE_PERMISSION": '{"read":"deny","bash":"allow"}'}

    asking = KINDS["opencode"].driver(spec(PermissionMode.ACCEPT_EDITS, host_env=owned)).launch().env
    usual = KINDS["opencode"].driver(spec(PermissionMode.DEFAULT, host_env=owned)).launch().env

    rules = json.loads(asking["OPENCODE_PERMISSION"])
    assert (rules["read"], rules["bash"], "edit" in rules) == ("deny", "ask", False)
    assert "OPENCODE_PERMISSION" not in usual  # the host's own stays


def test_opencode_gets_a_repositorys_advice_beside_the_owners_own_instructions() -> None:
    owned = {"OPENCODE_CONFIG_CONTENT": '{"model":"a/b","instructions":["mine.md"]}'}

    launch = KINDS["opencode"].driver(spec(host_env=owned, instructions="Use tabs.")).launch()

    config = json.loads(launch.env["OPENCODE_CONFIG_CONTENT"])
    assert config == {"model": "a/b", "instructions": ["mine.md", "{private}/instructions.md"]}
    assert launch.files["instructions.md"] == b"Use tabs."


def test_opencode_plans_as_its_own_planner() -> None:
    talk = prompted("opencode", PermissionMode.PLAN)

    assert talk.written["setup:2"]["params"] == {"sessionId": "s1", "configId": "mode", "value": "plan"}


@pytest.mark.parametrize(
    ("env", "files", "known"),
    [
        ({}, [], None),
        ({}, [".local/share/opencode/auth.json"], True),
        ({"OPENAI_API_KEY": "k"}, [], True),
    ],
)
def test_a_login_is_seen_missed_or_unknown(env: dict[str, str], files: list[str], known: bool | None) -> None:
    assert KINDS["opencode"].logged_in(env, frozenset(files)) is known
