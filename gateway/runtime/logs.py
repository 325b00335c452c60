"""The gateway's log: one line of logfmt an event, on stderr.

It knows no secret: what must not be logged is left out where it is known.
Invariant: a log never stops the work. Lines that stderr does not take, because its disk is full, its reader gone or
asleep, are lost, and the next one that it takes says how many.
"""

import os
import select
from typing import Final

import structlog

CHUNK: Final = 4096  # PIPE_BUF: as much as a pipe that is ready takes at once


class Outlet:
    """Where lines go, in place of a file that may raise and wait."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._lost = 0

    def write(self, line: str) -> None:
        if self._lost:
            line = f"event=log.lost level=warning lines={self._lost}\n{line}"
        data = line.encode(errors="replace")
        try:
            while data and self._poll.poll(0):
                data = data[os.write(self._fd, data[:CHUNK]) :]
        except OSError:  # there is nobody left to tell but the next line's reader
            self._lost += 1
        else:
            self._lost = self._lost + 1 if data else 0

    def flush(self) -> None:
        """Nothing is kept back."""


def configure(level: str) -> None:
    """Once, at the start."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(Outlet(2)),  # type: ignore[arg-type]  # of a file it uses these two
        cache_logger_on_first_use=True,
    )
