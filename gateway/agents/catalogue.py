"""The agents we know by name, and those a host's owner declares.

    KINDS             claude-code, opencode and gemini by their protocols
    PROFILES          other ways to drive the same agents, that a host's owner may choose: `oneshot`
    with_commands     all kinds of a host

A kind is looked up by its canonical name (`shared_types.hosts.canonical_agent`); a task never sees the profile.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from gateway.agents import claude, gemini, oneshot, opencode
from gateway.agents.base import AgentKind
from gateway.agents.command import CommandAgent, CommandKind

# Drivers are written against what these versions do; others may work.
TESTED: Final[Mapping[str, str]] = {"claude-code": "2.1.329", "opencode": "1.18.33", "gemini": "0.61.0"}

KINDS: Final[Mapping[str, AgentKind]] = {kind.name: kind for kind in (claude.KIND, opencode.KIND, gemini.KIND)}
PROFILES: Final[Mapping[str, Mapping[str, AgentKind]]] = {"oneshot": oneshot.KINDS}


def with_commands(
    declarations: Iterable[CommandAgent] = (), profiles: Mapping[str, str] | None = None
) -> dict[str, AgentKind]:
    """All kinds of a host. `profiles` says which profile an agent is driven by (agent -> profile); raises KeyError
    for one that does not exist. A declaration may take the name of a known agent: the owner's word counts.
    """
    chosen = {agent: PROFILES[profile][agent] for agent, profile in (profiles or {}).items()}
    return {**KINDS, **chosen, **{declared.name: CommandKind(declared) for declared in declarations}}
