"""What each permission mode means for each real agent: docs/agents.md says it in a table, and this does it."""

import re
from itertools import product
from pathlib import Path
from typing import Final

import pytest

from e2e.crew import AGENT_PROGRAMS, Crew, Story
from e2e.harness import Json
from shared_types.tasks import PermissionMode

PAGE: Final = Path(__file__).parents[1] / "docs" / "agents.md"
pytestmark = [pytest.mark.agents, pytest.mark.timeout(600)]

DEEDS: Final = {
    "list files": "@@sh:ls@@",
    "read a file": "@@read:there.txt@@",
    "edit inside": "@@write:made.txt:x@@",
    "run a command": "@@sh:date > made.txt@@",
    "edit outside": "@@write:{outside}:x@@",
}


def table() -> dict[tuple[str, str, str], str]:
    """(mode, deed, agent) -> done, denied or refused."""
    _, _, rest = PAGE.read_text().partition("<!-- modes: e2e/test_modes.py does what this table says -->")
    rows = re.findall(
        r"^\| `(\w+)` \| ([\w ]+) \| (\w+) \| (\w+) \| (\w+) \|$", rest.partition("<!-- end -->")[0], re.M
    )
    return {
        (mode, deed, agent): said
        for mode, deed, *cells in rows
        for agent, said in zip(("claude-code", "opencode", "gemini"), cells, strict=True)
    }


TABLE: Final = table()


def test_the_table_is_whole() -> None:
    assert set(TABLE) == set(product(PermissionMode, DEEDS, AGENT_PROGRAMS))
    assert set(TABLE.values()) == {"done", "denied", "refused"}


@pytest.fixture(scope="module")
async def submitted(crew: Crew) -> dict[tuple[str, str, str], Json]:
    """All of them at once: they wait for each other's end only here."""
    made = {}
    for mode, deed, agent in TABLE:
        cwd = crew.new_directory()
        (cwd / "there.txt").write_text("hello\n")
        prompt = DEEDS[deed].format(outside=crew.root / f"{cwd.name}-outside.txt")
        made[mode, deed, agent] = await crew.submit(f"{prompt}@@text:done@@", agent, mode=mode, cwd=cwd)
    return made


def outcome(crew: Crew, deed: str, story: Story) -> str:
    made = (story.cwd / "made.txt", crew.root / f"{story.cwd.name}-outside.txt")
    asked_in_vain = [event for event in story.of("approval") if event["data"]["decision"] == "deny"]
    worked = [event["data"]["ok"] for event in story.of("tool_result")] == [True]
    only_looks = deed in ("list files", "read a file")
    assert any(path.exists() for path in made) == (worked and not only_looks), story
    return "done" if worked else "denied" if asked_in_vain else "refused"


@pytest.mark.parametrize(("mode", "deed", "agent"), TABLE)
async def test_a_mode_means_what_the_page_says(
    crew: Crew, submitted: dict[tuple[str, str, str], Json], mode: str, deed: str, agent: str
) -> None:
    story = await crew.end_of(submitted[mode, deed, agent], timeout_s=500)

    said = outcome(crew, deed, story)
    assert said == TABLE[mode, deed, agent], story
    assert (story.task["status"], story.task["reason"] == "denied") == (
        "failed" if said == "denied" else "completed",
        said == "denied",
    )
