"""What a manager wants of this host, as the link hands it to the crew: one frozen value per order.

Attempts are named by `uid`; which task and attempt number that is, only the link needs to know.
"""

from dataclasses import dataclass
from typing import TypeAlias

from shared_types.messages import GatewayConfig
from shared_types.tasks import TaskRequest


@dataclass(frozen=True, slots=True)
class Prepare:
    """Get ready for this task and accept or refuse it. `at_once`: start without a further word (base)."""

    task: TaskRequest
    attempt: int | None
    uid: str | None
    at_once: bool


@dataclass(frozen=True, slots=True)
class Start:
    """`until` as in Lease."""

    uid: str
    until: int | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """Its agent ends by itself at `until` (CLOCK_BOOTTIME, ms), unless a later word prolongs that; None: never."""

    uid: str
    until: int | None


@dataclass(frozen=True, slots=True)
class Dismiss:
    """What was accepted is not wanted any more; nothing was spawned."""

    uid: str


@dataclass(frozen=True, slots=True)
class Abort:
    uid: str
    reason: str | None
    grace_ms: int | None


@dataclass(frozen=True, slots=True)
class Input:
    uid: str
    input_id: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Room:
    """More may be told of this attempt, from the record after `Link.told`: which may be an earlier one than before."""

    uid: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Nobody wants this attempt: stop it and forget it, without a word."""

    uid: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The manager has everything of this attempt, its end too."""

    uid: str


@dataclass(frozen=True, slots=True)
class Configure:
    config: GatewayConfig


Order: TypeAlias = Prepare | Start | Lease | Dismiss | Abort | Input | Room | Stop | Forget | Configure
