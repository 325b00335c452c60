"""Telling a service manager how we are: ready, alive, stopping. https://www.freedesktop.org/software/systemd/man/sd_notify.html

Without one (no NOTIFY_SOCKET) it does nothing. The sign of life comes from the event loop, so a loop that is stuck
is noticed and the gateway is started again; its agents go on meanwhile.

Invariant: telling never waits and never ends anything. A service manager that does not listen is its own affair.
"""

import os
import socket
from collections.abc import Mapping

import anyio
import structlog

_log = structlog.get_logger(__name__)


class Notifier:
    """Speaks to the service manager that the environment names."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        microseconds = environ.get("WATCHDOG_USEC", "")
        is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.interval_s = (
            int(microseconds) / 2e6 if microseconds.isdecimal() and int(microseconds) and is_ours else None
        )

    def say(self, *lines: str) -> None:
        """READY=1, STOPPING=1, WATCHDOG=1, STATUS=..."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
                sock.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            _log.warning("service_manager.deaf", said=lines[0], error=str(error))

    def stopping(self, why: str, within_s: float) -> None:
        """We are leaving, and may take that long, however short the patience of the unit is."""
        self.say("STOPPING=1", f"STATUS={why}", f"EXTEND_TIMEOUT_USEC={int(within_s * 1e6)}")

    async def run(self) -> None:
        """A sign of life, twice as often as is asked for. Cancelling is safe."""
        if self.interval_s is None:
            return
        while True:
            self.say("WATCHDOG=1")
            await anyio.sleep(self.interval_s)
