"""What every driver does with the journal, so that a driver only knows its agent's words.

    heard(record) -> on_line, on_error_line, on_written, on_exit    what a subclass answers with events
    write(key, ...), to_write                                        what is to be written, until it is in the journal

Invariant: nothing here or in a driver depends on anything but the records, `say` and `cancel`.
Invariant: `heard` never raises for what an agent printed; a record that a driver cannot read becomes a log line.
Invariant: memory is bounded: what is kept of an agent's output is cut (`Answer`), counted (`Names`) or refused.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from gateway.agents import events
from gateway.agents.base import End, Evidence, Launch, Record, RunSpec, Stream, Write
from gateway.agents.lines import Lines, Overlong, decode, plain
from gateway.agents.loose import fields, parse, text
from gateway.core.journal import MAX_KEY
from shared_types.events import AgentEvent, InputRefusal

MAX_ANSWER: Final = 1024 * 1024  # characters of one message that are kept for its final event
MAX_NAMES: Final = 2000
MAX_PENDING: Final = 1000
MAX_PENDING_BYTES: Final = 64 * 1024 * 1024
MAX_SAYS: Final = 100
MAX_CALLS: Final = 500  # tool calls without a result
MAX_KEPT: Final = 64 * 1024  # characters of one call's arguments
STDERR_TAIL: Final = 2000
SAY: Final = "say:"
REFUSED: Final = "input_refused"  # a note of the gateway's: {note, inputId, code, text}


@dataclass(slots=True)
class Names:
    """Distinct names in the order they came; the first MAX_NAMES of them."""

    _seen: dict[str, None] = field(default_factory=dict)

    def add(self, name: str) -> None:
        if len(self._seen) < MAX_NAMES:
            self._seen.setdefault(name[:1000])

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, name: object) -> bool:
        return name in self._seen

    def all(self) -> tuple[str, ...]:
        return tuple(self._seen)


@dataclass(slots=True)
class Answer:
    """A text that arrives in pieces; its beginning is kept."""

    _pieces: list[str] = field(default_factory=list)
    _size: int = 0

    def add(self, piece: str) -> None:
        room = MAX_ANSWER - self._size
        if room > 0 and piece:
            self._pieces.append(piece[:room])
            self._size += min(len(piece), room)

    def take(self) -> str:
        """All of it; empty afterwards."""
        whole = "".join(self._pieces)
        self._pieces, self._size = [], 0
        return whole

    def __bool__(self) -> bool:
        return self._size > 0


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call whose result is still to come."""

    name: str
    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict)  # `kept` of them
    said: bool = True  # its `tool_call` event was made


class ToolCalls(OrderedDict[str, ToolCall]):
    """Calls by id; of more than MAX_CALLS the oldest are forgotten."""

    def put(self, call_id: str, call: ToolCall) -> None:
        self[call_id[:1000]] = call
        if len(self) > MAX_CALLS:
            self.popitem(last=False)


def fits_key(key: str) -> bool:
    """Whether the journal has room for this name of a write."""
    return "\0" not in key and len(key.encode("utf-8", "replace")) <= MAX_KEY


def kept(arguments: Any) -> dict[str, str]:
    """The texts among a call's arguments, as far as they are short enough to be remembered until its result."""
    room, chosen = MAX_KEPT, {}
    for name, value in fields(arguments).items():
        if isinstance(value, str) and len(name) + len(value) <= room:
            room -= len(name) + len(value)
            chosen[name] = value
    return chosen


