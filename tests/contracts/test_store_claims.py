"""Store, claims and fences: who gets which task, and who may still speak of it."""

import anyio
import pytest

from manager.core import tasks
from manager.core.lifecycle import Cause
from manager.core.tasks import Change
from manager.ports import Store, Verdict
from shared_types.tasks import Reason, TaskState
from tests.contracts.making import (
    T0,
    Place,
    bodies,
    claim,
    claim_one,
    connect,
    offer,
    report,
    start,
    submit,
    take,
    told,
    whole_log,
)


async def test_a_claimed_task_is_assigned_with_a_new_attempt(place: Place) -> None:
    store = await place.open()
    host = await connect(store, "h1")
    task = await submit(store, prompt="the whole prompt")

    (claimed,) = await claim(store, host)

    record = claimed.record
    assert (record.id, record.status, record.host_id, record.attempt) == (task.id, TaskState.ASSIGNED, "h1", 1)
    assert record.uid
    assert record.boot == host.boot_id == "b"
    assert record.deadline_at == T0 + 10_000
    assert (claimed.spec.prompt, claimed.host_id, claimed.generation) == ("the whole prompt", "h1", host.generation)
    assert [event.id for event in claimed.events] == [2]
    assert await store.claim_of(task.id) is not None
    assert (await (await place.open()).task(task.id)).attempt == 1


async def test_the_most_urgent_goes_first_and_among_equals_the_oldest(store: Store) -> None:
    host = await connect(store)
    names = {(await submit(store, priority=priority)).id: priority for priority in (5, 1, 5, 9, 1)}

    claimed = [(await claim_one(store, host)).record.id for _ in range(4)]

    assert claimed == [name for name, _ in sorted(names.items(), key=lambda item: item[1])][:4]


async def test_urgency_counts_across_queues(store: Store) -> None:
    host = await connect(store, "h1", "command", "other")
    await submit(store, priority=5, agent_type="command")
    urgent = await submit(store, priority=2, agent_type="other")

    assert (await claim_one(store, host)).record.id == urgent.id


async def test_no_task_is_claimed_twice(store: Store) -> None:
    h1, h2 = await connect(store, "h1", slots=50), await connect(store, "h2", slots=50)
    for _ in range(20):
        await submit(store)
    offers = [await offer(store, host) for host in (h1, h2)]
    found: list[str] = []

    async def ask(number: int) -> None:
        claims = await store.claim([offers[number % 2]], accept_by=T0 + 9, now=T0)
        found.extend(claimed.record.id for claimed in claims)

    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(ask, number)

    assert len(found) == len(set(found)) == 20


async def test_no_more_than_the_slots_are_filled_whatever_the_offer_believes(store: Store) -> None:
    host = await connect(store, slots=2)
    for _ in range(5):
        await submit(store)

    first = await claim(store, host)
    again = await claim(store, host, used=0)
    await take(store, report(first[0].record, host, Cause.SUCCEEDED))
    after_one_ended = await claim(store, host, used=2)

    assert [len(first), len(again), len(after_one_ended)] == [2, 0, 1]


async def test_the_least_loaded_host_gets_the_next_task(store: Store) -> None:
    h1, h2 = await connect(store, "h1", slots=4), await connect(store, "h2", slots=4)
    for _ in range(4):
        await submit(store)

    claims = await claim(store, h1, h2)

    assert sorted(claimed.host_id for claimed in claims) == ["h1", "h1", "h2", "h2"]


async def test_among_equally_loaded_hosts_the_one_that_waited_longest(store: Store) -> None:
    h1, h2 = await connect(store, "h1"), await connect(store, "h2")
    await submit(store)
    await claim(store, h1, now=T0 + 1)
    await submit(store)

    rows = {row.host_id: row.last_assigned_at for row in await store.hosts()}
    assert rows == {"h1": T0 + 1, "h2": 0}
    offers = [
        await offer(store, h1, used=0, slots=100, last_assigned_at=rows["h1"]),
        await offer(store, h2, used=0, slots=100, last_assigned_at=rows["h2"]),
    ]
    (claimed,) = await store.claim(offers, accept_by=T0 + 9, now=T0 + 2)
    assert claimed.host_id == "h2"


async def test_labels_are_required_preferred_and_avoided(store: Store) -> None:
    plain = await connect(store, "plain")
    gpu = await connect(store, "gpu", labels={"gpu": "yes"})
    old = await connect(store, "old", labels={"gpu": "yes", "disk": "old"})
    needs = await submit(store, require={"gpu": "yes"}, avoid={"disk": "old"})
    likes = await submit(store, prefer={"gpu": "yes"}, avoid={"disk": "old"})
    pinned = await submit(store, pinned_host="plain")

    claims = await claim(store, plain, gpu, old)

    where = {claimed.record.id: claimed.host_id for claimed in claims}
    assert where == {needs.id: "gpu", likes.id: "gpu", pinned.id: "plain"}


