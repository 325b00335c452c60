"""From journal records to whole lines of text, whatever an agent prints.

    Lines       one stream: pieces of a long line are joined, lines beyond `limit` are only counted
    decode      bytes to text: what is not UTF-8 becomes U+FFFD
    plain       text without terminal control sequences, for people

The keeper splits at b"\\n" and nothing else does: U+2028 and its kin are characters inside a line.
Invariant: a stream never holds more than `limit` bytes, however long its line is.
"""

import re
from dataclasses import dataclass, field
from typing import Final

from gateway.agents.base import MAX_LINE, Record

# ECMA-48: CSI; then OSC, DCS, SOS, PM, APC up to their terminator (or the end); then other escapes.
_SEQUENCES: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"
    r"|\x1b[ -/]*[0-~]?"
    r"|\x9b[0-?]*[ -/]*[@-~]",
    re.DOTALL,
)
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")


def decode(data: bytes) -> str:
    """Text of bytes that are UTF-8 for the most part.

    >>> decode(b"caf\\xc3\\xa9 \\xff")
    'café \ufffd'
    """
    return data.decode("utf-8", "replace")


def plain(text: str) -> str:
    r"""Without colours, cursor moves, bells and other controls. A carriage return ends what was overwritten.

    >>> plain("\x1b[1;31mred\x1b[0m\x07 \x1b]0;title\x07ok")
    'red ok'
    >>> plain("10%\r100%\r\n")
    '100%\n'
    """
    if text.isprintable():
        return text
    text = _CONTROLS.sub("", _SEQUENCES.sub("", text)) if not _is_tame(text) else text
    if "\r" in text:
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return text


def _is_tame(text: str) -> bool:
    return _CONTROLS.search(text) is None


@dataclass(frozen=True, slots=True)
class Overlong:
    """A line that was too long to be kept."""

    size: int


@dataclass(slots=True)
class Lines:
    """The lines of one stream."""

    limit: int = MAX_LINE
    _pieces: list[bytes] = field(default_factory=list)
    _size: int = 0

    def __bool__(self) -> bool:
        """A line has begun."""
        return self._size > 0

    def take(self, record: Record) -> bytes | Overlong | None:
        """The line that this record ends, or None while it goes on."""
        if not record.partial and not self._size:
            return record.data if len(record.data) <= self.limit else Overlong(len(record.data))
        self._size += len(record.data)
        if self._size > self.limit:
            self._pieces.clear()
        else:
            self._pieces.append(record.data)
        return None if record.partial else self.end()

    def end(self) -> bytes | Overlong | None:
        """What is there of a line whose end never came; None when there is nothing."""
        size, data = self._size, b"".join(self._pieces)
        self._size, self._pieces = 0, []
        if size > self.limit:
            return Overlong(size)
        return data if size else None
