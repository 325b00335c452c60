"""Chance for names, drawn from the system in large draws.

Each draw lets go of the interpreter, which a busy event loop gets back from another thread only after a while. For one
thread.
"""

from secrets import token_bytes
from typing import Final

from shared_types.ids import RANDOM_BYTES

NAMES: Final = 100  # of one draw


class Chance:
    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = b""

    def __repr__(self) -> str:
        return f"<Chance for {len(self._left) // RANDOM_BYTES} names>"  # and never the bytes themselves

    def draw(self) -> bytes:
        """RANDOM_BYTES that nobody was given before."""
        if not self._left:
            self._left = token_bytes(NAMES * RANDOM_BYTES)
        drawn, self._left = self._left[:RANDOM_BYTES], self._left[RANDOM_BYTES:]
        return drawn
