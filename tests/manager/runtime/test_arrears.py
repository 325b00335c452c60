"""What the store did not take is kept in order, tried again without haste, and lost only with a word."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from manager.core.tasks import Change
from manager.errors import StoreUnavailable
from manager.runtime.arrears import Arrears
from manager.runtime.clock import SystemClock


class FlakyStore:
    """Notes what it is asked, and fails as often as the test wants."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.asked: list[str] = []

    async def change(self, changes: Sequence[Change]) -> list[Any]:
        self._ask("change " + " ".join(change.task_id for change in changes))
        return []

    async def host_gone(self, host_id: str, generation: int, now: int) -> list[Any]:
        self._ask(f"gone {host_id} {generation}")
        return []

    async def say(self, task_id: str) -> None:
        self._ask(f"say {task_id}")

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("disk full", code="DISK_FULL")


class Bench:
    def __init__(self, failures: int) -> None:
        self.store = FlakyStore(failures)
        self.lost: list[tuple[str, int]] = []
        self.arrears: Arrears = Arrears(
            store=self.store,  # type: ignore[arg-type]
            announcer=self,  # type: ignore[arg-type]
            clock=SystemClock(),
            went=self._went,
            say=self._say,
            count=lambda what, times: self.lost.append((what, times)),
        )

    def taken(self, taken: Sequence[Any]) -> None:
        """Announced."""

    async def _went(self, host_id: str) -> None:
        self.store.asked.append(f"told {host_id}")

    async def _say(self, task_id: str) -> None:
        self.arrears.no_inputs(task_id)
        try:
            await self.store.say(task_id)
        except StoreUnavailable:
            self.arrears.inputs(task_id)
            raise


@asynccontextmanager
async def bench(failures: int) -> AsyncIterator[Bench]:
    made = Bench(failures)
    async with anyio.create_task_group() as group:
        group.start_soon(made.arrears.run)
        yield made
        group.cancel_scope.cancel()


async def test_a_hosts_words_are_written_before_its_end_and_whoever_waits_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("manager.runtime.arrears.RETRY_S", 0.0)
    async with bench(failures=2) as b:
        b.arrears.end("h1", 7)
        b.arrears.words("h1", [Change(task_id="t1", now=1), Change(task_id="t2", now=1)])

        with anyio.fail_after(5):
            await b.arrears.wait_written("h1")
        await anyio.wait_all_tasks_blocked()

    assert b.store.asked == ["change t1 t2"] * 3 + ["gone h1 7", "told h1"]
    assert b.arrears.trouble is None
    assert b.lost == []


async def test_a_store_that_is_away_is_not_asked_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manager.runtime.arrears.RETRY_S", 3600.0)
    async with bench(failures=1) as b:
        b.arrears.inputs("t1")
        await anyio.wait_all_tasks_blocked()

    assert b.store.asked == ["say t1"]
    assert b.arrears.trouble == "disk full"


async def test_what_is_owed_when_the_manager_stops_is_counted_as_lost() -> None:
    async with bench(failures=99) as b:
        b.arrears.words("h1", [Change(task_id="t1", now=1), Change(task_id="t2", now=1)])
        await anyio.wait_all_tasks_blocked()

    assert b.lost == [("unwritten", 2)]


async def test_words_beyond_the_room_are_lost_from_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manager.runtime.arrears.MAX_BYTES", 1_100)
    async with bench(failures=0) as b:
        for host_id in ("h1", "h2"):
            b.arrears.words(host_id, [Change(task_id=f"{host_id}.{number}", now=1) for number in range(2)])
        await anyio.wait_all_tasks_blocked()
        b.arrears.words("h3", [Change(task_id="h3.0", now=1)])
        await anyio.wait_all_tasks_blocked()

    assert b.lost == [("unwritten", 2)]
    assert b.store.asked == ["change h1.0 h1.1", "change h3.0"]