async def test_nothing_is_claimed_for_a_connection_that_is_not_the_current_one(store: Store) -> None:
    old = await connect(store)
    current = await connect(store)
    await submit(store)

    assert await claim(store, old) == []
    assert len(await claim(store, current)) == 1


async def test_nothing_is_claimed_for_a_host_that_is_gone_or_draining(store: Store) -> None:
    gone, draining = await connect(store, "gone"), await connect(store, "draining")
    await submit(store)
    await store.host_gone("gone", gone.generation, T0)
    await store.set_draining("draining", True)

    assert await claim(store, gone, draining) == []
    await store.set_draining("draining", False)
    assert len(await claim(store, gone, draining)) == 1


async def test_a_host_of_the_base_dialect_counts_as_started_from_the_claim(store: Store) -> None:
    host = await connect(store, protocol=1)
    await submit(store)

    (claimed,) = await claim(store, host)

    assert claimed.record.accepted
    assert claimed.record.deadline_at == T0 + tasks.DEFAULT_LIMITS.start
    started = await take(store, report(claimed.record, host, Cause.STARTED))
    assert started.status is TaskState.RUNNING


# --- given back ---------------------------------------------------------------------------------------


async def test_a_refused_task_goes_back_to_the_queue_but_not_to_that_host(place: Place) -> None:
    store = await place.open()
    h1, h2 = await connect(store, "h1"), await connect(store, "h2")
    task = await submit(store)
    (claimed,) = await claim(store, h1)

    record = await take(store, report(claimed.record, h1, Cause.REFUSED, reason="cwd_missing", detail="no /x"))

    assert (record.status, record.excluded_hosts, record.reason) == (TaskState.QUEUED, ("h1",), "cwd_missing")
    assert record.boot is None
    assert await claim(store, h1) == []
    (again,) = await claim(store, h2)
    assert (again.record.id, again.record.attempt) == (task.id, 2)


async def test_a_task_that_every_host_refused_has_failed_and_says_so(store: Store) -> None:
    h1, h2 = await connect(store, "h1"), await connect(store, "h2")
    await connect(store, "h3", "other")
    task = await submit(store)
    (claimed,) = await claim(store, h1)
    await take(store, report(claimed.record, h1, Cause.REFUSED, reason="cwd_missing"))
    (claimed,) = await claim(store, h2)

    taken = await told(store, report(claimed.record, h2, Cause.REFUSED, reason="logged_out", detail="log in first"))

    ended = await store.task(task.id)
    assert taken.record is not None
    assert taken.record.status is ended.status is TaskState.FAILED
    assert ended.reason == Reason.REFUSED_EVERYWHERE
    assert "log in first" in (ended.detail or "")
    assert [event.id for event in taken.events] == [5, 6]
    assert await store.requirements() == {}
    assert await store.on_host("h2") == []


async def test_a_host_that_is_away_may_still_take_what_others_refused(store: Store) -> None:
    h1, h2 = await connect(store, "h1"), await connect(store, "h2")
    await submit(store)
    await store.host_gone("h2", h2.generation, T0)
    (claimed,) = await claim(store, h1)

    record = await take(store, report(claimed.record, h1, Cause.REFUSED, reason="cwd_missing"))

    assert record.status is TaskState.QUEUED


@pytest.mark.parametrize("reason", ["no_free_slot", "draining", "disk_full"])
async def test_a_lack_of_room_is_forgotten_after_a_rest(store: Store, reason: str) -> None:
    host = await connect(store)
    task = await submit(store)
    (claimed,) = await claim(store, host)

    record = await take(store, report(claimed.record, host, Cause.REFUSED, reason=reason, now=T0))

    assert (record.status, record.excluded_hosts) == (TaskState.QUEUED, ())
    assert await claim(store, host, now=T0 + 4_999) == []
    assert [claimed.record.id for claimed in await claim(store, host, now=T0 + 5_000)] == [task.id]


async def test_a_host_that_does_not_get_ready_rests_and_the_task_goes_elsewhere(store: Store) -> None:
    h1, h2 = await connect(store, "h1"), await connect(store, "h2")
    await submit(store)
    (claimed,) = await claim(store, h1)
    change = tasks.overdue(claimed.record, T0 + 10_000)
    assert change is not None

    await take(store, change)

    assert [claimed.host_id for claimed in await claim(store, h1, h2, now=T0 + 10_000)] == ["h2"]
    late = await told(store, report(claimed.record, h1, Cause.ACCEPTED))
    assert late.verdict is Verdict.STALE


