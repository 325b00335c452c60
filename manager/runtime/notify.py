"""Telling a service manager how we are: ready, alive, stopping. https://www.freedesktop.org/software/systemd/man/sd_notify.html

Without one (no NOTIFY_SOCKET) it does nothing. The sign of life comes from the event loop, so a loop that is stuck
is noticed and the process is started again.
"""

import os
import socket
from collections.abc import Mapping

import anyio


class Notifier:
    """Speaks to the service manager that the environment names."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        microseconds = environ.get("WATCHDOG_USEC", "")
        is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.interval_s = int(microseconds) / 2e6 if microseconds.isdigit() and is_ours else None

    def say(self, *lines: str) -> None:
        """READY=1, STOPPING=1, WATCHDOG=1, STATUS=... Raises OSError when the socket is named but not there."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto("\n".join(lines).encode(), address)

    async def run(self) -> None:
        """A sign of life, twice as often as is asked for. Cancelling is safe."""
        if self.interval_s is None:
            return
        while True:
            self.say("WATCHDOG=1")
            await anyio.sleep(self.interval_s)
