"""What the demo decides, without starting anything."""

import tomllib
from pathlib import Path

from client.demo import declare_survey, demo_home, usable
from shared_types.hosts import AgentInfo


def test_agents_that_may_be_logged_in_are_tried_after_those_that_are_best_first():
    found = (
        AgentInfo(agent="opencode", path="/o"),
        AgentInfo(agent="gemini", path="/g", auth_ok=True),
        AgentInfo(agent="claude-code", path="/c"),
        AgentInfo(agent="survey", path="/s", auth_ok=True),
    )

    assert [info.agent for info in usable(found)] == ["gemini", "claude-code", "opencode"]


def test_agents_that_are_logged_out_or_not_there_are_not_tried():
    found = AgentInfo(agent="claude-code", path="/c", auth_ok=False), AgentInfo(agent="gemini", auth_ok=True)

    assert usable(found) == []


def test_the_survey_is_declared_once_and_other_settings_stay(tmp_path: Path):
    (tmp_path / "gateway.toml").write_text("max_concurrent = 3\n")
    declare_survey(tmp_path)
    declare_survey(tmp_path)

    settings = tomllib.loads((tmp_path / "gateway.toml").read_text())
    assert settings["max_concurrent"] == 3
    assert settings["agents"]["survey"]["output"] == "jsonl"
    assert settings["agents"]["survey"]["argv"][-1].endswith("survey.py")


def test_a_home_that_nobody_named_is_gone_afterwards():
    with demo_home(None) as made:
        assert made.is_dir()

    assert not made.exists()
