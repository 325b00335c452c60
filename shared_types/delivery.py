"""At least once on the wire, exactly once in the log: one rule book for both ends.

What travels is a *span*: the events derived from records first..last of one attempt. The sender keeps a span
until the receiver confirmed its last record; the receiver takes a span only when `first` is its next record.
So a span may arrive twice, and after a restart records may be grouped otherwise, and nothing is doubled or lost.
Connections come and go; the books stay. Nothing here reads a clock or touches a socket.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Span(Generic[T]):
    """Records first..last and what was made of them; `size` in bytes counts against the window."""

    first: int
    last: int
    body: T
    size: int


@dataclass(slots=True)
class Outbox(Generic[T]):
    """What was said of one attempt and is not confirmed yet, oldest first.

    Invariant: spans are contiguous; nothing is forgotten before it is confirmed.
    """

    window_bytes: int = 1024 * 1024
    window_spans: int = 256
    confirmed: int = 0
    said: int = 0
    _kept: deque[Span[T]] = field(default_factory=deque)
    _bytes: int = 0

    @property
    def has_room(self) -> bool:
        """True when another span may be said. One span always may, however large."""
        return not self._kept or (self._bytes < self.window_bytes and len(self._kept) < self.window_spans)

    def put(self, span: Span[T]) -> None:
        if span.first != self.said + 1 or span.last < span.first:
            raise ValueError(f"span {span.first}..{span.last} does not follow {self.said}")
        self.said = span.last
        self._bytes += span.size
        self._kept.append(span)

    def unconfirmed(self) -> tuple[Span[T], ...]:
        """What to say again on a fresh connection."""
        return tuple(self._kept)

    def confirm(self, seq: int) -> None:
        """Let go of every span that ends at or before `seq`. A late or repeated confirm is harmless."""
        while self._kept and self._kept[0].last <= seq:
            self._bytes -= self._kept.popleft().size
        self.confirmed = max(self.confirmed, min(seq, self.said))


class Heard(Enum):
    NEXT = auto()  # take it
    AGAIN = auto()  # had it: confirm again
    GAP = auto()  # something is missing: say what is expected


@dataclass(slots=True)
class Inbox:
    """How far we have listened to one attempt."""

    heard: int = 0

    def judge(self, first: int, last: int) -> Heard:
        """What to do with records first..last. A span that begins inside the heard ones and leads beyond them
        is a GAP: the sender regrouped without asking where we are, and must be told.
        """
        if first == self.heard + 1 and last >= first:
            return Heard.NEXT
        if last <= self.heard:
            return Heard.AGAIN
        return Heard.GAP

    def take(self, last: int) -> None:
        self.heard = last
