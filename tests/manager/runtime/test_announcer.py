from typing import Any

import msgspec

from manager.core.tasks import Record, Verdict
from manager.ports import Taken
from manager.runtime.announcer import FLEET_BYTES, Announcer, FleetLog
from manager.runtime.clock import SystemClock
from manager.runtime.tail import Tail
from shared_types.events import StoredEvent
from shared_types.hosts import HostCapabilities, HostState, HostStatus
from shared_types.tasks import Task, TaskState


class Published(list[str]):
    """A bus that only remembers. Somebody reads every topic."""

    def publish(self, topic: str) -> bool:
        self.append(topic)
        return True

    def subscribe(self, *topics: str) -> Any:
        raise AssertionError("nobody reads here")


def announcer() -> tuple[Announcer, Published]:
    bus = Published()
    return Announcer(bus=bus, tail=Tail(), fleet=FleetLog("e"), clock=SystemClock()), bus


def record(status: TaskState, rv: int = 2, **more: Any) -> Record:
    return Record(id="t", session_id="s", status=status, updated_at=1, rv=rv, **more)


def stored(id: int) -> StoredEvent:
    return StoredEvent(id=id, task_id="t", attempt=1, body=msgspec.Raw(b'{"type":"x","timestamp":1}'))


def host(status: HostState = HostState.ONLINE) -> HostStatus:
    capabilities = HostCapabilities(name="h", agents=(), max_concurrent=1, cwd="/")
    return HostStatus(
        host_id="h",
        name="h",
        status=status,
        capabilities=capabilities,
        active_tasks=(),
        last_heartbeat=1,
        connected_at=1,
    )


def test_a_change_wakes_the_readers_of_its_task_and_session():
    a, bus = announcer()
    a.taken([Taken(verdict=Verdict.TAKEN, record=record(TaskState.RUNNING), events=(stored(1), stored(2)))])

    assert set(bus) == {"task:t", "session:s"}
    slab = a.tail.after("s", 0)
    assert slab is not None
    assert [line.id for line in slab.lines] == [1, 2]
    assert a.fleet.ring.last == 0


def test_a_change_that_changed_nothing_wakes_nobody():
    a, bus = announcer()
    a.taken(
        [
            Taken(verdict=verdict, record=record(TaskState.RUNNING))
            for verdict in Verdict
            if verdict is not Verdict.TAKEN
        ]
    )

    assert bus == []


def test_an_end_frees_a_slot_and_is_told_to_the_fleet():
    a, bus = announcer()
    a.taken([Taken(verdict=Verdict.TAKEN, record=record(TaskState.FAILED, reason="no_result"), status_changed=True)])

    assert "fleet" in bus
    line = a.fleet.ring.lines[0]
    assert msgspec.json.decode(line.flat) | {"timestamp": 0} == {
        "type": "task.status",
        "timestamp": 0,
        "id": 1,
        "taskId": "t",
        "sessionId": "s",
        "status": "failed",
        "reason": "no_result",
        "attempt": 0,
        "rv": 2,
    }
    assert line.sse.startswith(b"id: e-1\n")


def test_a_task_that_waits_again_wakes_the_dispatcher():
    a, bus = announcer()
    a.taken([Taken(verdict=Verdict.TAKEN, record=record(TaskState.QUEUED), status_changed=True)])

    assert "queue" in bus


def test_hosts_are_told_to_the_fleet_and_the_dispatcher():
    a, bus = announcer()
    a.host(host(), "host.online")
    a.host(host())
    a.host(host(HostState.OFFLINE), "host.offline")

    kinds = [msgspec.json.decode(line.flat)["type"] for line in a.fleet.ring.lines]
    assert kinds == ["host.online", "host.changed", "host.offline"]
    assert {"fleet", "host:h", "fleet:log"} <= set(bus)


def test_the_fleets_log_is_bounded():
    log = FleetLog("e", lines=100)
    a = Announcer(bus=Published(), tail=Tail(), fleet=log, clock=SystemClock())
    for _ in range(1000):
        a.host(host())

    assert len(log.ring.lines) <= 100
    assert log.ring.last == 1000


def test_how_a_task_stands_is_known_without_asking_the_store():
    a, _ = announcer()
    a.tail.standings.saw_task(  # as a reader found it in the store
        Task(
            id="t",
            session_id="s",
            status=TaskState.QUEUED,
            prompt="p",
            agent_type="a",
            created_at=1,
            updated_at=1,
            rv=1,
        )
    )
    a.taken([Taken(verdict=Verdict.TAKEN, record=record(TaskState.RUNNING, rv=5, host_id="h", attempt=1))])

    known = a.tail.standings.newest("t")
    assert known is not None
    assert (known.task.status, known.task.host_id, known.task.rv, known.task.prompt) == (TaskState.RUNNING, "h", 5, "p")


def test_hosts_that_say_much_of_themselves_do_not_fill_the_memory():
    a, _ = announcer()
    talker = msgspec.structs.replace(host(), labels={"about": "x" * 500_000})

    for _ in range(200):
        a.host(talker)

    kept = sum(len(line.flat) for line in a.fleet.ring.lines)
    assert kept <= FLEET_BYTES
    assert a.fleet.ring.last == 200
