"""The agents we know by name, and those a host's owner declares.

A kind is looked up by its canonical name (`shared_types.hosts.canonical_agent`). The one-shot profiles are kinds of
their own, `<name>-oneshot`: a host's owner chooses one by putting it in the place of the usual kind
(`with_profiles`), and a task never sees the difference.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from gateway.agents import claude, gemini, opencode
from gateway.agents.base import AgentKind
from gateway.agents.command import CommandAgent, CommandKind

# Drivers are written against what these versions do; others may work.
TESTED: Final[Mapping[str, str]] = {"claude-code": "2.1.329", "opencode": "1.18.33", "gemini": "0.61.0"}

KINDS: Final[Mapping[str, AgentKind]] = {kind.name: kind for kind in (claude.KIND, opencode.KIND, gemini.KIND)}


def with_commands(declarations: Iterable[CommandAgent], kinds: Mapping[str, AgentKind] = KINDS) -> dict[str, AgentKind]:
    """All kinds of a host. A declaration may take the name of a known agent: the owner's word counts."""
    return {**kinds, **{declared.name: CommandKind(declared) for declared in declarations}}
