"""What passes is what counts: whoever sets the machine's clock makes no deadline come early."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from manager.runtime.clock import FASTER, SLOWER, SystemClock

S = 1_000
HOUR = 3600 * S
DAY = 24 * HOUR


@dataclass
class Machine:
    """In ms. `passes` lets time go by, `is_set` moves the time of day alone."""

    wall: int = 1_700_000_000_000
    steady: int = 5 * DAY

    def clock(self) -> SystemClock:
        return SystemClock(wall=lambda: self.wall * 1_000_000, steady=lambda: self.steady * 1_000_000)

    def passes(self, ms: int) -> None:
        self.wall += ms
        self.steady += ms

    def is_set(self, by: int) -> None:
        self.wall += by


def test_it_shows_the_time_of_day_and_goes_on_with_it():
    machine = Machine()
    clock = machine.clock()
    began = machine.wall

    machine.passes(HOUR)

    assert clock.now() == began + HOUR == machine.wall


def test_a_clock_that_is_set_forward_by_an_hour_is_followed_slowly():
    machine = Machine()
    clock = machine.clock()
    began = clock.now()

    machine.is_set(+HOUR)
    at_once = clock.now()
    machine.passes(15 * 60 * S)
    later = clock.now()
    for _ in range(FASTER):
        machine.passes(HOUR)
        clock.now()

    assert at_once == began
    assert later - began == 15 * 60 * S + 15 * 60 * S // FASTER
    assert clock.now() == machine.wall


def test_a_clock_that_is_set_back_by_an_hour_is_followed_sooner_and_never_goes_back():
    machine = Machine()
    clock = machine.clock()
    began = clock.now()

    machine.is_set(-HOUR)
    at_once = clock.now()
    machine.passes(HOUR)
    later = clock.now()
    machine.passes(SLOWER * HOUR)

    assert at_once == began
    assert later - began == HOUR - HOUR // SLOWER
    assert clock.now() == machine.wall


def test_a_clock_that_was_not_running_is_taken_over():
    machine = Machine(wall=0)
    clock = machine.clock()

    machine.is_set(+1_700_000_000_000)
    machine.passes(1)

    assert clock.now() == machine.wall


def test_asked_again_at_once_it_says_the_same_and_forgets_no_time():
    machine = Machine()
    nanoseconds = [0]
    clock = SystemClock(
        wall=lambda: machine.wall * 1_000_000 + nanoseconds[0],
        steady=lambda: machine.steady * 1_000_000 + nanoseconds[0],
    )
    said = []

    for nanoseconds[0] in range(0, 3_000_000, 100_000):  # three milliseconds in tenths
        said.append(clock.now() - machine.wall)

    assert said == sorted(said)
    assert set(said) == {0, 1, 2}


def test_a_day_is_still_followed_slowly():
    machine = Machine()
    clock = machine.clock()
    began = clock.now()

    machine.is_set(+DAY)

    assert clock.now() == began


def test_time_in_suspend_has_passed():
    machine = Machine()
    clock = machine.clock()
    began = clock.now()

    machine.passes(3 * DAY)  # CLOCK_BOOTTIME goes on, and so does the time of day

    assert clock.now() == began + 3 * DAY


@given(st.lists(st.tuples(st.integers(0, 2 * HOUR), st.integers(-DAY // 20, DAY // 20)), max_size=20))
def test_however_it_is_set_what_passes_is_measured(moves: list[tuple[int, int]]):
    machine = Machine()
    clock = machine.clock()
    began, began_steady = clock.now(), machine.steady

    for passes, by in moves:
        before = clock.now()
        machine.is_set(by)
        machine.passes(passes)
        now = clock.now()

        assert passes - passes // SLOWER - 1 <= now - before <= passes + passes // FASTER + 1

    passed = machine.steady - began_steady
    assert passed - passed // SLOWER - 1 <= clock.now() - began <= passed + passed // FASTER + 1
