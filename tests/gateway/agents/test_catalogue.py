"""The agents a host knows."""

import pytest

from gateway.agents.catalogue import KINDS, PROFILES, TESTED, with_commands
from gateway.agents.command import CommandAgent, CommandKind
from shared_types.hosts import AGENT_ALIASES, canonical_agent
from shared_types.tasks import PermissionMode
from tests.gateway.agents.talk import spec


def test_kinds_are_known_by_their_canonical_names() -> None:
    assert {name: kind.name for name, kind in KINDS.items()} == {name: name for name in TESTED}
    assert set(AGENT_ALIASES.values()) <= KINDS.keys()
    assert all(canonical_agent(name) == name for name in KINDS)


def test_a_profile_drives_the_same_agent_in_another_way() -> None:
    usual, chosen = with_commands(), with_commands(profiles={"opencode": "oneshot"})

    assert type(chosen["opencode"].driver(spec())) is not type(usual["opencode"].driver(spec()))
    assert chosen["opencode"].name == "opencode"
    assert chosen["gemini"] is usual["gemini"]
    assert all(kinds.keys() == KINDS.keys() for kinds in PROFILES.values())


def test_a_profile_that_does_not_exist_is_refused() -> None:
    with pytest.raises(KeyError):
        with_commands(profiles={"opencode": "telepathy"})


def test_declared_programs_stand_beside_the_known_agents_and_may_take_their_place() -> None:
    kinds = with_commands([CommandAgent(name="tool", argv=("tool",)), CommandAgent(name="gemini", argv=("my-gemini",))])

    assert kinds.keys() == {*KINDS, "tool"}
    assert isinstance(kinds["gemini"], CommandKind)


@pytest.mark.parametrize(
    ("agent", "printed", "version"),
    [
        ("claude-code", "2.1.329 (Claude Code)\n", "2.1.329"),
        ("opencode", "1.18.33\n", "1.18.33"),
        ("gemini", "0.61.0\n", "0.61.0"),
        ("gemini", "command not found", None),
    ],
)
def test_versions_are_read(agent: str, printed: str, version: str | None) -> None:
    assert KINDS[agent].parse_version(printed) == version


@pytest.mark.parametrize("agent", KINDS)
def test_no_agent_sees_what_would_change_how_programs_load(agent: str) -> None:
    names = KINDS[agent].env_names

    assert len(names) == len(set(names))
    assert not [name for name in names if name.startswith(("LD_", "PYTHON", "GATEWAY_", "MANAGER_", "FLEETGATE_"))]


@pytest.mark.parametrize("agent", ["opencode", "gemini"])
@pytest.mark.parametrize("mode", PermissionMode)
def test_all_modes_can_be_asked_of_the_agents_that_have_them(agent: str, mode: PermissionMode) -> None:
    assert KINDS[agent].supports(mode, is_root=True) is None
