"""The event loop and the writer sit together, and move when others crowd them."""

import os
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from manager.runtime.seat import Seat

LOOP, WRITER = 11, 12


@dataclass
class Machine:
    """A /proc of our own: 4 processors, two threads of ours."""

    proc: Path
    now: float = 100.0
    quickest: int = 2
    running: float = 5.0  # s, of both threads
    waiting: float = 1.0
    busy: list[float] = field(default_factory=lambda: [50.0] * 4)
    idle: list[float] = field(default_factory=lambda: [50.0] * 4)
    put: list[tuple[int, set[int]]] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)

    def seat(self, allowed: Collection[int] = (0, 1, 2, 3)) -> Seat:
        self.write()
        return Seat(
            allowed=allowed, proc=self.proc, choose=lambda *_: self.quickest, put=self.sits, now=lambda: self.now
        )

    def sits(self, thread: int, processors: Collection[int]) -> None:
        if self.gone.issuperset(processors):
            raise OSError("Invalid argument")
        self.put.append((thread, set(processors)))

    def passes(self, *, running: float = 0.1, waiting: float = 0.0, busy: Collection[float] = (0, 0, 0, 0)) -> None:
        """A second. `busy` is the share of each processor, ours and others'."""
        self.now += 1
        self.running += running
        self.waiting += waiting
        for processor, share in enumerate(busy):
            self.busy[processor] += share
            self.idle[processor] += 1 - share
        self.write()

    def write(self) -> None:
        for thread, part in ((LOOP, 0.75), (WRITER, 0.25)):
            task = self.proc / "self" / "task" / str(thread)
            task.mkdir(parents=True, exist_ok=True)
            running, waiting = int(self.running * part * 1e9), int(self.waiting * part * 1e9)
            (task / "schedstat").write_text(f"{running} {waiting} 77\n")
        lines = [
            f"cpu{no} {int(busy * 100)} 0 0 {int(idle * 100)} 0 0 0 0 0 0"
            for no, (busy, idle) in enumerate(zip(self.busy, self.idle, strict=True))
        ]
        (self.proc / "stat").write_text("\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *lines, "intr 1 2", ""]))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_they_sit_where_the_disk_answers_soonest(machine: Machine) -> None:
    machine.seat().take([LOOP, WRITER], machine.proc)

    assert machine.put == [(LOOP, {2}), (WRITER, {2})]


def test_one_processor_is_shared_anyway(machine: Machine) -> None:
    seat = machine.seat(allowed=[2])

    seat.take([LOOP, WRITER], machine.proc)
    machine.passes(waiting=0.9)
    seat.look()

    assert machine.put == []


@pytest.mark.parametrize(
    ("running", "waiting", "busy"),
    [
        pytest.param(0.9, 0.05, [0, 0, 0.95, 0], id="nobody is in their way"),
        pytest.param(0.95, 0.5, [0, 0, 1, 0], id="they are in each other's"),
        pytest.param(0.5, 0.5, [0.9, 0.8, 1, 0.7], id="there is no room elsewhere"),
    ],
)
def test_they_stay_when(machine: Machine, running: float, waiting: float, busy: list[float]) -> None:
    seat = machine.seat()
    seat.take([LOOP, WRITER], machine.proc)

    for _ in range(5):
        machine.passes(running=running, waiting=waiting, busy=busy)
        seat.look()

    assert len(machine.put) == 2


def test_who_is_crowded_by_others_moves_to_where_there_is_most_room(machine: Machine) -> None:
    seat = machine.seat(allowed=[0, 2, 3])
    seat.take([LOOP, WRITER], machine.proc)

    for _ in range(2):
        machine.passes(running=0.5, waiting=0.5, busy=[0.4, 0, 1, 0.1])
        seat.look()

    assert machine.put[2:] == [(LOOP, {3}), (WRITER, {3})]


def test_a_crowd_that_was_gone_in_between_is_none(machine: Machine) -> None:
    seat = machine.seat()
    seat.take([LOOP, WRITER], machine.proc)

    for waiting in (0.5, 0.0, 0.5, 0.0):
        machine.passes(running=0.5, waiting=waiting, busy=[0, 0, 1, 0])
        seat.look()

    assert len(machine.put) == 2


def test_what_cannot_be_watched_is_not_kept(machine: Machine) -> None:
    seat = machine.seat()
    (machine.proc / "self" / "task" / str(WRITER) / "schedstat").unlink()

    seat.take([LOOP, WRITER], machine.proc)
    machine.passes(waiting=0.9)
    seat.look()

    assert machine.put == [(LOOP, {0, 1, 2, 3}), (WRITER, {0, 1, 2, 3})]


def test_who_can_no_longer_be_watched_is_let_go(machine: Machine) -> None:
    seat = machine.seat()
    seat.take([LOOP, WRITER], machine.proc)
    machine.passes(waiting=0.9)
    (machine.proc / "stat").unlink()

    seat.look()
    seat.look()

    assert machine.put[2:] == [(LOOP, {0, 1, 2, 3}), (WRITER, {0, 1, 2, 3})]


def test_a_processor_that_is_gone_is_left_to_its_fate(machine: Machine) -> None:
    seat = machine.seat()
    seat.take([LOOP, WRITER], machine.proc)
    machine.gone = {3}

    for _ in range(2):
        machine.passes(running=0.5, waiting=0.5, busy=[0.4, 0.4, 1, 0.1])
        seat.look()

    assert machine.put[-2:] == [(LOOP, {0, 1, 2, 3}), (WRITER, {0, 1, 2, 3})]


def test_a_thread_that_reads_goes_where_it_likes(machine: Machine) -> None:
    seat = machine.seat()
    seat.free()  # nobody sits yet
    assert machine.put == []
    seat.take([LOOP, WRITER], machine.proc)

    def reads() -> None:
        seat.free()
        seat.free()

    thread = threading.Thread(target=reads)
    thread.start()
    thread.join()

    assert machine.put[2:] == [(0, {0, 1, 2, 3})]


def test_on_this_machine(tmp_path: Path) -> None:
    found: list[set[int]] = []
    before = os.sched_getaffinity(0)

    def sits() -> None:
        seat = Seat()
        seat.take([threading.get_native_id()], tmp_path)
        found.append(os.sched_getaffinity(0))
        reader = threading.Thread(target=lambda: (seat.free(), found.append(os.sched_getaffinity(0))))
        reader.start()
        reader.join()
        seat.look()

    thread = threading.Thread(target=sits)
    thread.start()
    thread.join()

    assert len(found[0]) == 1
    assert found[1] == before == os.sched_getaffinity(0)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_nothing_keeps_nobody(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)

    Seat().take([threading.get_native_id()], tmp_path / "missing")

    assert os.sched_getaffinity(0) == before
