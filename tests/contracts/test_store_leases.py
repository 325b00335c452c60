"""Store, leases: which hosts keep them, and from when on a task counts that went out of reach."""

from manager.core import tasks
from manager.ports import Standing, Store
from tests.contracts.making import T0, Place, connect, start, submit

LOST_AFTER = tasks.DEFAULT_LIMITS.lost_after


async def test_it_is_kept_whether_a_host_keeps_leases(place: Place) -> None:
    store = await place.open()
    assert (await connect(store, leases=True)).keeps_leases
    assert (await (await place.open()).host("h1")).keeps_leases
    store = await place.open()

    assert not (await connect(store, leases=False)).keeps_leases
    assert not (await (await place.open()).host("h1")).keeps_leases


async def test_a_task_counts_from_the_last_sign_of_life_that_was_written_down(store: Store) -> None:
    host = await connect(store, leases=True)
    task = await submit(store)
    assert (await start(store, host)).leased
    assert await store.host_seen("h1", host.generation, T0 + 15_000) is Standing.GOOD

    await store.host_gone("h1", host.generation, T0 + 80_000)

    shown = await store.task(task.id)
    assert (shown.disconnected_since, shown.deadline_at) == (T0 + 80_000, T0 + 15_000 + LOST_AFTER)


async def test_a_manager_that_starts_counts_from_its_start(place: Place) -> None:
    store = await place.open()
    host = await connect(store, leases=True)
    here = await submit(store)
    await start(store, host)
    gone = await connect(store, "h2", "gemini", leases=True)
    away = await submit(store, agent_type="gemini")
    await start(store, gone)
    await store.host_gone("h2", gone.generation, T0 + 1)

    later = await place.open(T0 + 700_000)

    shown = [await later.task(task.id) for task in (here, away)]
    assert [task.disconnected_since for task in shown] == [T0 + 700_000, T0 + 1]
    assert [task.deadline_at for task in shown] == [T0 + 700_000 + LOST_AFTER] * 2


async def test_a_welcome_that_came_to_nothing_prolonged_the_lease_all_the_same(store: Store) -> None:
    host = await connect(store, leases=True)
    task = await submit(store)
    await start(store, host)
    await store.host_gone("h1", host.generation, T0 + 5)

    again = await connect(store, leases=True, now=T0 + 50_000)
    await store.host_gone("h1", again.generation, T0 + 50_001)

    assert (await store.task(task.id)).deadline_at == T0 + 50_000 + LOST_AFTER


async def test_signs_of_life_do_not_go_back(store: Store) -> None:
    host = await connect(store, leases=True)
    await store.host_seen("h1", host.generation, T0 + 10)

    await store.host_seen("h1", host.generation, T0 + 5)

    assert (await store.host("h1")).last_seen_at == T0 + 10
