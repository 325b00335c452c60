"""Every open stream and socket of people: counted, told to leave at the end, put out when its token is revoked.

It does not know what flows. A visitor waits for the topic DOORS beside its own and looks at `leaving` whenever it
wakes; it leaves by itself, politely. Invariant: who is inside is exactly who has not left `enter`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio

from manager.ports import Bus

DOORS: Final = "doors"
DRAIN: Final = "drain"
REVOKED: Final = "revoked"


class Visit:
    """One open stream. `leaving` says why it must end; None while it may stay."""

    __slots__ = ("kind", "leaving", "token_id")

    def __init__(self, token_id: str, kind: str) -> None:
        self.token_id = token_id
        self.kind = kind
        self.leaving: str | None = None


class Doors:
    """Who is inside, and whether new ones are let in."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._inside: set[Visit] = set()
        self._empty = anyio.Event()
        self.is_draining = False

    @contextmanager
    def enter(self, token_id: str, kind: str) -> Iterator[Visit]:
        """While a stream is open."""
        visit = Visit(token_id, kind)
        if self.is_draining:
            visit.leaving = DRAIN
        self._inside.add(visit)
        try:
            yield visit
        finally:
            self._inside.discard(visit)
            if not self._inside:
                self._empty.set()

    def inside(self, kind: str) -> int:
        return sum(visit.kind == kind for visit in self._inside)

    def put_out(self, token_id: str) -> None:
        """The token is revoked: what was opened with it ends."""
        for visit in self._inside:
            if visit.token_id == token_id:
                visit.leaving = REVOKED
        self._bus.publish(DOORS)

    def drain(self) -> None:
        """From now on everybody is asked to leave."""
        self.is_draining = True
        for visit in self._inside:
            visit.leaving = visit.leaving or DRAIN
        self._bus.publish(DOORS)

    async def wait_empty(self) -> None:
        while self._inside:
            self._empty = anyio.Event()
            await self._empty.wait()
