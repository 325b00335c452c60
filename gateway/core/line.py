"""One attempt's part of the conversation: what was told, what was said, what was confirmed.

    told        handed over by the runner: in the batch that still grows, or in a span
    said        written to the connection of the moment
    confirmed   committed by the manager (full dialect), or written once (base dialect)

Invariant: told records are 1, 2, 3 ... without gaps, and so are spans.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import msgspec

from gateway.core.coalesce import Batch
from shared_types.delivery import Outbox, Span
from shared_types.tasks import TaskResult


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended; `seq` is its exit record, whose `events` travel with it."""

    seq: int
    result: TaskResult
    reason: str | None = None  # None: completed
    error: str = ""
    events: tuple[msgspec.Raw, ...] = ()


Body: TypeAlias = tuple[msgspec.Raw, ...]


@dataclass(slots=True)
class Line:
    """What is said of one attempt. `wanted`: the manager on this connection wants to hear it. `judged`: a manager
    has said where to begin (an adopted attempt waits for that before anything is told). `accepted`: this host has
    looked at it and will run it. `grace`: how long it may go on without a lease, in ms; None: for ever.
    """

    uid: str
    task_id: str
    attempt: int | None  # None: the manager does not number (base)
    grace: int | None = None
    begun: bool = False  # a start was ordered: it may run, so every greeting must list it
    accepted: bool = True
    is_spawned: bool = True  # False: adopted, and provably nothing ran
    wanted: bool = False
    judged: bool = True
    newest: int = 0  # the last record in the journal, as far as this host has read it
    state: str = "running"  # as the greeting reports it: running | exited | dead
    said_before: int = 0  # adopted: how far an earlier gateway said it to a base manager
    pid: int | None = None
    session_id: str = ""
    started_unsaid: bool = False
    outbox: Outbox[Body] = field(default_factory=Outbox)
    batch: Batch = field(default_factory=Batch)
    unsaid: deque[Span[Body]] = field(default_factory=deque)  # not written to this connection yet
    singles: deque[msgspec.Raw] = field(default_factory=deque)  # base: events of a span, one by one
    ending: Ending | None = None
    ending_said: bool = False

    @property
    def told(self) -> int:
        """The last record that was told."""
        return self.batch.last

    def has_due_batch(self, now: float) -> bool:
        """Deltas wait a moment for more of their kind; before the end nothing waits."""
        is_last = self.ending is not None and self.told == self.ending.seq - 1
        return not self.batch.is_empty and (self.batch.due_at <= now or is_last)

    def can_go_on_after(self, seq: int) -> bool:
        """Whether what is kept continues a log that ends with record `seq`."""
        return seq == self.outbox.confirmed or any(span.last == seq for span in self.outbox.unconfirmed())

    def close_batch(self) -> None:
        span = Span(first=self.batch.first, last=self.batch.last, size=self.batch.size, body=self.batch.close())
        self.outbox.put(span)
        self.unsaid.append(span)

    def begin_after(self, seq: int) -> None:
        """Everything up to `seq` is with the manager; what was kept is dropped."""
        self.outbox = Outbox(confirmed=seq, said=seq)
        self.batch = Batch(first=seq + 1, last=seq)
        self.unsaid.clear()
        self.singles.clear()
        if self.ending is not None and self.ending.seq <= seq:
            self._end_later()

    def end(self, ending: Ending) -> None:
        self.ending = ending
        if ending.seq <= self.outbox.confirmed:
            self._end_later()

    def _end_later(self) -> None:
        """The manager has more records than the journal: the host lost power. Numbers are never used again."""
        assert self.ending is not None
        self.ending = replace(self.ending, seq=self.outbox.confirmed + 1)

    @property
    def ending_is_next(self) -> bool:
        """Everything before the end was written to this connection."""
        return (
            self.ending is not None
            and not self.ending_said
            and not self.unsaid
            and not self.singles
            and self.batch.is_empty
            and self.told == self.ending.seq - 1
        )
