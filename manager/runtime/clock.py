"""The clock of this machine: the one place of the manager that asks what time it is."""

import time


class SystemClock:
    """Implements `Clock`."""

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()
