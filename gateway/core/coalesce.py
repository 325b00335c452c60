"""Events on their way to the wire: small deltas are merged, huge values are cut, frames are filled.

    fit(events)     the events of one record, cut so that they can travel in one frame
    Batch           consecutive records' events until they are said; says when it is due

Text and thinking arrive a word at a time; one frame for each would cost more than it carries. What waits here
is at most FLUSH_S old, and anything but a delta is due at once and takes the deltas before it along.

Invariant: the text of merged deltas is the text of the deltas, in order.
Invariant: a batch that is full, or one record alone, is never larger than a manager takes in one frame.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import msgspec

from shared_types.codec import encode
from shared_types.events import MAX_FRAME_BYTES, MAX_INBOUND_BYTES, MAX_VALUE_BYTES, AgentEvent, EventType

FLUSH_S: Final = 0.025
FLUSH_BYTES: Final = 16 * 1024
FRAME_BYTES: Final = MAX_FRAME_BYTES - 2048  # what is left for events beside the names of task and records
ANSWER_FRAME_BYTES: Final = MAX_INBOUND_BYTES - 8192  # a frame with a final answer may use all a manager takes
MAX_ANSWER_BYTES: Final = 768 * 1024  # a final message is whole up to here: readers may have no deltas
MIN_CUT: Final = 256
MAX_DEPTH: Final = 64

_MERGED: Final = frozenset({EventType.MESSAGE, EventType.THINKING})


def is_delta(event: AgentEvent) -> bool:
    """A piece of a text whose end is still to come."""
    return event.type in _MERGED and bool(event.data and event.data.get("delta"))


def _is_answer(event: AgentEvent) -> bool:
    return event.type == EventType.MESSAGE and not is_delta(event)


# --- cutting ----------------------------------------------------------------------------------------


def cut_text(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8, cut between characters.

    >>> cut_text("añb", 2)
    'a'
    """
    if len(text) * 4 <= limit:
        return text
    data = text.encode("utf-8", "replace")
    return text if len(data) <= limit else data[:limit].decode("utf-8", "ignore")


def tail_text(text: str, limit: int) -> str:
    """At most the last `limit` bytes of UTF-8, cut between characters."""
    if len(text) * 4 <= limit:
        return text
    data = text.encode("utf-8", "replace")
    return text if len(data) <= limit else data[len(data) - limit :].decode("utf-8", "ignore")


def _cut_value(value: Any, limit: int, depth: int = 0) -> tuple[Any, bool]:
    """The value with every string in it cut, and whether any was. What is nested absurdly deep is left out."""
    if depth > MAX_DEPTH:
        return None, True
    if isinstance(value, str):
        kept = cut_text(value, limit)
        return kept, len(kept) != len(value)
    if isinstance(value, dict):
        pairs = {name: _cut_value(item, limit, depth + 1) for name, item in value.items()}
        return {name: kept for name, (kept, _) in pairs.items()}, any(cut for _, cut in pairs.values())
    if isinstance(value, list | tuple):
        items = [_cut_value(item, limit, depth + 1) for item in value]
        return [kept for kept, _ in items], any(cut for _, cut in items)
    return value, False


def cut(event: AgentEvent, limit: int, answer_limit: int) -> AgentEvent:
    """The event with every text in it at most `limit` bytes, a final answer at most `answer_limit`;
    `data.truncated` says when something was cut.
    """
    content, was_cut = event.content, False
    if content is not None:
        kept = cut_text(content, answer_limit if _is_answer(event) else limit)
        content, was_cut = kept, len(kept) != len(content)
    data, data_cut = _cut_value(event.data, limit)
    if not (was_cut or data_cut):
        return event
    return msgspec.structs.replace(event, content=content, data={**(data or {}), "truncated": True})


def _scrub(value: Any, depth: int = 0) -> Any:
    """Without lone surrogates, which JSON can spell and UTF-8 cannot, and without absurd depth."""
    if depth > MAX_DEPTH:
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_scrub(name): _scrub(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_scrub(item, depth + 1) for item in value]
    return value


