"""The hot tail: the newest lines of the logs that are being written, in memory, encoded once for everybody.

A view of what is committed, never the truth: whoever asks for more than it holds reads the store. It does not
know who reads. Invariants: the lines of a `Ring` have contiguous ids; memory is bounded by bytes, for each log
and for all; a line's bytes are made when the first reader wants them, and the same bytes go to every reader.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from typing import Final

import msgspec

from manager.core.tasks import Record
from shared_types.events import StoredEvent
from shared_types.tasks import Task

LINE_OVERHEAD: Final = 300  # what a line costs beside its body
MAX_SLAB_LINES: Final = 500
MAX_SLAB_BYTES: Final = 256 * 1024
SHOWN_PROMPT: Final = 1_000  # characters of the prompt in a status; the record itself has it whole
MANY: Final = "*"  # no id of a task
KEPT_OUTPUT: Final = 4096  # results with more are read from the store again

_encode: Final = msgspec.json.Encoder().encode


class Line:
    """One line of a log and the forms in which it travels.

    `own` marks the manager's events: the standing of the task may have changed.
    """

    __slots__ = ("_frame", "_sse", "id", "own", "size", "task_id")
    id: int
    task_id: str  # empty: of no task
    own: bool
    size: int
    _frame: str | None
    _sse: bytes | None

    @property
    def flat(self) -> bytes:
        """The event as one line of JSON."""
        raise NotImplementedError

    @property
    def sse_id(self) -> bytes:
        return b"%d" % self.id

    @property
    def sse(self) -> bytes:
        """As a Server-Sent Event."""
        if self._sse is None:
            self._sse = b"id: %b\ndata: %b\n\n" % (self.sse_id, self.flat)
        return self._sse

    @property
    def frame(self) -> str:
        """As a frame of `/ws`."""
        if self._frame is None:
            task = f'"taskId":"{self.task_id}",' if self.task_id else ""
            body = self.flat.decode("utf-8", "replace")
            self._frame = f'{{"type":"event","payload":{{{task}"id":{self.id},"event":{body}}}}}'
        return self._frame


class EventLine(Line):
    """An event of a task."""

    __slots__ = ("event",)

    def __init__(self, event: StoredEvent) -> None:
        self.event = event
        self.id = event.id
        self.task_id = event.task_id
        self.own = event.attempt == 0
        self.size = 2 * len(event.body) + LINE_OVERHEAD
        self._sse = None
        self._frame = None

    @property
    def flat(self) -> bytes:
        """A line break that a foreign gateway left between two tokens becomes a space."""
        flat = self.event.flat()
        if b"\n" in flat or b"\r" in flat:
            flat = flat.replace(b"\n", b" ").replace(b"\r", b" ")
        return flat


class Slab:
    """What a reader at `after` gets next: lines in order, and where it stands when it has them."""

    def __init__(self, after: int, lines: Sequence[Line], last: int | None = None, is_full: bool = False) -> None:
        self.after = after
        self.lines = lines
        self.is_full = is_full  # it ends because a slab may not be larger
        self.last = last if last is not None else (lines[-1].id if lines else after)

    @cached_property
    def sse(self) -> bytes:
        return b"".join([line.sse for line in self.lines])

    @cached_property
    def own_tasks(self) -> frozenset[str]:
        """Tasks whose standing may have changed by what is in here."""
        return frozenset(line.task_id for line in self.lines if line.own)

    def __repr__(self) -> str:
        return f"<Slab {self.after}..{self.last} lines={len(self.lines)}>"


class Ring:
    """The newest lines of one log. `first` is the id of the oldest line kept, `last` of the newest (0: none yet)."""

    def __init__(self, max_bytes: int, max_lines: int = 1_000_000) -> None:
        self.max_bytes = max_bytes
        self.max_lines = max_lines
        self.bytes = 0
        self.lines: list[Line] = []
        self.last = 0
        self._task_id: str | None = None  # of all lines, as far as we know; MANY when they are of several
        self._newest: Slab | None = None  # what the reader before got: mostly what the next one wants

    @property
    def first(self) -> int:
        return self.lines[0].id if self.lines else self.last + 1

    def push(self, lines: Sequence[Line]) -> None:
        """Add the next lines. Those that were had are left out; behind a hole the ring begins anew."""
        if lines and lines[0].id != self.last + 1:
            lines = [line for line in lines if line.id > self.last]
            if lines and lines[0].id != self.last + 1:
                self.lines.clear()
                self.bytes = 0
                self._task_id = None
        if not lines:
            return
        self.lines.extend(lines)
        self.last = lines[-1].id
        for line in lines:
            if line.task_id != self._task_id:
                self._task_id = line.task_id if self._task_id is None else MANY
            self.bytes += line.size
        if self.bytes > self.max_bytes or len(self.lines) > self.max_lines:
            self._trim()

    def _trim(self) -> None:
        """Let the oldest quarter go (at once, so that it costs little for each line); one line always stays."""
        while len(self.lines) > 1 and (self.bytes > self.max_bytes or len(self.lines) > self.max_lines):
            count = max(1, len(self.lines) // 4)
            self.bytes -= sum([line.size for line in self.lines[:count]])
            del self.lines[:count]

    def after(self, id: int, task_id: str | None = None) -> Slab | None:
        """The next lines behind `id`, of one task or of all. None when they are not all here."""
        if id + 1 < self.first or id > self.last:
            return None
        if task_id is not None and task_id == self._task_id:
            task_id = None  # the only task of its session: nothing to leave out
        known = self._newest
        if known is not None and known.after == id and task_id is None and (known.is_full or known.last == self.last):
            return known
        start = id + 1 - self.first
        size = 0
        lines: list[Line] = []
        last = id
        for line in self.lines[start : start + MAX_SLAB_LINES]:
            if task_id is None or line.task_id == task_id:
                lines.append(line)
            last = line.id
            size += line.size
            if size >= MAX_SLAB_BYTES:
                break
        slab = Slab(id, lines, last, is_full=last < self.last)
        if task_id is None:
            self._newest = slab
        return slab


class Tail:
    """Rings of the sessions written to last."""

    def __init__(self, *, max_bytes: int = 64 * 1024 * 1024, session_bytes: int = 4 * 1024 * 1024) -> None:
        self.max_bytes = max_bytes
        self.session_bytes = session_bytes
        self.bytes = 0
        self.events_total = 0
        self._rings: OrderedDict[str, Ring] = OrderedDict()
        self.standings = Standings()

    def push(self, session_id: str, events: Sequence[StoredEvent], *, is_wanted: bool = True) -> None:
        """Keep what was just committed. A log that nobody wants is not begun, but one that was begun goes on: whoever
        reads it believes that it is up to date.
        """
        self.events_total += len(events)
        ring = self._rings.get(session_id)
        if ring is None:
            if not is_wanted:
                return
            ring = self._rings[session_id] = Ring(self.session_bytes)
        else:
            self._rings.move_to_end(session_id)
        before = ring.bytes
        lines = [EventLine(event) for event in events]
        ring.push(lines)
        self.bytes += ring.bytes - before
        while self.bytes > self.max_bytes and len(self._rings) > 1:
            _, dropped = self._rings.popitem(last=False)
            self.bytes -= dropped.bytes

    def after(self, session_id: str, id: int, task_id: str | None = None) -> Slab | None:
        """The next lines behind `id`; None when the store must be asked."""
        ring = self._rings.get(session_id)
        return None if ring is None else ring.after(id, task_id)


class Standing:
    """How a task stands, as streams show it: encoded once for everybody who looks at it."""

    def __init__(self, task: Task) -> None:
        short = task.prompt[:SHOWN_PROMPT]
        self.task = task if short == task.prompt else msgspec.structs.replace(task, prompt=short)

    @cached_property
    def news(self) -> tuple[object, ...]:
        """What makes it another standing for those who look; a record also changes with every event."""
        task = self.task
        return (
            task.status,
            task.host_id,
            task.attempt,
            task.reason,
            task.detail,
            task.disconnected_since,
            task.stop_requested_at,
            task.agent_session_id,
            task.started_at,
            task.ended_at,
        )

    @cached_property
    def json(self) -> bytes:
        return _encode(self.task)

    @cached_property
    def sse(self) -> bytes:
        return b"event: status\ndata: %b\n\n" % self.json

    @cached_property
    def frame(self) -> str:
        return f'{{"type":"status","payload":{self.json.decode()}}}'


_MOVING: Final = tuple(sorted(set(Record.__struct_fields__) & set(Task.__struct_fields__)))


class Standings:
    """The newest records that were announced, so that telling how a task stands mostly needs no store."""

    def __init__(self, *, tasks: int = 1_024, versions: int = 10_000) -> None:
        self._max_tasks = tasks
        self._max_versions = versions
        self._standings: OrderedDict[str, Standing] = OrderedDict()
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._versions: OrderedDict[str, int] = OrderedDict()

    def saw_task(self, task: Task) -> Standing:
        """A whole record, fresh from the store."""
        known = self._standings.get(task.id)
        if known is not None and known.task.rv >= task.rv:
            return known
        standing = self._standings[task.id] = Standing(task)
        self._standings.move_to_end(task.id)
        if len(self._standings) > self._max_tasks:
            self._standings.popitem(last=False)
        self.saw_version(task.id, task.rv)
        return standing

    def saw_record(self, record: Record) -> None:
        """The changing part of one, after a commit."""
        self.saw_version(record.id, record.rv)
        if record.id not in self._standings:
            return
        if record.result is not None and len(record.result.output or "") > KEPT_OUTPUT:
            self._records.pop(record.id, None)
            return
        held = self._records.get(record.id)
        if held is None or held.rv < record.rv:
            self._records[record.id] = record
            if len(self._records) > self._max_tasks:
                self._records.popitem(last=False)

    def version(self, task_id: str) -> int | None:
        """The newest `rv` that was announced; None when nothing was heard of that task lately."""
        return self._versions.get(task_id)

    def newest(self, task_id: str) -> Standing | None:
        """The newest that was announced; None when the store must be asked."""
        standing = self._standings.get(task_id)
        version = self._versions.get(task_id)
        if standing is None or version is None:
            return None
        if standing.task.rv >= version:
            return standing
        record = self._records.get(task_id)
        if record is None or record.rv < version:
            return None
        moved = {name: getattr(record, name) for name in _MOVING}
        return self.saw_task(msgspec.structs.replace(standing.task, **moved))

    def saw_version(self, task_id: str, rv: int) -> None:
        """It changed; how, the store says when somebody asks."""
        if self._versions.get(task_id, 0) < rv:
            self._versions[task_id] = rv
            self._versions.move_to_end(task_id)
            if len(self._versions) > self._max_versions:
                self._versions.popitem(last=False)
