"""One stream, followed over as many connections as it takes. Pure: it is told what happened and says what to do.

Invariants: an event is given once, in order; what was given is never given again after a cut; a hole is never
silent (`Gap`). It does not know sockets, and takes chance as an argument.
"""

from abc import ABC, abstractmethod
from random import Random
from typing import Final, Generic, TypeVar

import msgspec

from client.errors import BadAnswer, Gap
from client.sse import Frame, FrameTooLong, SseParser
from shared_types.api import EventRecord, FleetEvent, FleetSnapshot, ResumeFrame
from shared_types.tasks import Task

MAX_DELAY_S: Final = 15.0
SILENCE_S: Final = 45.0  # the manager says something every 15 s; three times nothing is a dead connection

T = TypeVar("T")

_resume: Final = msgspec.json.Decoder(ResumeFrame)
_event: Final = msgspec.json.Decoder(EventRecord)
_task: Final = msgspec.json.Decoder(Task)
_fleet_event: Final = msgspec.json.Decoder(FleetEvent)
_snapshot: Final = msgspec.json.Decoder(FleetSnapshot)


class Following(ABC, Generic[T]):
    """`after` is the newest id that was given out (None: nothing yet), `epoch` the log it belongs to."""

    def __init__(self, path: str, after: int | None = None, epoch: str | None = None) -> None:
        self.path = path
        self.after = after
        self.epoch = epoch
        self.is_over = False
        self.was_connected = False
        self._parser = SseParser()
        self._retry_ms = 1000
        self._misses = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path} after={self.after} over={self.is_over}>"

    def headers(self) -> dict[str, str]:
        """For the next connection."""
        place = {} if self.after is None else {"Last-Event-ID": str(self.after)}
        return {"Accept": "text/event-stream", **place}

    def params(self) -> dict[str, str]:
        return {"epoch": self.epoch} if self.epoch and self.after is not None else {}

    def connected(self) -> None:
        """A connection was answered 200: what comes is a new stream. Half a frame of the old one is forgotten."""
        self._parser = SseParser()
        self.was_connected = True

    def heard(self, chunk: bytes) -> list[T]:
        """What is new. Raises Gap, BadAnswer."""
        items: list[T] = []
        try:
            frames = self._parser.feed(chunk)
            for frame in frames:
                self._frame(frame, items)
        except FrameTooLong as error:
            raise BadAnswer(f"the stream of {self.path} is not one of a manager: {error}") from error
        except msgspec.MsgspecError as error:
            raise BadAnswer(
                f"the stream of {self.path} has what this client does not understand: {error}",
                hint="The manager may be newer: upgrade this client.",
            ) from error
        if self._parser.retry_ms is not None:
            self._retry_ms = self._parser.retry_ms
        return items

    def delay(self, random: Random) -> float:
        """Seconds to wait before the next connection; longer with every one that brought nothing."""
        self._misses += 1
        base_s = self._retry_ms / 1000
        grown_s = base_s * (1 << min(self._misses - 1, 10))
        return min(grown_s, max(MAX_DELAY_S, base_s)) * random.uniform(0.75, 1.25)

    def _frame(self, frame: Frame, items: list[T]) -> None:
        if frame.event == "resume":
            resume = _resume.decode(frame.data)
            self._misses = 0
            self._resumed(resume, items)
            self.epoch = resume.epoch
        elif frame.event == "end":
            self.is_over = True
        elif not self.is_over:
            self._said(frame, items)

    def _is_new(self, id: int) -> bool:
        if self.after is not None and id <= self.after:
            return False
        self.after = id
        return True

    @abstractmethod
    def _resumed(self, resume: ResumeFrame, items: list[T]) -> None: ...

    @abstractmethod
    def _said(self, frame: Frame, items: list[T]) -> None: ...


class TaskFollowing(Following[EventRecord | Task]):
    """A task's events, and its record whenever that changes. Over when the manager says `end`."""

    def __init__(self, path: str, after: int | None = None, epoch: str | None = None) -> None:
        super().__init__(path, after, epoch)
        self.latest_id = 0  # of the log when we came: up to here it is history
        self._rv = -1

    def _resumed(self, resume: ResumeFrame, items: list[EventRecord | Task]) -> None:
        if resume.verdict != "ok" or (self.epoch is not None and self.epoch != resume.epoch):
            raise Gap(resume.first_id, resume.latest_id, resume.epoch)
        self.latest_id = resume.latest_id
        if resume.task is not None:
            self._stands(resume.task, items)

    def _said(self, frame: Frame, items: list[EventRecord | Task]) -> None:
        if frame.event == "message":
            event = _event.decode(frame.data)
            if self._is_new(event.id):
                items.append(event)
        elif frame.event == "status":
            self._stands(_task.decode(frame.data), items)

    def _stands(self, task: Task, items: list[EventRecord | Task]) -> None:
        if task.rv > self._rv:
            self._rv = task.rv
            items.append(task)


class FleetFollowing(Following[FleetEvent | FleetSnapshot]):
    """What happens to hosts and tasks. After a gap the manager sends a snapshot: then that is the truth."""

    def _resumed(self, resume: ResumeFrame, items: list[FleetEvent | FleetSnapshot]) -> None:
        if resume.verdict != "ok" or (self.epoch is not None and self.epoch != resume.epoch):
            self.after = None

    def _said(self, frame: Frame, items: list[FleetEvent | FleetSnapshot]) -> None:
        if frame.event == "message":
            event = _fleet_event.decode(frame.data)
            if self._is_new(event.id):
                items.append(event)
        elif frame.event == "snapshot":
            snapshot = _snapshot.decode(frame.data)
            self.after = snapshot.as_of
            items.append(snapshot)
