"""How opencode is started, and what it says outside the protocol."""

import json
from typing import Any

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


def rules(mode: PermissionMode, **owned: str) -> dict[str, Any]:
    env = KINDS["opencode"].driver(spec(mode, host_env=owned)).launch().env
    said: dict[str, Any] = json.loads(env["OPENCODE_PERMISSION"])
    return said


@pytest.mark.parametrize("mode", [mode for mode in PermissionMode if mode is not PermissionMode.BYPASS])
def test_opencode_asks_before_it_changes_or_reaches_anything(mode: PermissionMode) -> None:
    told = rules(mode)

    assert (told["edit"], told["webfetch"], told["external_directory"]) == ("ask", "ask", "ask")
    assert told["bash"] == "ask" or next(iter(told["bash"].items())) == ("*", "ask")


def test_in_bypass_opencode_is_as_its_owner_has_it() -> None:
    launch = KINDS["opencode"].driver(spec(PermissionMode.BYPASS)).launch()

    assert "OPENCODE_PERMISSION" not in launch.env


@pytest.mark.parametrize(
    "owned",
    [
        {"OPENCODE_PERMISSION": '{"read":"deny","bash":"allow"}'},
        {"OPENCODE_CONFIG_CONTENT": '{"permission":{"read":"deny","bash":"allow"}}'},
        {
            "OPENCODE_CONFIG_CONTENT": '{"permission":{"read":"deny","bash":"deny"}}',
            "OPENCODE_PERMISSION": '{"bash":"allow"}',
        },
    ],
)
def test_what_the_owner_rules_counts_where_a_person_may_rely_on_it(owned: dict[str, str]) -> None:
    usual, careful = rules(PermissionMode.DEFAULT, **owned), rules(PermissionMode.DENY, **owned)

    assert (usual["read"], usual["bash"], usual["edit"]) == ("deny", "allow", "ask")
    assert (careful["read"], careful["bash"], careful["edit"]) == ("deny", "ask", "ask")


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
