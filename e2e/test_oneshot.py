"""The fallback: each real agent in its one-shot mode, as a host's owner chooses it when a release breaks a protocol."""

from collections.abc import AsyncIterator

import pytest

from e2e.crew import AGENT_PROGRAMS, Crew, a_crew, each_agent

pytestmark = [pytest.mark.agents, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
async def crew(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Crew]:
    profiles = ",".join(f"{agent}=oneshot" for agent in AGENT_PROGRAMS)
    async with a_crew(tmp_path_factory.mktemp("oneshot"), GATEWAY_AGENT_PROFILES=profiles) as started:
        yield started


@each_agent
async def test_a_prompt_with_quotes_is_answered(crew: Crew, agent: str) -> None:
    story = await crew.tell('say "hi" @@text:Good evening.@@', agent)

    assert story.task["status"] == "completed", story
    assert story.finals("message") == ["Good evening."]
    assert crew.seen_by_model('say "hi" @@text:Good evening.@@')


@each_agent
async def test_an_answer_of_300_kilobytes_loses_nothing_at_the_exit(crew: Crew, agent: str) -> None:
    story = await crew.tell("@@big:300@@", agent)

    assert story.task["status"] == "completed", story
    assert len(story.text()) >= 300 * 1024


@each_agent
async def test_a_file_is_written(crew: Crew, agent: str) -> None:
    story = await crew.tell("@@write:note.txt:written@@@@text:done@@", agent, mode="bypass")

    assert story.task["status"] == "completed", story
    assert (story.cwd / "note.txt").read_text().strip() == "written"


@each_agent
async def test_an_abort_leaves_no_process(crew: Crew, agent: str) -> None:
    task = await crew.submit("@@sh:tail -f /etc/hostname@@", agent, mode="bypass")
    await crew.until_process(task, "tail")

    story = await crew.abort(task)

    assert story.task["status"] == "aborted", story
    assert crew.processes_in(story.cwd) == {}
