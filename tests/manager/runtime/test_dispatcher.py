"""Who is given what, and what happens when a host will not or cannot take it."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from manager.errors import StoreUnavailable
from manager.storage.claims import MAX_HEADS
from manager.storage.entries import Entries
from shared_types.hosts import AgentInfo
from shared_types.messages import Registered, TaskAbort, TaskExecute
from shared_types.tasks import LabelRules, TaskState
from tests.fakes.host import FakeHost, Plan, capabilities
from tests.manager.runtime.hall import hall
from tests.manager.runtime.test_host_link import greeting


async def test_a_host_that_refused_a_task_is_not_asked_again_and_another_one_gets_it(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        picky = await h.online(FakeHost("picky", plan=lambda _: Plan(refuse="cwd_missing")))
        task_id = await h.submit()
        task = await h.until(task_id, TaskState.FAILED)
        assert (task.reason, task.excluded_hosts) == ("cwd_missing", ("picky",))

        willing = await h.online(FakeHost("willing"))
        second = await h.submit(labels=LabelRules(prefer={"none": "such"}))
        task = await h.until(second, TaskState.COMPLETED)

        assert task.host_id == "willing"
        assert willing.executed == [second]
        assert picky.executed.count(second) <= 1


async def test_a_task_that_every_host_refused_has_failed_and_says_why(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        for name in ("a", "b"):
            await h.online(FakeHost(name, plan=lambda _: Plan(refuse="cwd_not_allowed")))

        task = await h.until(await h.submit(), TaskState.FAILED)

        assert task.reason == "cwd_not_allowed"
        assert set(task.excluded_hosts) == {"a", "b"}
        assert "plan: cwd_not_allowed" in (task.detail or "")


async def test_hosts_are_never_given_more_than_they_have_slots(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(slots=3, plan=lambda _: Plan(holds=True, events=0)))
        tasks = [await h.submit() for _ in range(5)]
        await h.until_true(lambda: len(host.started) == 3)
        assert [(await h.store.task(task_id)).status for task_id in tasks[3:]] == [TaskState.QUEUED] * 2

        await host.finish(tasks[0])

        await h.until(tasks[3], TaskState.RUNNING)
        assert (await h.store.task(tasks[4])).status is TaskState.QUEUED


async def test_a_draining_host_gets_nothing_until_it_is_resumed(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost())
        assert (await h.fleet.drain("h1")).draining
        task_id = await h.submit()
        await h.dispatcher.hand_out()
        assert host.executed == []

        assert not (await h.fleet.resume("h1")).draining

        await h.until(task_id, TaskState.COMPLETED)


async def test_draining_outlives_a_reconnect(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost())
        await h.fleet.drain("h1")
        await h.cut()
        await h.online(host)

        task_id = await h.submit()
        await h.dispatcher.hand_out()

        assert (await h.store.task(task_id)).status is TaskState.QUEUED
        assert (await h.fleet.status("h1")).draining


async def test_an_agent_that_is_logged_out_is_not_given_work(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        await h.online(FakeHost(found=(AgentInfo(agent="opencode", auth_ok=False, hint="run opencode auth login"),)))

        task_id = await h.submit()
        await h.dispatcher.hand_out()
        why = await h.tasks.why(task_id)

        assert (await h.store.task(task_id)).status is TaskState.QUEUED
        (condition,) = [c for c in why.hosts[0].conditions if not c.holds]
        assert (condition.name, condition.found) == ("loggedIn", "logged out (run opencode auth login)")


async def test_work_for_a_connection_that_is_gone_goes_back_once(tmp_path: Path) -> None:
    async with hall(tmp_path, loops=False) as h:
        await h.online(FakeHost("h1"))
        task_id = await h.submit()
        now = h.clock.now()
        offers = h.fleet.offers(await h.store.requirements())
        (claim,) = await h.store.claim(offers, accept_by=now + 60_000, now=now)
        await h.cut()  # between the claim and the telling

        assert not h.fleet.execute(claim)
        await h.dispatcher.tell([claim])

        assert await h.kinds(task_id) == ["queued", "assigned", "queued"]


async def test_work_that_does_not_fit_into_a_hosts_queue_goes_back_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manager.runtime.outbound.MAX_WORK_BYTES", 1_000)
    async with hall(tmp_path, loops=False) as h:
        hand = h.hand(room=1)
        await hand.say(greeting(capabilities=capabilities(slots=3)))
        await h.until_true(lambda: h.fleet.link("h1"))
        tasks = [await h.submit("x" * 900) for _ in range(3)]

        await h.dispatcher.hand_out()

        # One is being written, one waits for it.
        states = [(await h.store.task(task_id)).status for task_id in tasks]
        assert states == [TaskState.ASSIGNED, TaskState.ASSIGNED, TaskState.QUEUED]


async def test_a_host_that_has_no_room_for_more_work_is_not_asked_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manager.runtime.outbound.MAX_WORK_BYTES", 1_000)
    async with hall(tmp_path, loops=False) as h:
        hand = h.hand(room=1)
        await hand.say(greeting(capabilities=capabilities(slots=3)))
        await h.until_true(lambda: h.fleet.link("h1"))
        tasks = [await h.submit("x" * 900) for _ in range(3)]

        for _ in range(5):
            await h.dispatcher.hand_out()

        assert [(await h.store.task(task_id)).attempt for task_id in tasks] == [1, 1, 1]


async def test_a_host_gets_ready_while_the_disk_works_and_starts_when_it_has(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost())
        gate = threading.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(h.store._writer.write, lambda db: gate.wait(10))
            await anyio.wait_all_tasks_blocked()
            group.start_soon(h.submit)

            await h.until_true(lambda: host.executed)
            await anyio.wait_all_tasks_blocked()
            assert host.started == []
            assert sum((await h.store.counts()).values()) == 0  # nobody was told that there is a task

            gate.set()
        await h.until(host.executed[0], TaskState.COMPLETED)
        assert host.started == [(host.executed[0], 1)]


async def test_a_claim_that_could_not_be_made_durable_is_called_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hall(tmp_path, loops=False) as h:
        hand = h.hand()
        await hand.say(greeting())
        await hand.expect(Registered)
        task_id = await h.submit()
        failing = sqlite3.OperationalError("disk full")
        failing.sqlite_errorcode = sqlite3.SQLITE_FULL

        def fail(entries: Entries, db: object) -> int:
            raise failing

        with monkeypatch.context() as patch:
            patch.setattr(Entries, "write", fail)
            with pytest.raises(StoreUnavailable):
                await h.dispatcher.hand_out()

        told = await hand.expect(TaskExecute)
        called_off = await hand.expect(TaskAbort)
        assert (called_off.task_id, called_off.attempt, told.attempt) == (task_id, 1, 1)

        await h.dispatcher.hand_out()
        again = await hand.expect(TaskExecute)
        assert (again.task.task_id, again.attempt) == (task_id, 2)  # what it says of the first is not about this one
        assert again.uid != told.uid
        assert await h.kinds(task_id) == ["queued", "assigned"]


def a_full_disk(gate: threading.Event) -> Callable[[sqlite3.Connection], None]:
    def fail(db: sqlite3.Connection) -> None:
        gate.wait(10)
        full = sqlite3.OperationalError("disk full")
        full.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise full

    return fail


async def test_what_a_host_says_of_a_claim_that_came_to_nothing_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(plan=lambda _: Plan(holds=True, events=0)))
        gate = threading.Event()
        tasks: list[str] = []

        async def fail() -> None:
            with pytest.raises(StoreUnavailable):
                await h.store._writer.write(a_full_disk(gate))

        async def submit() -> None:
            tasks.append(await h.submit())

        async with anyio.create_task_group() as group:
            group.start_soon(fail)
            await h.until_true(lambda: h.store._writer._in_flight)
            group.start_soon(submit)  # its group waits behind the one that will fail, and is tried again
            await h.until_true(lambda: host.executed)
            gate.set()

        await h.until(tasks[0], TaskState.RUNNING)
        await anyio.wait_all_tasks_blocked()
        assert host.started == [(tasks[0], 2)]
        assert await h.kinds(tasks[0]) == ["queued", "assigned", "running"]


async def test_a_task_whose_claim_came_to_nothing_starts_on_one_host_alone(tmp_path: Path) -> None:
    async with hall(tmp_path, loops=False) as h:
        first = await h.online(FakeHost("a", plan=lambda _: Plan(holds=True, events=0)))
        task_id = await h.submit()
        gate = threading.Event()

        async def fail() -> None:
            with pytest.raises(StoreUnavailable):
                await h.store._writer.write(a_full_disk(gate))

        async with anyio.create_task_group() as group:
            group.start_soon(fail)
            await h.until_true(lambda: h.store._writer._in_flight)
            group.start_soon(h.dispatcher.hand_out)
            await h.until_true(lambda: first.executed)
            gate.set()
        second = await h.online(FakeHost("b", plan=lambda _: Plan(holds=True, events=0)))
        for _ in range(3):
            await h.dispatcher.hand_out()

        await h.until(task_id, TaskState.RUNNING)
        await anyio.wait_all_tasks_blocked()
        assert len(first.started + second.started) == 1


async def test_many_urgent_tasks_for_a_full_host_keep_no_other_host_waiting(tmp_path: Path) -> None:
    async with hall(tmp_path, loops=False) as h:
        labels = {"kind": "busy"}
        await h.online(FakeHost("busy", slots=1, labels=labels, plan=lambda _: Plan(holds=True, events=0)))
        await h.online(FakeHost("free", slots=1, plan=lambda _: Plan(holds=True, events=0)))
        for number in range(MAX_HEADS):  # each in a queue of its own
            rules = LabelRules(require=labels, avoid={"job": str(number)})
            await h.submit(labels=rules, priority=0)
        late = await h.submit(host_id="free", priority=9)

        await h.dispatcher.hand_out()

        assert (await h.store.task(late)).host_id == "free"
        assert len(await h.store.on_host("busy")) == 1


async def test_tasks_of_many_kinds_spread_over_hosts_by_load(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hosts = [
            await h.online(FakeHost(f"h{n}", slots=2, plan=lambda _: Plan(holds=True, events=0))) for n in range(3)
        ]
        for _ in range(6):
            await h.submit()

        await h.until_true(lambda: sum(len(host.started) for host in hosts) == 6)
        assert [len(host.started) for host in hosts] == [2, 2, 2]


async def test_when_the_store_is_away_the_dispatcher_says_so_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hall(tmp_path) as h:
        monkeypatch.setattr("manager.runtime.dispatcher.LOOK_EVERY_S", 0.01)
        await h.online(FakeHost())
        claim = h.store.claim
        is_away = True

        async def flaky(*args: object, **kwargs: object) -> object:
            if is_away:
                raise StoreUnavailable("disk full", code="DISK_FULL")
            return await claim(*args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(h.store, "claim", flaky)
        task_id = await h.submit()
        await h.until_true(lambda: h.dispatcher.trouble)
        assert h.dispatcher.trouble == "disk full"

        is_away = False
        await h.until(task_id, TaskState.COMPLETED)

        await h.until_true(lambda: h.dispatcher.trouble is None)


async def test_a_thousand_tasks_over_four_hosts_each_run_once(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hosts = [await h.online(FakeHost(f"h{n}", slots=16)) for n in range(4)]
        tasks: list[str] = []

        async def submit_some() -> None:
            tasks.extend([await h.submit() for _ in range(125)])

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(submit_some)
        for task_id in tasks:
            await h.until(task_id, TaskState.COMPLETED)

        started = [started for host in hosts for started in host.started]
        assert sorted(started) == sorted((task_id, 1) for task_id in tasks)
        assert all(status.slots_used == 0 for status in await h.fleet.statuses())
