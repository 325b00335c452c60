"""Real agents whose model fails, that are stopped, that run out of time, or that get more to do."""

import pytest

from e2e.crew import AGENT_PROGRAMS, Crew, each_agent
from e2e.harness import Json

pytestmark = [pytest.mark.agents, pytest.mark.timeout(240)]


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
        for agent in AGENT_PROGRAMS
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
async def test_a_follow_up_during_text_is_taken_and_the_text_goes_on_to_its_end(crew: Crew, agent: str) -> None:
    task = await crew.submit("@@slow:30:100@@", agent)
    await crew.until(task, "message")

    await crew.say(task, "@@text:and this too@@")
    story = await crew.end_of(task)

    assert story.task["status"] == "completed", story
    first, last = story.finals("message")
    assert (first.split()[0], first.split()[-1], last) == ("word0", "word29", "and this too")
    assert [event["data"]["state"] for event in story.of("input")] == ["taken"]


@each_agent
async def test_a_follow_up_during_a_tool_is_taken_and_the_tool_does_its_work(crew: Crew, agent: str) -> None:
    task = await crew.submit(
        "@@sh:timeout 3 tail -f /etc/hostname; echo kept > kept.txt@@@@text:first@@", agent, mode="bypass"
    )
    await crew.until_process(task, "tail")

    await crew.say(task, "@@text:and this too@@")
    story = await crew.end_of(task)

    assert story.task["status"] == "completed", story
    assert (story.cwd / "kept.txt").read_text() == "kept\n"
    assert [event["data"]["ok"] for event in story.of("tool_result")] == [True]
    assert story.finals("message")[-1] == "and this too"
    assert [event["data"]["state"] for event in story.of("input")] == ["taken"]
