"""Keepers that wait for an attempt, so that a start does not wait for a keeper.

A warm keeper has read nothing, knows nothing and holds nothing but its memory (10 MB): until it gets its spec it could
be anybody's, and nothing is spawned before `task:start`. It cannot be of another release than ours: a gateway uses one
program for life (process.py), and a warm keeper ends when its stdin does, however its gateway ends.

    take      one that lives, for one start; None: start a cold one
    refill    that start is over: now is the time for another, when it takes nobody's processor
"""

from collections import deque
from pathlib import Path
from typing import Final

import anyio
import structlog

from gateway.runtime.process import Ready, prepare

RETRY_S: Final = 30.0  # after the system could not start one
CLOSE_S: Final = 3.0

_log = structlog.get_logger(__name__)


class WarmKeepers:
    """`count` of them, while `run` runs."""

    def __init__(self, home: Path, count: int) -> None:
        self._home = home
        self._count = count
        self._ready: deque[Ready] = deque()
        self._dead: list[Ready] = []  # to be let go of
        self._news = anyio.Event()

    def __repr__(self) -> str:
        return f"<WarmKeepers {len(self._ready)}/{self._count}>"

    def take(self) -> Ready | None:
        while self._ready:
            ready = self._ready.popleft()
            if ready.is_alive:
                return ready
            self._dead.append(ready)  # somebody killed it; that is all it could lose
        return None

    def refill(self) -> None:
        self._news.set()

    async def run(self) -> None:
        """For as long as the gateway lives. Cancelling sends those away that wait."""
        try:
            while self._count:
                self._news = anyio.Event()  # before looking
                patience = None if await self._fill() else RETRY_S
                with anyio.move_on_after(patience):
                    await self._news.wait()
        finally:
            with anyio.move_on_after(CLOSE_S, shield=True):
                await self._let_go([*self._ready, *self._dead])
            self._ready.clear()

    async def _fill(self) -> bool:
        """False: the system starts none at the moment."""
        dead, self._dead = self._dead, []
        await self._let_go(dead)
        while len(self._ready) < self._count:
            try:
                with anyio.CancelScope(shield=True):  # half a process is nobody's: a moment later it can be sent away
                    self._ready.append(await prepare(self._home))
            except OSError as error:  # starts go on without
                _log.warning("keeper.not_warm", error=str(error))
                return False
        return True

    async def _let_go(self, keepers: list[Ready]) -> None:
        async with anyio.create_task_group() as group:
            for ready in keepers:
                group.start_soon(ready.aclose)