def _encode(event: AgentEvent) -> bytes:
    try:
        return encode(event)
    except (UnicodeEncodeError, RecursionError):
        return encode(msgspec.structs.replace(event, content=_scrub(event.content), data=_scrub(event.data)))


Fitted: TypeAlias = Sequence[tuple[AgentEvent, bytes]]


def fit(events: Sequence[AgentEvent], beside: int = 0) -> Fitted:
    """The events of one record with their encodings, cut until they fit one frame together, with `beside` bytes of
    something else.

    A record is never split over frames, so a record with more than a frame's worth of events is cut harder, and
    if it still does not fit, its last events give way to one that says how many.
    """
    fitted = [(event, _encode(event)) for event in events]
    total = sum(len(data) + 1 for _, data in fitted)
    if total <= MAX_VALUE_BYTES:
        return fitted  # nothing in it can be too long
    room = (ANSWER_FRAME_BYTES if any(_is_answer(event) for event in events) else FRAME_BYTES) - beside
    limit, answer_limit = MAX_VALUE_BYTES, MAX_ANSWER_BYTES
    while True:
        fitted = [(small, _encode(small)) for small in (cut(event, limit, answer_limit) for event in events)]
        if sum(len(data) + 1 for _, data in fitted) <= room:
            return fitted
        if answer_limit <= MIN_CUT:
            return _drop_tail(fitted, room)
        limit, answer_limit = max(MIN_CUT, limit // 2), max(MIN_CUT, answer_limit // 2)


def _drop_tail(fitted: Fitted, room: int) -> Fitted:
    kept: list[tuple[AgentEvent, bytes]] = []
    used = 512  # for the notice
    for event, data in fitted:
        if used + len(data) + 1 > room:
            break
        used += len(data) + 1
        kept.append((event, data))
    notice = AgentEvent(
        type=EventType.LOG,
        timestamp=fitted[-1][0].timestamp,
        content=f"{len(fitted) - len(kept)} events were too large to be kept",
        data={"level": "warning", "source": "gateway", "truncated": True},
    )
    return [*kept, (notice, encode(notice))]


# --- merging ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Batch:
    """Records first..last and their events, still growing. Empty while `last` is below `first`."""

    first: int = 1
    last: int = 0
    size: int = 0
    due_at: float = math.inf  # on the caller's monotonic clock; inf: nothing to say yet
    _done: list[bytes] = field(default_factory=list)
    _open: AgentEvent | None = None  # the delta that may still grow
    _grown: list[str] = field(default_factory=list)
    _open_size: int = 0

    @property
    def is_empty(self) -> bool:
        return self.last < self.first

    def takes(self, fitted: Fitted) -> bool:
        """Whether these events fit beside what is here."""
        return self.size == 0 or self.size + sum(len(data) + 1 for _, data in fitted) <= FRAME_BYTES

    def add(self, seq: int, fitted: Fitted, now: float) -> None:
        """Record `seq` follows the ones that are here."""
        if seq != self.last + 1:
            raise ValueError(f"record {seq} does not follow {self.last}")
        self.last = seq
        for event, data in fitted:
            if is_delta(event):
                self._grow(event, len(data))
                self.due_at = min(self.due_at, now + FLUSH_S)
            else:
                self._settle()
                self._done.append(data)
                self.due_at = min(self.due_at, now)
            self.size += len(data) + 1
        if self.size >= FLUSH_BYTES:
            self.due_at = min(self.due_at, now)

    def _grow(self, event: AgentEvent, size: int) -> None:
        grows = self._open is not None and self._open.type == event.type and self._open.data == event.data
        if not grows or self._open_size + size > FLUSH_BYTES:
            self._settle()
            self._open = event
        self._grown.append(event.content or "")
        self._open_size += size

    def _settle(self) -> None:
        if self._open is not None:
            self._done.append(_encode(msgspec.structs.replace(self._open, content="".join(self._grown))))
        self._open, self._grown, self._open_size = None, [], 0

    def close(self) -> tuple[msgspec.Raw, ...]:
        """The events, encoded, to be said together; the batch begins again after its last record."""
        self._settle()
        events = tuple(msgspec.Raw(data) for data in self._done)
        self.first, self.size, self.due_at, self._done = self.last + 1, 0, math.inf, []
        return events
