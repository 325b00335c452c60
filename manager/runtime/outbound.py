"""What waits to be written to one host, most urgent first.

    say    signs of life, verdicts, starts, aborts, inputs: overtakes everything below
    ack    confirmations; of each attempt only the newest waits, so they never pile up
    give   work: tasks with their prompts; what was not written yet can be taken back

Bounded: `say` and `give` answer False when there is no room. A frame is taken out when the socket is ready for it, so
what waits here is all that waits. Any may fill it; its one reader says by `on_news` how to be told.
"""

from collections.abc import Callable
from typing import Final

from manager.core.tasks import Record
from shared_types.codec import encode
from shared_types.messages import FromManager, TaskAck, TaskExecute

MAX_URGENT_BYTES: Final = 2 * 1024 * 1024
MAX_WORK_BYTES: Final = 8 * 1024 * 1024


class Outbound:
    __slots__ = ("_acks", "_on_news", "_taken", "_urgent", "_urgent_bytes", "_work", "_work_bytes")

    def __init__(self, on_news: Callable[[], None]) -> None:
        self._on_news = on_news
        self._urgent: list[bytes] = []  # short: it is bounded, and the writer takes what the socket takes
        self._acks: dict[tuple[str, int], int] = {}
        self._work: dict[str, tuple[bytes, Record]] = {}
        self._taken: Record | None = None  # the work that `next` gave last
        self._urgent_bytes = 0
        self._work_bytes = 0

    def __repr__(self) -> str:
        return f"<Outbound urgent={len(self._urgent)} acks={len(self._acks)} work={len(self._work)}>"

    @property
    def has_room(self) -> bool:
        """Whether something long may be said without crowding out what is short and urgent."""
        return self._urgent_bytes < MAX_URGENT_BYTES // 8

    def say(self, message: FromManager) -> bool:
        frame = encode(message)
        if self._urgent and self._urgent_bytes + len(frame) > MAX_URGENT_BYTES:
            return False
        self._urgent.append(frame)
        self._urgent_bytes += len(frame)
        self._on_news()
        return True

    def ack(self, task_id: str, attempt: int, seq: int) -> None:
        self._acks[task_id, attempt] = seq
        self._on_news()

    def give(self, message: TaskExecute, record: Record) -> bool:
        frame = encode(message)
        if self._work and self._work_bytes + len(frame) > MAX_WORK_BYTES:
            return False
        self._work[record.id] = (frame, record)
        self._work_bytes += len(frame)
        self._on_news()
        return True

    def take_back(self, record: Record) -> bool:
        """True when this attempt was still here: the host never heard of it."""
        work = self._work.get(record.id)
        if work is None or work[1].uid != record.uid:
            return False
        del self._work[record.id]
        self._work_bytes -= len(work[0])
        return True

    def take_back_all(self) -> list[Record]:
        """What was still here."""
        left = [record for _, record in self._work.values()]
        self._work.clear()
        self._work_bytes = 0
        return left

    @property
    def is_empty(self) -> bool:
        return not (self._urgent or self._acks or self._work)

    def next(self) -> bytes | None:
        """The frame to write now."""
        self._taken = None
        if self._urgent:
            frame = self._urgent.pop(0)
            self._urgent_bytes -= len(frame)
            return frame
        if self._acks:
            task_id, attempt = where = next(iter(self._acks))
            return encode(TaskAck(task_id=task_id, attempt=attempt, seq=self._acks.pop(where)))
        if self._work:
            frame, self._taken = self._work.pop(next(iter(self._work)))
            self._work_bytes -= len(frame)
            return frame
        return None

    def not_written(self, frame: bytes) -> None:
        """The socket did not take what `next` gave: work that was not begun is still here."""
        if self._taken is not None:
            self._work[self._taken.id] = (frame, self._taken)
            self._work_bytes += len(frame)
            self._taken = None
