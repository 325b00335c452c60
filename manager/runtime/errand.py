"""A loop that lives only while it has something to do, and a little longer.

A manager has thousands of connections, and nearly all of them are silent. A task that waits costs five kilobytes, as
much as everything else that is known of a host; so the loops of a connection are started when there is work and rest
when there was none for a while. Under load they stay, and a wake-up costs no new task.

It does not know what is done. One runs at a time; `work` returns when nothing is left to do, and is called again
after the next `wake`.
"""

import asyncio
from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup


class Errand:
    __slots__ = ("_group", "_is_running", "_is_woken", "_may_rest", "_over", "_waiter", "_work")

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._group: TaskGroup | None = None
        self._is_running = False
        self._is_woken = False
        self._may_rest = False
        self._waiter: asyncio.Future[None] | None = None  # lighter than an event; there is one for each wake-up
        self._over: anyio.Event | None = None

    def __repr__(self) -> str:
        return f"<Errand {'running' if self._is_running else 'at rest'}>"

    def live_in(self, group: TaskGroup) -> None:
        """From now on there is a place to run in; what was woken before begins."""
        self._group = group
        if self._is_woken:
            self.wake()

    def leave(self) -> None:
        """There is no place to run in any more: a later `wake` comes to nothing."""
        self._group = None

    def wake(self) -> None:
        """There is something to do."""
        self._is_woken = True
        self._may_rest = False
        if self._waiter is not None:
            self._stop_waiting()
        elif not self._is_running and self._group is not None:
            self._is_running = True
            self._group.start_soon(self._run)

    def may_rest(self) -> None:
        """Called now and then: when nothing was to be done since the last time, the task ends."""
        if self._waiter is None:
            return
        if self._may_rest:
            self._stop_waiting()
        self._may_rest = True

    def _stop_waiting(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait_over(self) -> None:
        """Until everything that was to be done is done. Nobody may wake it any more."""
        while self._is_running and (self._is_woken or self._waiter is None):
            if self._over is None:
                self._over = anyio.Event()
            await self._over.wait()

    async def _run(self) -> None:
        try:
            while True:
                while self._is_woken:
                    self._is_woken = False
                    await self._work()
                if self._over is not None:
                    self._over.set()
                    return
                waiter = self._waiter = asyncio.get_running_loop().create_future()
                await waiter
                self._waiter = None
                if not self._is_woken:
                    return
        finally:
            self._waiter = None
            self._is_running = False
            if self._over is not None:
                self._over.set()
