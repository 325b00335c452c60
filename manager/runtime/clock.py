"""The clock of this machine: the one place of the manager that asks what time it is.

Deadlines are times of day, for they outlive the process; but a time of day can be set, and a deadline must not fire
because somebody did. So `now` goes on by what passes (CLOCK_BOOTTIME: it cannot be set, and goes on in suspend) and
moves towards the machine's time of day slowly: fast by 1/256 at most, since an early deadline is a lie and the margins
of lost hosts allow for no more; slow by 1/8, since a late one is only late. Thus it never goes back.

A clock that is set forward by more than a day was not running (no battery, a restored snapshot): it is taken over at
once, or deadlines from before would never come.
"""

import time
from collections.abc import Callable
from typing import Final

import structlog

NS_OF_MS: Final = 1_000_000
FASTER: Final = 256
SLOWER: Final = 8
SOON_NS: Final = NS_OF_MS // 4  # asked again so soon (under load, for each message), the time is the same
NOTICEABLE_NS: Final = 1_000 * NS_OF_MS
DAY_NS: Final = 24 * 3600 * 1_000 * NS_OF_MS

log = structlog.get_logger(__name__)


def _boot_time_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class SystemClock:
    """Implements `Clock`. `wall` is the machine's time of day, `steady` what cannot be set; both in ns."""

    def __init__(self, *, wall: Callable[[], int] = time.time_ns, steady: Callable[[], int] = _boot_time_ns) -> None:
        self._wall = wall
        self._steady = steady
        self._seen = steady()
        self._now = wall()
        self._was_set = False

    def now(self) -> int:
        steady = self._steady()
        passed = steady - self._seen
        if passed < SOON_NS:
            return self._now // NS_OF_MS
        wall = self._wall()
        self._seen = steady
        self._now += passed
        ahead = wall - self._now
        if ahead > DAY_NS:
            log.warning("the clock of this machine was set: taken over", seconds=ahead / 1e9)
            self._now = wall
        elif ahead:
            self._notice(ahead)
            self._now += max(-(passed // SLOWER), min(ahead, passed // FASTER))
        return self._now // NS_OF_MS

    def monotonic(self) -> float:
        return time.monotonic()

    def _notice(self, ahead: int) -> None:
        was_set = abs(ahead) > NOTICEABLE_NS
        if was_set and not self._was_set:
            log.warning("the clock of this machine was set: our times follow slowly", seconds=ahead / 1e9)
        self._was_set = was_set
