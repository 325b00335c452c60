"""Tells whoever waits what was just committed: the hot tail, the bus and the fleet's log.

Everybody who changes the store calls it, after the commit and never before. It knows no reader, decides nothing,
and losing one call costs at most a delay: readers look into the store by themselves every few seconds.
Calls are plain functions that never wait.

The fleet's log lives in memory alone: ids 1, 2, 3 ... under an epoch of its own, made new at every start.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from manager.core.lifecycle import ON_A_HOST
from manager.core.tasks import Record
from manager.ports import Bus, Claim, Clock, Taken, Verdict
from manager.runtime.tail import LINE_OVERHEAD, Line, Ring, Tail
from shared_types.api import FleetEvent
from shared_types.hosts import HostStatus
from shared_types.tasks import Task, TaskState

FLEET_LINES: Final = 10_000
FLEET_BYTES: Final = 16 * 1024 * 1024
FLEET_LOG: Final = "fleet:log"  # the topic of its readers; `fleet` and `queue` are the dispatcher's

_encode: Final = msgspec.json.Encoder().encode


class FleetLine(Line):
    """An event of the fleet."""

    __slots__ = ("_epoch", "event")

    def __init__(self, event: FleetEvent, epoch: str) -> None:
        self.event = event
        self.id = event.id
        self.task_id = event.task_id or ""
        self.own = False
        # What a host says of itself may be long, and is kept as it is and in two forms beside.
        self.size = LINE_OVERHEAD + (3 * len(_encode(event.host)) if event.host else 0)
        self._epoch = epoch
        self._sse = None
        self._frame = None

    @property
    def flat(self) -> bytes:
        return _encode(self.event)

    @property
    def sse_id(self) -> bytes:
        """These ids do not outlive the process, so a browser that comes back must bring the epoch with it."""
        return b"%b-%d" % (self._epoch.encode(), self.id)


class FleetLog:
    """What happened to hosts and tasks since this manager started, as far back as there is room for."""

    def __init__(self, epoch: str, *, lines: int = FLEET_LINES) -> None:
        self.epoch = epoch
        self.ring = Ring(FLEET_BYTES, lines)

    def add(self, event: FleetEvent) -> None:
        self.ring.push([FleetLine(event, self.epoch)])

    @property
    def next_id(self) -> int:
        return self.ring.last + 1


class Announcer:
    """Implements `Announcements` for one manager."""

    def __init__(self, *, bus: Bus, tail: Tail, fleet: FleetLog, clock: Clock) -> None:
        self.tail = tail
        self.fleet = fleet
        self._bus = bus
        self._clock = clock

    def coming(self) -> None:
        """A task is being stored: decided, not durable yet. Its claim shares its commit."""
        self._bus.publish("queue")

    def queued(self, task: Task) -> None:
        """A task was accepted and waits for a host."""
        self.tail.standings.saw_version(task.id, task.rv)
        self._wake(task.id, task.session_id)
        self._tell_status(task.id, task.session_id, task.status, task.reason, task.attempt, task.rv, task.host_id)

    def claimed(self, claims: Sequence[Claim]) -> None:
        """Tasks were assigned to hosts."""
        for claim in claims:
            self.tail.standings.saw_record(claim.record)
            is_wanted = self._wake(claim.record.id, claim.record.session_id)
            self.tail.push(claim.record.session_id, claim.events, is_wanted=is_wanted)
            self._tell_record(claim.record)

    def taken(self, taken: Sequence[Taken]) -> None:
        """Changes were applied; those that changed nothing are passed over."""
        for one in taken:
            record = one.record
            if record is None or one.verdict is not Verdict.TAKEN:
                continue
            self.tail.standings.saw_record(record)
            is_wanted = self._wake(record.id, record.session_id)
            if one.events:
                self.tail.push(record.session_id, one.events, is_wanted=is_wanted)
            if one.status_changed:
                self._tell_record(record)
                if record.status is TaskState.QUEUED:
                    self._bus.publish("queue")
                if record.status not in ON_A_HOST:
                    self._bus.publish("fleet")  # a slot is free

    def host(self, status: HostStatus, kind: str = "host.changed") -> None:
        """A host came, went, or is otherwise than before (`host.online`, `host.offline`, `host.changed`)."""
        self.fleet.add(
            FleetEvent(
                type=kind,
                timestamp=self._clock.now(),
                id=self.fleet.next_id,
                host_id=status.host_id,
                host=status,
            )
        )
        self._bus.publish(f"host:{status.host_id}")
        self._bus.publish("fleet")
        self._bus.publish(FLEET_LOG)

    def _wake(self, task_id: str, session_id: str) -> bool:
        """Readers look when this turn of the loop is over. Whether there is one."""
        is_read = self._bus.publish("session:" + session_id)
        return self._bus.publish("task:" + task_id) or is_read

    def _tell_record(self, record: Record) -> None:
        self._tell_status(
            record.id, record.session_id, record.status, record.reason, record.attempt, record.rv, record.host_id
        )

    def _tell_status(
        self,
        task_id: str,
        session_id: str,
        status: TaskState,
        reason: str | None,
        attempt: int,
        rv: int,
        host_id: str | None,
    ) -> None:
        self.fleet.add(
            FleetEvent(
                type="task.status",
                timestamp=self._clock.now(),
                id=self.fleet.next_id,
                task_id=task_id,
                session_id=session_id,
                status=status,
                reason=reason,
                attempt=attempt,
                rv=rv,
                host_id=host_id,
            )
        )
        self._bus.publish(FLEET_LOG)
