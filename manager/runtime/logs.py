"""How the manager's log looks: one line an event on stderr, JSON for machines, text for people on a terminal.

Libraries that log through `logging` come out the same way. It knows no request and no secret: what must not be
logged is left out where it is known. A line that stderr does not take (its disk is full, its reader gone or asleep) is
lost and stops nobody.
"""

import logging
import os
import select
import sys
from typing import Any, Final, TextIO, cast

import structlog

CHUNK: Final = 4096  # PIPE_BUF: as much as a pipe that is ready takes at once
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Outlet:
    """Where lines go, in place of a file that may raise and wait. What is lost the next line says."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._lost = 0

    def write(self, text: str) -> int:
        if self._lost:
            text = f'\n{{"event": "log lines lost", "level": "warning", "lines": {self._lost}}}\n{text}'
        data = text.encode(errors="replace")
        try:
            while data and self._poll.poll(0):
                data = data[os.write(self._fd, data[:CHUNK]) :]
        except OSError:  # nobody is left to tell but the reader of the next line
            self._lost += 1
        else:
            self._lost = self._lost + 1 if data else 0
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""


def configure(level: str, format: str) -> None:
    """Once, at the start. `format` is json, text or auto."""
    as_json = format == "json" or (format == "auto" and not sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_json:
        # Not structlog's own `dict_tracebacks`: it shows what is in variables, and secrets are.
        transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        shared += [structlog.processors.ExceptionRenderer(transformer)]
        renderer: Any = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    outlet = cast(TextIO, Outlet(sys.stderr.fileno()))
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(outlet),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(outlet)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(LEVELS[level], logging.WARNING))  # of libraries only what went wrong
