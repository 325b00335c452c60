"""Looking where there may be no answer: a directory on a network's file system whose server is gone.

A thread that waits for such a server cannot be called back. It is left behind as a daemon, which keeps no process from
ending, and it counts until it returns: of `most` threads no more are ever there, so a dead server costs a bounded
number of them. Nobody's event loop waits for any of this.
"""

import asyncio
from collections.abc import Callable
from threading import Thread
from typing import Final, Generic, TypeVar

import anyio

from gateway.errors import NoAnswer

MOST: Final = 8
T = TypeVar("T")


class Scouts:
    def __init__(self, most: int = MOST) -> None:
        self._limiter = anyio.CapacityLimiter(most)

    def __repr__(self) -> str:
        return f"<Scouts out={self._limiter.borrowed_tokens}>"

    async def look(self, call: Callable[[], T], within_s: float) -> T:
        """What `call` answers or raises, from a thread. Raises NoAnswer when that, or waiting for a thread, takes
        longer. Cancelling is safe: the thread is left to itself, and what it finds is lost.
        """
        scout = _Scout(call, self._limiter)
        with anyio.move_on_after(within_s):
            await self._limiter.acquire_on_behalf_of(scout)
            scout.send()
            await scout.wait_back()
            return scout.answer()
        raise NoAnswer(f"no answer within {within_s:g} s")


class _Scout(Generic[T]):
    """One look. Holds its place among the scouts until its thread is back, whoever still waits for it."""

    def __init__(self, call: Callable[[], T], limiter: anyio.CapacityLimiter) -> None:
        self._call = call
        self._limiter = limiter
        self._back = anyio.Event()
        self._loop = asyncio.get_running_loop()
        self._answers: list[T] = []
        self._error: Exception | None = None

    def send(self) -> None:
        """Its place is taken already."""
        try:
            Thread(target=self._go, name="scout", daemon=True).start()
        except RuntimeError as error:  # the system has no more threads
            self._limiter.release_on_behalf_of(self)
            raise NoAnswer(str(error)) from error

    def _go(self) -> None:
        try:
            self._answers.append(self._call())
        except Exception as error:
            self._error = error
        try:
            self._loop.call_soon_threadsafe(self._return)
        except RuntimeError:  # the loop is gone, and with it whoever asked
            return

    def _return(self) -> None:
        self._limiter.release_on_behalf_of(self)
        self._back.set()

    async def wait_back(self) -> None:
        await self._back.wait()

    def answer(self) -> T:
        """Once it is back."""
        if self._error is not None:
            raise self._error
        return self._answers[0]
