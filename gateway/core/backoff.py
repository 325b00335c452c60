"""How long to wait before knocking again."""

from random import Random
from typing import Final

UNWELCOME_S: Final = 300.0  # a manager that refused us is not hammered


def delay(attempt: int, random: Random, *, base: float = 1.0, cap: float = 60.0) -> float:
    """Doubling from `base` up to `cap`, spread by a quarter either way. `attempt` counts from 0.

    >>> round(delay(0, Random(1)), 2), delay(20, Random(1)) <= 75
    (0.82, True)
    """
    return spread(min(base * 2.0 ** min(attempt, 16), cap), random)


def spread(seconds: float, random: Random) -> float:
    """A quarter more or less, so that a fleet does not knock in step."""
    return seconds * random.uniform(0.75, 1.25)
