"""`task:start` is said when the claim is durable; that its host is ready is written a moment later, and a crash between
the two never makes a task that may have started look as if it had not.
"""

import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path

import anyio
import pytest

from manager.core.lifecycle import Cause
from manager.core.tasks import Change, Verdict
from manager.ports import Claim, HostRow, Taken
from manager.storage.generations import Generations
from manager.storage.sqlite import SqliteStore
from shared_types.tasks import TaskState
from tests.contracts.making import T0, claim_one, connect, offer, report, submit, take


@asynccontextmanager
async def slow_disk(store: SqliteStore, *, fails: bool = False) -> AsyncIterator[threading.Event]:
    """Nothing is committed until the event is set, or in the end; then the first group may fail, and all behind it."""
    gate = threading.Event()

    def write(db: sqlite3.Connection) -> None:
        assert gate.wait(10)
        if fails:
            raise ZeroDivisionError

    async def writing() -> None:
        with pytest.raises(ZeroDivisionError) if fails else nullcontext():
            await store._writer.write(write)

    async with anyio.create_task_group() as group:
        group.start_soon(writing)
        await anyio.wait_all_tasks_blocked()
        try:
            yield gate
        finally:
            gate.set()


async def crashed(store: SqliteStore, path: Path, tmp_path: Path) -> SqliteStore:
    """What a manager finds that starts after this one was killed now."""
    left = tmp_path / "left behind"
    shutil.copytree(path.parent, left)
    return await SqliteStore.open(left / path.name, now=T0 + 5)


async def test_it_waits_for_the_claim_and_not_for_the_disk_again(store: SqliteStore) -> None:
    host = await connect(store)
    await submit(store)
    record = (await claim_one(store, host)).record

    async with slow_disk(store):
        with anyio.fail_after(5):
            (taken,) = await store.accept([report(record, host, Cause.ACCEPTED)])

    assert taken.verdict is Verdict.TAKEN
    assert taken.record is not None
    assert taken.record.accepted
    (held,) = await store.on_host(host.host_id)
    assert held.accepted


