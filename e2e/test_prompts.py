"""A prompt is data: whatever it holds, the model sees it byte for byte and nothing else happens."""

import json

import pytest

from e2e.crew import Crew, each_agent

pytestmark = [pytest.mark.agents, pytest.mark.timeout(240)]


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
