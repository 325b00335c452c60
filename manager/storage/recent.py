"""What was committed lately, readable without asking anybody.

The news of each commit come before its answers, so a reader never sees anything that is not durable (the ledger runs
ahead), and always sees its own writes. Bounded; what is not here is read from the database.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from manager.core.tasks import Record, Spec
from manager.ports import HostRow, LogBounds, Token
from manager.storage.generations import Generations
from manager.storage.news import News
from shared_types.api import TokenKind
from shared_types.events import StoredEvent
from shared_types.tasks import TaskState

TAIL_EVENTS: Final = 1_024
TAIL_BYTES: Final = 512 * 1024
MAX_BYTES: Final = 32 * 1024 * 1024


class Tail:
    """The newest events of a session, without gaps up to the latest."""

    __slots__ = ("bytes", "events", "first_kept", "latest")

    def __init__(self, first_kept: int, latest: int) -> None:
        self.first_kept = first_kept
        self.latest = latest
        self.events: list[StoredEvent] = []
        self.bytes = 0

    def extend(self, events: Sequence[StoredEvent]) -> None:
        self.events.extend(events)
        self.latest = events[-1].id
        self.bytes += sum(len(event.body) for event in events)
        if len(self.events) > 2 * TAIL_EVENTS or self.bytes > 2 * TAIL_BYTES:
            self._shorten()

    def _shorten(self) -> None:
        kept = 0
        size = 0
        for event in reversed(self.events):
            size += len(event.body)
            if kept and (kept >= TAIL_EVENTS or size > TAIL_BYTES):
                break
            kept += 1
        self.events = self.events[-kept:]
        self.bytes = sum(len(event.body) for event in self.events)

    def after(self, id: int) -> list[StoredEvent] | None:
        """What follows `id`; None when that begins before this tail."""
        if id >= self.latest:
            return []
        start = id + 1 - self.events[0].id
        return self.events[start:] if start >= 0 else None


class Recent:
    """Used in the event loop alone."""

    def __init__(self) -> None:
        self.counts: dict[TaskState, int] = {}
        self.hosts: dict[str, HostRow] = {}
        self.tokens: dict[str, Token] = {}  # all of them, by hash
        self.touched: dict[str, int] = {}  # token id -> when its use was last written down
        self._valid: dict[str, set[str]] = {}  # host -> ids of its tokens that are not revoked
        self._tasks: Generations[str, tuple[Spec, Record]] = Generations(max_weight=MAX_BYTES)
        self._tails: Generations[str, Tail] = Generations(max_weight=MAX_BYTES)

    def learn(self, news: News) -> None:
        for task_id, (spec, record) in news.tasks.items():
            self._tasks.put(task_id, (spec, record), len(spec.prompt) + 2_000)
        for session_id, first_kept, events in news.appended:
            tail = self._tails.get(session_id)
            if tail is None:
                tail = Tail(first_kept, events[0].id - 1)
            tail.extend(events)
            self._tails.put(session_id, tail, tail.bytes + 1_000)
        self.hosts.update(news.hosts)
        if news.counts is not None:
            self.counts = news.counts
        self._tasks.age()
        self._tails.age()

    def learn_token(self, token: Token) -> None:
        self.tokens[token.hash] = token
        if token.info.kind is TokenKind.HOST and token.info.host_id is not None:
            valid = self._valid.setdefault(token.info.host_id, set())
            if token.info.revoked_at is None:
                valid.add(token.info.id)
            else:
                valid.discard(token.info.id)

    def relabel(self, host_id: str, labels: dict[str, str]) -> None:
        host = self.hosts.get(host_id)
        if host is not None:
            self.hosts[host_id] = msgspec.structs.replace(host, labels=labels)

    def is_barred(self, host_id: str) -> bool:
        """It had tokens, and all of them are revoked."""
        return not self._valid.get(host_id, True)

    def task(self, task_id: str) -> tuple[Spec, Record] | None:
        return self._tasks.get(task_id)

    def bounds(self, session_id: str) -> LogBounds | None:
        tail = self._tails.get(session_id)
        if tail is None:
            return None
        return LogBounds(session_id=session_id, first_id=tail.first_kept, latest_id=tail.latest)

    def after(self, session_id: str, id: int) -> list[StoredEvent] | None:
        """The events after this id, when all of them are here."""
        tail = self._tails.get(session_id)
        return None if tail is None else tail.after(id)