async def test_after_a_crash_it_may_have_started(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    host = await connect(store)
    await submit(store)
    record = (await claim_one(store, host)).record

    async with slow_disk(store):
        await store.accept([report(record, host, Cause.ACCEPTED)])  # and `task:start` is said
        later = await crashed(store, path, tmp_path)

    async with later:
        (held,) = await later.on_host(host.host_id)
        assert (held.status, held.accepted) == (TaskState.ASSIGNED, True)
        assert held.disconnected_since is not None  # it waits for its host and does not go to another
        assert (await later.counts())[TaskState.QUEUED] == 0


async def test_after_a_restart_it_waits_for_the_claim_alone_too(store: SqliteStore, path: Path) -> None:
    for number in range(3):
        await connect(store, f"h{number}")
    await store.close()

    async with await SqliteStore.open(path, now=T0) as later:
        await submit(later)
        host = await connect(later)
        record = (await claim_one(later, host)).record
        async with slow_disk(later):
            with anyio.fail_after(5):
                await later.accept([report(record, host, Cause.ACCEPTED)])


async def test_what_is_given_out_again_after_a_restart_is_not_in_doubt(store: SqliteStore, path: Path) -> None:
    host = await connect(store)
    await submit(store)
    await claim_one(store, host)
    await store.close()

    later = await SqliteStore.open(path, now=T0)
    async with later:
        (doubted,) = await later.on_host(host.host_id)
        host = await connect(later)
        await take(later, report(doubted, host, Cause.NEVER_STARTED))
        await claim_one(later, host)
        later._writer._ledger._hot = Generations(1)  # as when very many others were used since
        (held,) = await later.on_host(host.host_id)

    assert (doubted.accepted, held.accepted) == (True, False)


async def test_said_once_it_may_have_started_however_often_a_commit_fails(store: SqliteStore) -> None:
    host = await connect(store)
    await submit(store)
    record = (await claim_one(store, host)).record

    async with slow_disk(store, fails=True):
        await store.accept([report(record, host, Cause.ACCEPTED)])  # and `task:start` is said
    async with slow_disk(store, fails=True):
        pass

    (held,) = await store.on_host(host.host_id)
    assert held.accepted


async def test_what_was_forgotten_before_a_commit_failed_is_as_its_row_says(store: SqliteStore) -> None:
    host = await connect(store)
    await submit(store)
    await claim_one(store, host)
    store._writer._ledger._hot = Generations(1)  # as when very many others were used since

    async with slow_disk(store, fails=True):
        pass

    (held,) = await store.on_host(host.host_id)
    assert not held.accepted


async def test_it_is_written_soon_when_nothing_else_is(store: SqliteStore, path: Path) -> None:
    host = await connect(store)
    await submit(store)
    record = (await claim_one(store, host)).record

    await store.accept([report(record, host, Cause.ACCEPTED)])

    db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    with anyio.fail_after(5):
        while '"accepted":true' not in db.execute("SELECT record FROM standing").fetchone()[0]:
            await anyio.lowlevel.checkpoint()
    db.close()


async def accept_early(store: SqliteStore, host: HostRow, told: list[Taken]) -> None:
    """Claim, and accept before the claim is durable, as a host does that heard of it when it was decided."""
    offers = [await offer(store, host)]

    async def accept(change: Change) -> None:
        told.extend(await store.accept([change]))

    async with anyio.create_task_group() as group:

        def decided(claimed: Sequence[Claim]) -> None:
            for one in claimed:
                group.start_soon(accept, report(one.record, host, Cause.ACCEPTED))

        await store.claim(offers, accept_by=T0 + 10_000, now=T0, decided=decided)


async def test_a_claim_that_is_not_durable_is_not_started(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    host = await connect(store)
    await submit(store)
    told: list[Taken] = []

    async with slow_disk(store), anyio.create_task_group() as group:
        group.start_soon(accept_early, store, host, told)
        await anyio.wait_all_tasks_blocked()
        assert told == []
        async with await crashed(store, path, tmp_path) as later:
            assert await later.on_host(host.host_id) == []
            assert (await later.counts())[TaskState.QUEUED] == 1
        group.cancel_scope.cancel()

    (held,) = await store.on_host(host.host_id)
    assert held.accepted


async def test_the_start_of_a_claim_that_came_to_nothing_is_never_said(store: SqliteStore) -> None:
    host = await connect(store)
    await submit(store)
    told: list[Taken] = []

    async with slow_disk(store, fails=True) as gate, anyio.create_task_group() as group:
        group.start_soon(accept_early, store, host, told)
        await anyio.wait_all_tasks_blocked()
        gate.set()

    # The first claim was undone with the group before it; the second one is another attempt.
    assert [one.verdict for one in told].count(Verdict.TAKEN) == 1
    (held,) = await store.on_host(host.host_id)
    assert held.accepted
    assert {one.record.attempt for one in told if one.verdict is Verdict.TAKEN and one.record} == {held.attempt}


async def test_a_wish_to_stop_that_came_before_is_not_overtaken(store: SqliteStore) -> None:
    host = await connect(store)
    await submit(store)
    record = (await claim_one(store, host)).record
    order: list[str] = []

    async def abort() -> None:
        await store.change([Change(task_id=record.id, now=T0 + 1, cause=Cause.ABORT)])
        order.append("stop")

    async def accept() -> None:
        (taken,) = await store.accept([report(record, host, Cause.ACCEPTED)])
        assert taken.record is not None
        order.append(f"accepted while {taken.record.status}")

    async with anyio.create_task_group() as group:
        group.start_soon(abort)
        group.start_soon(accept)

    assert sorted(order) == ["accepted while stopping", "stop"]


async def test_a_wish_to_stop_that_came_after_does_not_overtake(store: SqliteStore) -> None:
    host = await connect(store)
    await submit(store)
    order: list[str] = []
    offers = [await offer(store, host)]

    async def accept(change: Change) -> None:
        await store.accept([change])
        order.append("start")

    async def abort(task_id: str) -> None:
        await store.change([Change(task_id=task_id, now=T0 + 1, cause=Cause.ABORT)])
        order.append("stop")

    async with slow_disk(store) as gate, anyio.create_task_group() as group:  # all of it shares a commit

        def decided(claimed: Sequence[Claim]) -> None:
            for one in claimed:
                group.start_soon(accept, report(one.record, host, Cause.ACCEPTED))
                group.start_soon(abort, one.record.id)

        group.start_soon(partial(store.claim, offers, accept_by=T0 + 10_000, now=T0, decided=decided))
        await anyio.wait_all_tasks_blocked()
        gate.set()

    assert order == ["start", "stop"]


@pytest.mark.parametrize("is_current", [True, False])
async def test_what_is_not_taken_waits_for_its_own_commit(store: SqliteStore, is_current: bool) -> None:
    host = await connect(store)
    await submit(store)
    record = (await claim_one(store, host)).record
    if is_current:
        await store.change([Change(task_id=record.id, now=T0 + 1, cause=Cause.ABORT)])
    attempt = record.attempt + (0 if is_current else 1)
    answered = anyio.Event()

    async def accept() -> None:
        (taken,) = await store.accept([report(record, host, Cause.ACCEPTED, attempt=attempt)])
        assert taken.verdict is (Verdict.TAKEN if is_current else Verdict.STALE)
        answered.set()

    async with slow_disk(store) as gate, anyio.create_task_group() as group:
        group.start_soon(accept)
        await anyio.wait_all_tasks_blocked()
        assert not answered.is_set()
        gate.set()