class Fold:
    """The part of a driver that is the same for all agents."""

    takes_input = True

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self.at = 0
        self.end = End.NONE
        self.reason: str | None = None
        self.error: str | None = None
        self.answer = ""
        self.session_id = ""
        self.usage: dict[str, Any] = {}
        self.files = Names()
        self.denied = Names()
        self.gave_up = False  # it was denied something and no tool of it succeeded since
        self.exited = False
        self.cancelling = False
        self._lines = {stream: Lines() for stream in (Stream.OUT, Stream.ERR, Stream.IN)}
        self._stderr = ""
        self._pending: dict[str, Write] = {}  # wanted, and not in the journal yet
        self._written: set[str] = set()  # keys of ours in the journal, without those of answers
        self._says: dict[str, str] = {}  # follow-up input not in the journal yet, by input id
        self._refused: set[str] = set()  # ids of input that the journal says the agent does not get

    # --- what a subclass knows ----------------------------------------------------------------------

    def launch(self) -> Launch:
        raise NotImplementedError

    def on_line(self, line: str) -> list[AgentEvent]:
        """A line of stdout."""
        raise NotImplementedError

    def on_error_line(self, line: str) -> list[AgentEvent]:
        """A line of stderr: a log line, if there is something on it."""
        line = self.keep_error(line)
        return [events.log(self.at, line, source="stderr")] if line else []

    def keep_error(self, line: str) -> str:
        """The line as people read it; the last of them say what was wrong when there never is a result."""
        line = plain(line).strip()
        if line:
            self._stderr = f"{self._stderr}{line}\n"[-STDERR_TAIL:]
        return line

    def on_written(self, key: str, data: bytes) -> list[AgentEvent]:
        """Our write is in the journal."""
        return []

    def on_exit(self) -> list[AgentEvent]:
        """It has ended; nothing follows."""
        return []

    # --- hearing ------------------------------------------------------------------------------------

    def heard(self, record: Record) -> list[AgentEvent]:
        self.at = record.at
        if record.stream in self._lines:
            lines = self._lines[record.stream]
            if record.stream is Stream.IN and lines:  # each slice of a write begins with its key
                record = replace(record, data=record.data.partition(b"\0")[2])
            line = lines.take(record)
            return [] if line is None else self._on_whole(record.stream, line)
        if record.stream is Stream.EXIT:
            return self._on_end()
        if record.stream is Stream.NOTE:
            return self._on_note(fields(parse(decode(record.data))))
        if record.stream is Stream.GAP:
            lost = fields(parse(decode(record.data)))
            sentence = f"{lost.get('records', '?')} records of the agent's output could not be kept"
            return [events.log(self.at, sentence, "warning", "gateway")]
        return []

    def _on_whole(self, stream: Stream, line: bytes | Overlong) -> list[AgentEvent]:
        if isinstance(line, Overlong):
            sentence = f"a line of {line.size} bytes is too long to be read"
            return [events.log(self.at, sentence, "warning", "gateway")]
        if stream is Stream.IN:
            key, _, data = line.partition(b"\0")
            return self._on_in(decode(key), data)
        line_text = decode(line)
        return self.on_line(line_text) if stream is Stream.OUT else self.on_error_line(line_text)

    def _on_in(self, key: str, data: bytes) -> list[AgentEvent]:
        if self._pending.pop(key, None) is None or not key.startswith("answer:"):
            self._written.add(key)
        if key.startswith(SAY):
            self._says.pop(key[len(SAY) :], None)
        return self.on_written(key, data)

    def _on_note(self, said: Mapping[str, Any]) -> list[AgentEvent]:
        if said.get("note") != REFUSED:
            return []
        input_id = text(said.get("inputId"))
        self._refused.add(input_id)
        self._says.pop(input_id, None)
        self.unwrite(f"{SAY}{input_id}")
        return [events.input_refused(self.at, input_id, text(said.get("code")), text(said.get("text")))]

    def _on_end(self) -> list[AgentEvent]:
        made: list[AgentEvent] = []
        for stream in (Stream.OUT, Stream.ERR):
            line = self._lines[stream].end()
            if line is not None:
                made += self._on_whole(stream, line)
        self.exited = True
        self._pending.clear()
        self._says.clear()
        if self.end is End.NONE and self._stderr.strip():
            self.error = self._stderr.strip()
        return made + self.on_exit()

    # --- writing ------------------------------------------------------------------------------------

    def write(self, key: str, data: bytes, *, close: bool = False) -> bool:
        """Ask for this write, unless it was made. False when too many wait already: the agent floods us."""
        if key not in self._written and key not in self._pending:
            waiting = sum(len(write.data) for write in self._pending.values())
            if len(self._pending) >= MAX_PENDING or (waiting and waiting + len(data) > MAX_PENDING_BYTES):
                return False
            self._pending[key] = Write(key, data, close)
        return True

    def answered(self, key: str) -> bool:
        """The agent answered this write of ours: it was made, whether the journal says so already or not yet."""
        if self._pending.pop(key, None) is not None:
            self._written.add(key)
        return key in self._written

    def unwrite(self, key: str) -> None:
        """It is not wanted any more."""
        self._pending.pop(key, None)

    def was_written(self, key: str) -> bool:
        return key in self._written

    def to_write(self) -> list[Write]:
        return [] if self.exited else list(self._pending.values())

    def say(self, input_id: str, content: str) -> InputRefusal | None:
        if f"{SAY}{input_id}" in self._written or input_id in self._says or input_id in self._refused:
            return None
        if not self.takes_input:
            return InputRefusal.NOT_SUPPORTED
        if self.exited or self.cancelling or self.is_done:
            return InputRefusal.OVER
        if len(self._says) >= MAX_SAYS:
            return InputRefusal.FULL
        if not fits_key(f"{SAY}{input_id}"):
            return InputRefusal.BAD_ID
        self._says[input_id] = content
        self.said()
        return None

    def said(self) -> None:
        """There is new input in `_says`: a subclass writes it now, or when its agent can take it."""

    def cancel(self) -> None:
        if not self.cancelling:
            self.cancelling = True
            self._says.clear()
            self.on_cancel()

    def on_cancel(self) -> None:
        """Ask the agent to end its turn, where there is a word for it."""

    # --- how it stands ------------------------------------------------------------------------------

    @property
    def is_done(self) -> bool:
        return False

    def note_denied(self, tool: str) -> None:
        self.denied.add(text(tool) or "tool")
        self.gave_up = True

    def note_success(self) -> None:
        """A tool of it did its work: it found another way after what was denied."""
        self.gave_up = False

    def fail(self, reason: str, sentence: str, *, retryable: bool = False) -> AgentEvent:
        """The turn ended with an error."""
        self.end, self.reason, self.error = End.ERROR, reason, plain(text(sentence))[:STDERR_TAIL]
        return events.error(self.at, self.error, reason, retryable=retryable, fatal=True)

    @property
    def evidence(self) -> Evidence:
        return Evidence(
            end=self.end,
            reason=self.reason,
            error=self.error,
            answer=self.answer,
            session_id=self.session_id,
            denied=self.denied.all(),
            finished_after_denial=not self.gave_up,
            files_changed=self.files.all(),
            usage=dict(self.usage),
        )