# --- fences -------------------------------------------------------------------------------------------


async def test_what_an_older_connection_says_is_stale(store: Store) -> None:
    old = await connect(store)
    task = await submit(store)
    record = await start(store, old)
    new = await connect(store)

    zombie = await told(store, report(record, old, Cause.SUCCEEDED, span=(1, 1), events=bodies(1, 1)))
    current = await told(store, report(record, new, span=(1, 1), events=bodies(1, 1)))

    assert (zombie.verdict, zombie.events) == (Verdict.STALE, ())
    assert current.verdict is Verdict.TAKEN
    assert (await store.task(task.id)).status is TaskState.RUNNING


async def test_what_is_said_of_an_older_attempt_is_stale(store: Store) -> None:
    h1, h2 = await connect(store, "h1"), await connect(store, "h2")
    task = await submit(store)
    (first,) = await claim(store, h1)
    await take(store, report(first.record, h1, Cause.REFUSED, reason="cwd_missing"))
    second = await start(store, h2)

    for change in (
        report(first.record, h1, Cause.STARTED),
        report(first.record, h2, Cause.FAILED),
        report(second, h1, Cause.FAILED),
    ):
        assert (await told(store, change)).verdict is Verdict.STALE
    assert (await store.task(task.id)).status is TaskState.RUNNING


async def test_records_are_taken_once_in_order_and_without_gaps(store: Store) -> None:
    host = await connect(store)
    await submit(store, session="sess_a")
    record = await start(store, host)

    async def says(first: int, last: int) -> tuple[Verdict, int]:
        taken = await told(store, report(record, host, span=(first, last), events=bodies(first, last)))
        return taken.verdict, taken.heard

    assert await says(2, 3) == (Verdict.GAP, 0)
    assert await says(1, 3) == (Verdict.TAKEN, 3)
    assert await says(1, 3) == (Verdict.AGAIN, 3)
    assert await says(2, 2) == (Verdict.AGAIN, 3)
    assert await says(3, 4) == (Verdict.GAP, 3)
    assert await says(5, 5) == (Verdict.GAP, 3)
    assert await says(4, 4) == (Verdict.TAKEN, 4)
    assert len(await whole_log(store, "sess_a")) == 3 + 4


async def test_a_last_word_said_again_after_a_restart_is_confirmed_and_changes_nothing(place: Place) -> None:
    store = await place.open()
    host = await connect(store)
    task = await submit(store)
    record = await start(store, host)
    last = report(record, host, Cause.SUCCEEDED, span=(1, 7), events=bodies(1, 2))
    await take(store, last)
    store = await place.open(T0 + 1)
    host = await connect(store)
    ended = await store.task(task.id)

    again = await told(store, report(record, host, Cause.SUCCEEDED, span=(1, 7), events=bodies(1, 2)))

    assert (again.verdict, again.heard) == (Verdict.AGAIN, 7)
    assert await store.task(task.id) == ended


async def test_where_an_attempt_stands_is_durable_with_its_events(place: Place) -> None:
    store = await place.open()
    host = await connect(store)
    task = await submit(store)
    record = await start(store, host)
    await take(store, report(record, host, span=(1, 5), events=bodies(1, 2)))
    await take(store, report(record, host, span=(6, 6)))

    store = await place.open(T0 + 1)
    host = await connect(store)

    (kept,) = await store.on_host("h1")
    assert (kept.heard, kept.accepted, kept.attempt, kept.uid) == (6, True, 1, record.uid)
    assert (await store.task(task.id)).last_event_id == 6
    taken = await told(store, report(record, host, span=(7, 7), events=bodies(7, 7)))
    assert taken.verdict is Verdict.TAKEN
    assert [event.id for event in taken.events] == [7, 8]  # first that its host is back, then what it says


async def test_many_changes_at_once_all_arrive(store: Store) -> None:
    host = await connect(store, slots=30)
    for _ in range(30):
        await submit(store)
    records = [claimed.record for claimed in await claim(store, host)]

    async def live(record: tasks.Record) -> None:
        await take(store, report(record, host, Cause.ACCEPTED))
        await take(store, report(record, host, Cause.STARTED))
        for number in range(1, 6):
            await take(store, report(record, host, span=(number, number), events=bodies(number, number)))
        await take(store, report(record, host, Cause.SUCCEEDED, span=(6, 6)))

    async with anyio.create_task_group() as group:
        for record in records:
            group.start_soon(live, record)

    for record in records:
        assert [id for id, _ in await whole_log(store, record.session_id)] == list(range(1, 10))
    assert (await store.counts())[TaskState.COMPLETED] == 30
    assert await store.on_host("h1") == []


