"""What time it is. The only place in the gateway that reads a clock of the operating system."""

import time
from typing import Final, Protocol

_BOOT: Final = getattr(time, "CLOCK_BOOTTIME", None)


class Clock(Protocol):
    def now(self) -> int:
        """Time of day, ms since the epoch: for people and for the record."""
        ...

    def monotonic(self) -> float:
        """Seconds that never jump, and stand still while the machine sleeps."""
        ...

    def awake_and_asleep(self) -> float:
        """Seconds that go on while the machine sleeps."""
        ...

    def boot_ms(self) -> int:
        """CLOCK_BOOTTIME in ms, for leases: keepers compare it with theirs."""
        ...


class SystemClock:
    def now(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    def awake_and_asleep(self) -> float:
        return time.time_ns() / 1e9 if _BOOT is None else time.clock_gettime(_BOOT)

    def boot_ms(self) -> int:
        return int(self.awake_and_asleep() * 1000)
