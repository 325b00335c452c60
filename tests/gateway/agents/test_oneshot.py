"""The one-shot modes: how they are started, and what they cannot do."""

import pytest

from gateway.agents.base import End, StdinMode
from gateway.agents.oneshot import KINDS
from shared_types.events import InputRefusal
from shared_types.tasks import PermissionMode
from tests.gateway.agents.talk import Talk, spec

each_agent = pytest.mark.parametrize("agent", KINDS)


@each_agent
def test_the_prompt_is_on_stdin_and_the_answer_goes_to_a_file(agent: str) -> None:
    launch = KINDS[agent].driver(spec()).launch()

    assert (launch.stdin_mode, launch.stdin) == (StdinMode.ONCE, b"the prompt")
    assert launch.stdout_to_file


@each_agent
def test_nobody_can_speak_with_it(agent: str) -> None:
    driver = KINDS[agent].driver(spec())

    assert driver.to_write() == []
    assert driver.say("i1", "more") is InputRefusal.NOT_SUPPORTED


@each_agent
def test_a_cancelled_run_is_over_for_us(agent: str) -> None:
    driver = KINDS[agent].driver(spec())

    driver.cancel()

    assert driver.is_done


def test_claude_reads_no_files_and_runs_no_commands_that_a_prompt_names() -> None:
    launch = KINDS["claude-code"].driver(spec()).launch()

    assert "--disable-slash-commands" in launch.argv
    assert launch.env["CLAUDE_CODE_DISABLE_FILE_MENTIONS"] == "1"
    assert not {"--input-format", "--permission-prompt-tool", "stdio"} & set(launch.argv)
    assert launch.argv[launch.argv.index("--output-format") + 1] == "stream-json"


@pytest.mark.parametrize(
    ("mode", "extra"),
    [(PermissionMode.BYPASS, ("--auto",)), (PermissionMode.PLAN, ("--agent", "plan")), (PermissionMode.DEFAULT, ())],
)
def test_opencode_is_told_the_mode(mode: PermissionMode, extra: tuple[str, ...]) -> None:
    argv = KINDS["opencode"].driver(spec(mode, model=None)).launch().argv

    assert argv[-len(extra) :] == extra if extra else argv[-1] == "ERROR"


def test_what_opencode_rejects_on_stderr_is_an_approval() -> None:
    talk = Talk("opencode-oneshot")

    (event,) = talk.complain("! permission requested: bash (touch k1); auto-rejecting")
    talk.end()

    assert event.data is not None
    assert (event.data["tool"], event.data["decision"], event.content) == ("bash", "deny", "bash (touch k1)")
    assert (talk.driver.evidence.end, talk.driver.evidence.denied) == (End.OK, ("bash",))
    assert not talk.driver.evidence.finished_after_denial


def test_an_interrupted_gemini_that_exits_with_zero_proves_nothing() -> None:
    talk = Talk("gemini-oneshot")

    talk.say({"type": "init", "session_id": "g1"}, {"type": "message", "role": "assistant", "content": "half"})
    talk.end(0)

    assert talk.driver.evidence.end is End.NONE
    assert talk.driver.evidence.session_id == "g1"
