"""Every live state has a deadline, and when it passes somebody acts."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from manager.core.tasks import DEFAULT_LIMITS
from manager.errors import StoreUnavailable
from shared_types.codec import encode
from shared_types.messages import Heartbeat, RunningAttempt, TaskAbort, TaskExecute
from shared_types.tasks import TaskState
from tests.fakes.host import FakeHost, Plan
from tests.manager.runtime.hall import hall
from tests.manager.runtime.test_host_link import greeting, running


async def test_a_task_that_no_host_takes_expires(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        task_id = await h.submit(queue_ttl=1_000)
        assert await h.watchdog.look() == 0
        h.clock.later_ms = 2_000

        await h.watchdog.look()

        assert (await h.store.task(task_id)).reason == "queue_expired"


async def test_a_task_that_its_host_never_accepts_goes_back_and_the_host_is_told(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting())
        task_id = await h.submit()
        await hand.expect(TaskExecute)
        h.clock.later_ms = 16_000

        await h.watchdog.look()

        assert (await hand.expect(TaskAbort)).attempt == 1
        task = await h.store.task(task_id)
        assert (task.status, task.excluded_hosts) == (TaskState.QUEUED, ())


async def test_a_task_that_runs_beyond_its_time_is_told_to_stop_twice_the_second_time_without_grace(
    tmp_path: Path,
) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting())
        task_id = (await running(h, hand)).task.task_id
        h.clock.later_ms = 8 * 24 * 3600_000

        await h.watchdog.look()
        first = await hand.expect(TaskAbort)
        assert (await h.store.task(task_id)).status is TaskState.STOPPING
        h.clock.later_ms += 60_000
        await h.watchdog.look()
        second = await hand.expect(TaskAbort)

        assert (first.reason, first.grace_ms) == ("run_timeout", None)
        assert second.grace_ms == 0


async def test_a_host_that_says_a_timed_out_task_is_gone_makes_it_a_timeout(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        await h.online(FakeHost(plan=lambda _: Plan(holds=True)))
        task_id = await h.submit(timeout=1_000)
        await h.until(task_id, TaskState.RUNNING)
        h.clock.later_ms = 60_000

        await h.watchdog.look()

        assert (await h.until(task_id, TaskState.TIMEOUT)).reason == "run_timeout"


async def test_a_task_is_lost_when_its_host_stays_away_for_too_long(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        await h.online(FakeHost(plan=lambda _: Plan(holds=True)))
        task_id = await h.submit()
        await h.until(task_id, TaskState.RUNNING)
        await h.cut()
        await h.until_disconnected(task_id)
        h.clock.later_ms = 14 * 60_000
        assert await h.watchdog.look() == 0

        h.clock.later_ms = 18 * 60_000
        await h.watchdog.look()

        assert (await h.store.task(task_id)).reason == "host_lost"


async def test_a_host_that_comes_back_every_20_seconds_does_not_keep_a_stopping_task(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting())
        execute = await running(h, hand)
        task_id = execute.task.task_id
        await h.tasks.abort(task_id)
        mine = RunningAttempt(task_id=task_id, attempt=1, uid=execute.uid or "", seq=0, state="running")

        rounds = 0
        while (await h.store.task(task_id)).status is TaskState.STOPPING and rounds < 60:
            rounds += 1
            await h.cut()
            h.clock.later_ms += 20_000
            assert (await h.hand().register(greeting(running=(mine,)))).ok
            await h.until_true(lambda: h.fleet.link("h1"))
            await h.watchdog.look()

        task = await h.store.task(task_id)
        assert (task.status, task.reason) == (TaskState.LOST, "host_lost")


@pytest.mark.parametrize("set_by_ms", [3600_000, -3600_000])
async def test_a_clock_that_is_set_by_an_hour_makes_nothing_overdue_early(tmp_path: Path, set_by_ms: int) -> None:
    async with hall(tmp_path) as h:
        await h.online(FakeHost(plan=lambda _: Plan(holds=True)))
        away = await h.submit()
        await h.until(away, TaskState.RUNNING)
        await h.cut()
        await h.until_disconnected(away)
        await h.online(FakeHost("h2", plan=lambda _: Plan(holds=True)))
        running = await h.submit(timeout=60_000)
        await h.until(running, TaskState.RUNNING)
        queued = await h.submit(agent="gemini", queue_ttl=60_000)

        h.clock.set_by_ms = set_by_ms
        early = await h.watchdog.look()
        since = [(await h.store.task(task_id)).status for task_id in (away, running, queued)]
        h.clock.later_ms = 100_000
        in_time = await h.watchdog.look()

        assert early == 0
        assert since == [TaskState.RUNNING, TaskState.RUNNING, TaskState.QUEUED]
        assert in_time == 2
        await h.until(running, TaskState.TIMEOUT)
        await h.until(queued, TaskState.EXPIRED)
        assert (await h.store.task(away)).status is TaskState.RUNNING


async def test_the_loop_looks_by_itself_and_outlives_a_store_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hall(tmp_path) as h:
        due = h.store.due
        is_away = True

        async def flaky(now: int, limit: int) -> object:
            if is_away:
                raise StoreUnavailable("locked")
            return await due(now, limit)

        monkeypatch.setattr(h.store, "due", flaky)
        task_id = await h.submit(queue_ttl=1)
        async with anyio.create_task_group() as group:
            group.start_soon(h.watchdog.run)
            await h.until_true(lambda: h.watchdog.trouble == "locked")
            is_away = False
            await h.until(task_id, TaskState.EXPIRED)
            await h.until_true(lambda: h.watchdog.trouble is None)
            group.cancel_scope.cancel()


async def test_a_host_that_went_while_the_disk_was_full_is_noticed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hall(tmp_path) as h:
        await h.online(FakeHost(plan=lambda _: Plan(holds=True)))
        task_id = await h.submit()
        await h.until(task_id, TaskState.RUNNING)
        failed = anyio.Event()

        async def full(*_: Any) -> Any:
            failed.set()
            raise StoreUnavailable("disk full", code="DISK_FULL")

        monkeypatch.setattr(h.store, "host_gone", full)
        h.lines["h1"].cut()
        await failed.wait()
        monkeypatch.undo()

        task = await h.until_disconnected(task_id)

        assert task.deadline_at is not None
        assert task.deadline_at <= h.clock.now() + DEFAULT_LIMITS.lost_after


async def test_a_manager_that_was_stopped_for_minutes_reads_before_it_calls_a_host_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hall(tmp_path, loops=False) as h:
        await h.online(FakeHost())
        looks: list[float] = []
        look, monotonic = h.fleet.look, h.clock.monotonic

        def goes_on() -> float:
            if not h.clock.away_s:
                h.clock.away_s = 120.0
                h.group.start_soon(h.lines["h1"].send, encode(Heartbeat(timestamp=1)))  # it is read after whoever asks
            return monotonic()

        def looked() -> None:
            look()
            looks.append(h.clock.away_s)

        monkeypatch.setattr(h.fleet, "look", looked)
        h.group.start_soon(h.watchdog.watch_hosts)
        await h.until_true(lambda: looks)
        monkeypatch.setattr(h.clock, "monotonic", goes_on)
        await h.until_true(lambda: 120.0 in looks)

        assert h.lines["h1"].closed == (0, "cut")  # nobody did
        assert h.fleet.link("h1") is not None
