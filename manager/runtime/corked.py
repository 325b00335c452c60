"""A connection that gathers what is written to it in one turn of the event loop and writes it at once.

A system call per frame costs more than all that is done for the frame, and an answer is two writes (head, body), a
batch of confirmations a hundred. It knows no protocol. Invariants: the order is kept; nothing waits longer than for
the next turn; no more than LARGE is held back, so flow control works as without it.
"""

import asyncio
from typing import Any, Final

LARGE: Final = 64 * 1024


class Corked:
    """Stands before an asyncio.Transport and is one, but for `write` and `close`."""

    __slots__ = ("_gathered", "_loop", "_size", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._gathered: list[bytes] = []
        self._size = 0

    def __repr__(self) -> str:
        return f"<Corked {self._size} bytes for {self._transport!r}>"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered.append(data)
        self._size += len(data)
        if self._size > LARGE:
            self._flush()

    def close(self) -> None:
        """What was written before is still sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        gathered, self._gathered, self._size = self._gathered, [], 0
        if gathered and not self._transport.is_closing():
            self._transport.write(b"".join(gathered))
