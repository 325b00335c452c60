"""Real opencode, claude and gemini, a real manager and gateway, and a model that does what the prompt says.

Each test reads: submit, wait, look. `crew` is one manager and one gateway for the whole file, with a directory of
its own per task; at its end no process of any attempt may be left.
"""

from pathlib import Path

import pytest

from e2e.crew import Crew, Story, each_agent

pytestmark = [pytest.mark.agents, pytest.mark.timeout(240)]


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
    task = await crew.submit("@@slow:150:100@@", agent)

    first = await crew.until(task, "message")
    status = (await crew.api.task(task["id"]))["status"]
    story = await crew.end_of(task)

    assert (first["data"]["delta"], status) == (True, "running")
    assert story.task["status"] == "completed", story
    assert story.finals("message")[0].split()[-1] == "word149"


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


def test_a_story_knows_deltas_from_finals() -> None:
    events = [
        {"id": 1, "type": "message", "content": "he", "data": {"delta": True}},
        {"id": 2, "type": "message", "content": "hello", "data": {"delta": False}},
    ]
    story = Story(task={}, events=events, cwd=Path())

    assert story.finals("message") == ["hello"]
    assert story.text() == "hello"
