"""A host: what it can do, how it is, who may speak for it.

Wire names are camelCase. `name` fields are for people, `*_id` fields for programs. Times are integer
milliseconds since the epoch where a field ends in `_at` or is called `timestamp`; durations are integer
milliseconds (docs/protocol.md).
"""

from enum import StrEnum
from typing import Annotated, Final

import msgspec

# Names that peers use for the agents we know; answers use the value. Any other name is a host's own.
AGENT_ALIASES: Final = {
    "claude": "claude-code",
    "claudecode": "claude-code",
    "gemini-cli": "gemini",
}

AgentName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
HostId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]

# Whole numbers that every reader of JSON holds exactly, and every database too.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Whole = Annotated[int, msgspec.Meta(ge=-(2**53) + 1, le=2**53 - 1)]


def canonical_agent(name: str) -> str:
    """The one name we answer with.

    >>> canonical_agent("claude"), canonical_agent("my-script")
    ('claude-code', 'my-script')
    """
    return AGENT_ALIASES.get(name, name)


class HostState(StrEnum):
    ONLINE = "online"  # connected, with room
    BUSY = "busy"  # connected, every slot taken
    OFFLINE = "offline"  # not connected


class HostCapabilities(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What a gateway registers with (base dialect)."""

    name: str
    agents: tuple[str, ...]
    max_concurrent: Annotated[int, msgspec.Meta(ge=0, le=10_000)]
    cwd: str
    labels: dict[str, str] = {}


class AgentInfo(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """One agent that a host found installed. `auth_ok` None means: could not tell."""

    agent: str
    version: str | None = None
    path: str | None = None
    auth_ok: bool | None = None
    models: tuple[str, ...] = ()
    hint: str | None = None  # what a person can do when it is not usable


class Vitals(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """cpu, memory, disk: used share 0..1; load: one-minute load average divided by the cores; journals: used share of
    what the journals of attempts may take on that host's disk, None when it cannot tell. Above 0.8 it takes no task.
    """

    cpu: float
    memory: float
    disk: float
    load: float
    journals: float | None = None


class EffectiveConfig(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """What a gateway really does after it clamped `config:update` by the host's own policy."""

    heartbeat_interval: Count  # ms
    task_timeout: Count  # ms, the longest a task may run here
    max_concurrent: Count
    labels: dict[str, str] = {}
    draining: bool = False


class HostStatus(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A host as the API shows it; offline hosts too."""

    host_id: str
    name: str
    status: HostState
    capabilities: HostCapabilities
    active_tasks: tuple[str, ...]
    last_heartbeat: int | None
    connected_at: int | None
    agents: tuple[AgentInfo, ...] = ()
    vitals: Vitals | None = None
    slots_used: int = 0
    slots: int = 0
    labels: dict[str, str] = {}
    draining: bool = False
    version: str | None = None
    protocol: int = 1
    last_assigned_at: int | None = None
