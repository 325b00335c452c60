"""What a manager may change of this host, and how far: the owner's settings are the limit."""

from dataclasses import dataclass, field, replace
from typing import Final

from shared_types.hosts import EffectiveConfig
from shared_types.messages import GatewayConfig

MIN_HEARTBEAT_MS: Final = 1_000
MAX_HEARTBEAT_MS: Final = 60_000  # two of them must fit in the 90 s after which silence is death
DEFAULT_HEARTBEAT_MS: Final = 15_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What the host's owner set."""

    max_concurrent: int
    task_timeout_ms: int
    labels: dict[str, str]
    draining: bool = False  # the gateway is being stopped: no manager can undo that


@dataclass(frozen=True, slots=True)
class Policy:
    """The owner's limits and the manager's wishes so far; `effective` is what holds."""

    limits: Limits
    wishes: GatewayConfig = field(default_factory=GatewayConfig)

    def wished(self, config: GatewayConfig) -> "Policy":
        """A later wish adds to the earlier ones; what it leaves out stays."""
        old = self.wishes
        merged = GatewayConfig(
            heartbeat_interval=_later(config.heartbeat_interval, old.heartbeat_interval),
            task_timeout=_later(config.task_timeout, old.task_timeout),
            max_concurrent=_later(config.max_concurrent, old.max_concurrent),
            labels=old.labels if config.labels is None else config.labels,
            draining=old.draining if config.draining is None else config.draining,
        )
        return replace(self, wishes=merged)

    def stopping(self) -> "Policy":
        return replace(self, limits=replace(self.limits, draining=True))

    @property
    def effective(self) -> EffectiveConfig:
        """A manager may ask for less than the owner allows, never for more; the owner's labels win."""
        wishes, limits = self.wishes, self.limits
        beat = _later(wishes.heartbeat_interval, DEFAULT_HEARTBEAT_MS)
        return EffectiveConfig(
            heartbeat_interval=_clamped(beat, MIN_HEARTBEAT_MS, MAX_HEARTBEAT_MS),
            task_timeout=_clamped(wishes.task_timeout, 1, limits.task_timeout_ms),
            max_concurrent=_clamped(wishes.max_concurrent, 0, limits.max_concurrent),
            labels={**(wishes.labels or {}), **limits.labels},
            draining=limits.draining or bool(wishes.draining),
        )


def _later(new: int | None, old: int | None) -> int | None:
    return old if new is None else new


def _clamped(wish: int | None, lowest: int, highest: int) -> int:
    return highest if wish is None else min(max(wish, lowest), highest)
