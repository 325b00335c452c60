"""Server-Sent Events: bytes to frames, as the WHATWG says
(https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation).

Pure: it is fed chunks, cut anywhere, and gives back the frames that are complete. A frame that is not closed by an
empty line is never given: a cut stream must not be mistaken for a short message. Comments are dropped.
"""

from typing import Final, NamedTuple

BOM: Final = b"\xef\xbb\xbf"
MAX_FRAME_BYTES: Final = 16 * 1024 * 1024


class FrameTooLong(ValueError):
    """More bytes than any frame of ours has: this is not a stream of ours."""


class Frame(NamedTuple):
    """`event` is "message" where none was named; `id` the newest id of the stream, also from frames before."""

    event: str
    data: str
    id: str


class SseParser:
    """One connection's stream. `retry_ms` is what the server last asked for."""

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self.retry_ms: int | None = None
        self.last_event_id = ""
        self._max = max_frame_bytes
        self._rest: list[bytes] = []  # a line that has no end yet
        self._rest_bytes = 0
        self._skip_lf = False  # the line before ended with CR; an LF belongs to it
        self._is_first = True
        self._event = ""
        self._data: list[str] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that are complete now. Raises FrameTooLong."""
        if self._skip_lf and chunk:
            self._skip_lf = False
            if chunk.startswith(b"\n"):
                chunk = chunk[1:]
        frames: list[Frame] = []
        for line in chunk.splitlines(keepends=True):
            if not line.endswith((b"\n", b"\r")):
                self._rest.append(line)
                self._rest_bytes += len(line)
                break
            whole = b"".join([*self._rest, line.rstrip(b"\r\n")])
            self._rest.clear()
            self._rest_bytes = 0
            frame = self._line(whole)
            if frame is not None:
                frames.append(frame)
        if chunk.endswith(b"\r"):
            self._skip_lf = True
        if self._rest_bytes + self._data_bytes > self._max:
            raise FrameTooLong(f"a frame of more than {self._max} bytes")
        return frames

    def _line(self, line: bytes) -> Frame | None:
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(BOM)
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._data.append(value.decode("utf-8", "replace"))
                self._data_bytes += len(value)
            case b"event":
                self._event = value.decode("utf-8", "replace")
            case b"id" if b"\0" not in value:
                self.last_event_id = value.decode("utf-8", "replace")
            case b"retry" if value.isdigit() and len(value) < 16:
                self.retry_ms = int(value)
            case _:  # a comment (its name is empty), or a field the standard does not know
                pass
        return None

    def _dispatch(self) -> Frame | None:
        event, data = self._event, self._data
        self._event, self._data, self._data_bytes = "", [], 0
        if not data:  # no data line at all: nothing is dispatched
            return None
        return Frame(event or "message", "\n".join(data), self.last_event_id)
