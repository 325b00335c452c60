"""The last lines of a story."""

from collections import deque
from collections.abc import Iterable

from client.terminal.story import Piece


class Tail:
    """Keeps at most so many lines back; with None it keeps nothing and passes everything through."""

    def __init__(self, lines: int | None) -> None:
        self._lines: deque[list[Piece]] | None = None if lines is None else deque(maxlen=lines)
        self._line: list[Piece] = []  # has no end yet

    def take(self, pieces: Iterable[Piece]) -> list[Piece]:
        """What can be shown now."""
        if self._lines is None:
            return list(pieces)
        for piece in pieces:
            for part in piece.text.splitlines(keepends=True):
                self._line.append(piece._replace(text=part))
                if part.endswith("\n"):
                    self._lines.append(self._line)
                    self._line = []
        return []

    def rest(self) -> list[Piece]:
        """The last lines, and the one that has no end yet."""
        lines = [*(self._lines or ()), self._line]
        return [piece for line in lines for piece in line]
