"""Real opencode, claude and gemini, a real manager and gateway, and a model that does what the prompt says.

Each test reads: start, submit, wait, look. `crew` is one manager and one gateway for the whole module, with a
repository of its own per test; at its end no process of any attempt may be left.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from e2e.crew import Crew, Story, a_crew
from e2e.harness import Json

AGENTS = ["claude-code", "opencode", "gemini"]
pytestmark = [pytest.mark.agents, pytest.mark.timeout(240)]
each_agent = pytest.mark.parametrize("agent", AGENTS)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def crew(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Crew]:
    async with a_crew(tmp_path_factory.mktemp("crew")) as started:
        yield started


@each_agent
async def test_a_plain_answer_arrives_once_and_completes(crew: Crew, agent: str) -> None:
    story = await crew.tell("@@text:Good morning, fleet.@@", agent)

    assert story.task["status"] == "completed", story
    assert story.finals("message") == ["Good morning, fleet."]
    assert story.task["result"]["success"] is True
    assert story.task["result"]["output"] == "Good morning, fleet."
    assert story.ids == list(range(1, len(story.ids) + 1))


@each_agent
async def test_a_file_is_really_written_and_said_so(crew: Crew, agent: str) -> None:
    story = await crew.tell("@@write:note.txt:written by an agent@@@@text:done@@", agent, mode="acceptEdits")

    assert story.task["status"] == "completed", story
    assert (story.cwd / "note.txt").read_text().strip() == "written by an agent"
    assert [Path(event["data"]["path"]).name for event in story.of("file_change")] == ["note.txt"]
    assert [event["data"]["ok"] for event in story.of("tool_result")] == [True]


@each_agent
async def test_a_command_runs_and_its_call_and_result_belong_together(crew: Crew, agent: str) -> None:
    story = await crew.tell("@@sh:echo marked > ran.txt@@@@text:done@@", agent, mode="bypass")

    assert story.task["status"] == "completed", story
    assert (story.cwd / "ran.txt").read_text().strip() == "marked"
    assert [event["data"]["id"] for event in story.of("tool_call")] == [
        event["data"]["id"] for event in story.of("tool_result")
    ]


@each_agent
async def test_thinking_is_told_apart_from_the_answer(crew: Crew, agent: str) -> None:
    story = await crew.tell("@@think:let me see@@@@text:forty-two@@", agent)

    assert "let me see" in "".join(event["content"] for event in story.of("thinking"))
    assert story.finals("message") == ["forty-two"]


@each_agent
async def test_an_answer_of_300_kilobytes_arrives_whole(crew: Crew, agent: str) -> None:
    story = await crew.tell("@@big:300@@", agent)

    assert story.task["status"] == "completed", story
    assert len(story.text()) >= 300 * 1024


@each_agent
async def test_a_slow_answer_is_seen_while_it_is_written(crew: Crew, agent: str) -> None:
    story = await crew.tell("@@slow:20:100@@", agent)

    deltas = [event["timestamp"] for event in story.of("message") if event["data"]["delta"]]
    assert story.task["status"] == "completed", story
    assert deltas[-1] - deltas[0] >= 1000  # it took two seconds, and was not held back to the end


FAILURES = {
    500: "agent_error.provider",
    429: "agent_error.rate_limit",
    401: "agent_error.provider_auth",
}


@pytest.fixture(scope="module")
async def failing(crew: Crew) -> dict[tuple[str, int], Json]:
    """All of them at once: agents spend most of a failure waiting for their next try."""
    return {
        (agent, status): await crew.submit(f"@@http:{status}@@", agent, timeout_ms=200_000)
        for status in FAILURES
        for agent in AGENTS
    }


@each_agent
@pytest.mark.parametrize("status", FAILURES)
async def test_a_model_that_fails_is_a_failed_task_with_its_reason(
    crew: Crew, failing: dict[tuple[str, int], Json], agent: str, status: int
) -> None:
    story = await crew.end_of(failing[agent, status], timeout_s=220)

    assert story.task["status"] == "failed", story
    assert story.task["reason"] == FAILURES[status]
    assert story.of("error")


@each_agent
async def test_one_failure_of_the_model_is_survived(crew: Crew, agent: str) -> None:
    story = await crew.tell("@@http:500:1@@@@text:second time lucky@@", agent)

    assert story.task["status"] == "completed", story
    assert story.finals("message") == ["second time lucky"]


@each_agent
async def test_what_is_asked_in_deny_mode_is_recorded_denied_and_not_done(crew: Crew, agent: str) -> None:
    story = await crew.tell("@@write:forbidden.txt:no@@@@text:I could not@@", agent, mode="deny")

    assert not (story.cwd / "forbidden.txt").exists()
    assert {event["data"]["decision"] for event in story.of("approval")} == {"deny"}
    assert story.task["status"] == "failed", story
    assert story.task["reason"] == "denied"


@each_agent
async def test_what_is_asked_in_bypass_mode_is_done(crew: Crew, agent: str) -> None:
    story = await crew.tell("@@write:allowed.txt:yes@@@@text:done@@", agent, mode="bypass")

    assert story.task["status"] == "completed", story
    assert (story.cwd / "allowed.txt").exists()


@each_agent
async def test_plan_mode_changes_nothing(crew: Crew, agent: str) -> None:
    story = await crew.tell("@@write:planned.txt:no@@@@text:here is my plan@@", agent, mode="plan")

    assert not (story.cwd / "planned.txt").exists()
    assert story.task["status"] in {"completed", "failed"}, story


NASTY = {
    "quotes": "say \"hi\" and 'bye' `now` $(touch pwned) \\ done",
    "leading dash": "--version",
    "at file": "what is in @secret.txt here",
    "slash": "/clear",
    "newline and unicode": "one\ntwo\u2028three \U0001f680",
    "200 KB": "x" * 200_000,
}


@each_agent
@pytest.mark.parametrize("name", NASTY)
async def test_a_prompt_is_data_and_reaches_the_model_byte_for_byte(crew: Crew, agent: str, name: str) -> None:
    directory = crew.new_directory()
    (directory / "secret.txt").write_text("the content of the secret file")

    story = await crew.tell(NASTY[name], agent, cwd=directory)

    assert story.task["status"] == "completed", story
    seen = crew.seen_by_model(NASTY[name])
    assert seen, "the prompt did not reach the model as it was written"
    assert "the content of the secret file" not in json.dumps(seen)
    assert not (directory / "pwned").exists()


@each_agent
async def test_an_abort_during_text_ends_aborted(crew: Crew, agent: str) -> None:
    task = await crew.submit("@@slow:600:100@@", agent)
    await crew.until(task, "message")

    story = await crew.abort(task)

    assert story.task["status"] == "aborted", story
    assert story.task["reason"] == "aborted_by_user"


@each_agent
async def test_an_abort_during_a_tool_kills_the_tool(crew: Crew, agent: str) -> None:
    task = await crew.submit("@@sh:tail -f /etc/hostname@@", agent, mode="bypass")
    await crew.until(task, "tool_call")
    await crew.until_process(task, "tail")

    story = await crew.abort(task)

    assert story.task["status"] == "aborted", story
    assert crew.processes_in(story.cwd) == {}


@each_agent
async def test_a_timeout_ends_it_and_leaves_nothing_behind(crew: Crew, agent: str) -> None:
    story = await crew.tell("@@sh:tail -f /etc/hostname@@", agent, mode="bypass", timeout_ms=8000)

    assert story.task["status"] == "timeout", story
    assert story.task["reason"] == "run_timeout"
    assert crew.processes_in(story.cwd) == {}


@each_agent
async def test_a_follow_up_reaches_the_agent_while_it_works(crew: Crew, agent: str) -> None:
    task = await crew.submit("@@slow:30:100@@", agent)
    await crew.until(task, "message")

    await crew.say(task, "@@text:and this too@@")
    story = await crew.end_of(task)

    assert story.task["status"] == "completed", story
    assert story.finals("message")[-1] == "and this too"
    assert [event["data"]["state"] for event in story.of("input")] == ["taken"]


def test_a_story_knows_deltas_from_finals() -> None:
    events = [
        {"id": 1, "type": "message", "content": "he", "data": {"delta": True}},
        {"id": 2, "type": "message", "content": "hello", "data": {"delta": False}},
    ]
    story = Story(task={}, events=events, cwd=Path())

    assert story.finals("message") == ["hello"]
    assert story.text() == "hello"
