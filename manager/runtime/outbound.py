"""What waits to be written to one host, most urgent first.

    say    signs of life, verdicts, starts, aborts, inputs: overtakes everything below
    ack    confirmations; of each attempt only the newest waits, so they never pile up
    give   work: tasks with their prompts; what was not written yet can be taken back

Bounded: `say` and `give` answer False when there is no room. A frame is taken out when the socket is ready for it, so
what waits here is all that waits. One party writes, any may fill.
"""

from collections import OrderedDict, deque
from typing import Final

import anyio

from manager.core.tasks import Record
from shared_types.codec import encode
from shared_types.messages import FromManager, TaskAck, TaskExecute

MAX_URGENT_BYTES: Final = 2 * 1024 * 1024
MAX_WORK_BYTES: Final = 8 * 1024 * 1024


class Outbound:
    def __init__(self) -> None:
        self._urgent: deque[bytes] = deque()
        self._acks: dict[tuple[str, int], int] = {}
        self._work: OrderedDict[str, tuple[bytes, Record]] = OrderedDict()
        self._urgent_bytes = 0
        self._work_bytes = 0
        self._event: anyio.Event | None = None

    def __repr__(self) -> str:
        return f"<Outbound urgent={len(self._urgent)} acks={len(self._acks)} work={len(self._work)}>"

    def say(self, message: FromManager) -> bool:
        frame = encode(message)
        if self._urgent and self._urgent_bytes + len(frame) > MAX_URGENT_BYTES:
            return False
        self._urgent.append(frame)
        self._urgent_bytes += len(frame)
        self._wake()
        return True

    def ack(self, task_id: str, attempt: int, seq: int) -> None:
        self._acks[task_id, attempt] = seq
        self._wake()

    def give(self, message: TaskExecute, record: Record) -> bool:
        frame = encode(message)
        if self._work and self._work_bytes + len(frame) > MAX_WORK_BYTES:
            return False
        self._work[record.id] = (frame, record)
        self._work_bytes += len(frame)
        self._wake()
        return True

    def take_back(self, task_id: str) -> bool:
        """True when the work was still here: the host never heard of it."""
        work = self._work.pop(task_id, None)
        if work is None:
            return False
        self._work_bytes -= len(work[0])
        return True

    def take_back_all(self) -> list[Record]:
        """What was still here."""
        left = [record for _, record in self._work.values()]
        self._work.clear()
        self._work_bytes = 0
        return left

    def next_nowait(self) -> bytes | None:
        if self._urgent:
            frame = self._urgent.popleft()
            self._urgent_bytes -= len(frame)
            return frame
        if self._acks:
            task_id, attempt = where = next(iter(self._acks))
            return encode(TaskAck(task_id=task_id, attempt=attempt, seq=self._acks.pop(where)))
        if self._work:
            _, (frame, _) = self._work.popitem(last=False)
            self._work_bytes -= len(frame)
            return frame
        return None

    async def wait_next(self) -> bytes:
        """The next frame to write. Cancelling is safe: nothing is taken out."""
        while (frame := self.next_nowait()) is None:
            event = self._event = anyio.Event()
            await event.wait()
        return frame

    def _wake(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None