# --- connections come and go --------------------------------------------------------------------------


async def test_a_task_that_was_not_accepted_goes_back_at_once_when_its_host_goes(store: Store) -> None:
    host = await connect(store)
    task = await submit(store)
    await claim(store, host)

    (taken,) = await store.host_gone("h1", host.generation, T0 + 1)

    assert taken.record is not None
    assert (taken.record.status, taken.record.excluded_hosts) == (TaskState.QUEUED, ())
    back = await connect(store)
    assert [claimed.record.id for claimed in await claim(store, back)] == [task.id]


async def test_a_running_task_of_a_host_that_goes_is_disconnected_until_it_is_back(store: Store) -> None:
    host = await connect(store)
    task = await submit(store, timeout=60_000)
    record = await start(store, host)

    (taken,) = await store.host_gone("h1", host.generation, T0 + 5)
    shown = await store.task(task.id)
    assert taken.status_changed
    assert (shown.status, shown.disconnected_since) == (TaskState.RUNNING, T0 + 5)
    assert shown.deadline_at == T0 + 5 + tasks.DEFAULT_LIMITS.lost_after

    back = await connect(store)
    await take(store, Change(task_id=task.id, now=T0 + 9, host_id="h1", generation=back.generation, reachable=True))
    shown = await store.task(task.id)
    assert (shown.disconnected_since, shown.deadline_at) == (None, T0 + 60_000 + tasks.DEFAULT_LIMITS.settle)
    ended = await take(store, report(record, back, Cause.SUCCEEDED, span=(1, 1)))
    assert ended.status is TaskState.COMPLETED


async def test_a_report_alone_proves_that_the_host_is_back(store: Store) -> None:
    host = await connect(store)
    await submit(store)
    record = await start(store, host)
    await store.host_gone("h1", host.generation, T0 + 5)
    back = await connect(store)

    taken = await told(store, report(record, back, span=(1, 1), events=bodies(1, 1)))

    assert taken.record is not None
    assert taken.record.disconnected_since is None
    assert [event.attempt for event in taken.events] == [0, 1]


async def test_the_late_cleanup_of_an_old_connection_changes_nothing(store: Store) -> None:
    old = await connect(store)
    task = await submit(store)
    await start(store, old)
    new = await connect(store)

    assert await store.host_gone("h1", old.generation, T0 + 5) == []
    assert (await store.task(task.id)).disconnected_since is None
    assert len(await store.host_gone("h1", new.generation, T0 + 6)) == 1
    assert await store.host_gone("h1", new.generation, T0 + 7) == []


async def test_a_base_host_that_goes_keeps_what_it_was_told_to_run(store: Store) -> None:
    host = await connect(store, protocol=1)
    await submit(store)
    await claim(store, host)

    (taken,) = await store.host_gone("h1", host.generation, T0 + 1)

    assert taken.record is not None
    assert (taken.record.status, taken.record.disconnected_since) == (TaskState.ASSIGNED, T0 + 1)


async def test_claim_of_knows_the_current_connection_and_only_live_attempts(place: Place) -> None:
    store = await place.open()
    host = await connect(store)
    task = await submit(store)
    assert await store.claim_of(task.id) is None
    record = await start(store, host)
    await connect(store)
    store = await place.open(T0 + 1)
    host = await connect(store)

    found = await store.claim_of(task.id)

    assert found is not None
    assert (found.host_id, found.generation, found.record.uid) == ("h1", host.generation, record.uid)
    await take(store, report(record, host, Cause.SUCCEEDED))
    assert await store.claim_of(task.id) is None
    assert await store.claim_of("task_nobody") is None


async def test_on_host_holds_every_state_that_takes_a_slot(store: Store) -> None:
    host = await connect(store, slots=9)
    names = [(await submit(store)).id for _ in range(5)]
    assigned = (await claim_one(store, host)).record
    await start(store, host)
    stopping = await start(store, host)
    await take(store, Change(task_id=stopping.id, now=T0, cause=Cause.ABORT))
    ended = await start(store, host)
    await take(store, report(ended, host, Cause.FAILED))

    held = await store.on_host("h1")

    assert [record.id for record in held] == names[:3]
    assert held[0] == assigned
    assert await store.on_host("h2") == []
