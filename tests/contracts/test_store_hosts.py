"""Store, hosts and inputs: connections, drain, and follow-up text that is kept until the agent has it."""

import pytest

from manager.core.lifecycle import Cause
from manager.errors import Conflict, NotFound, TooMany
from manager.ports import Standing, Store
from shared_types.api import InputState
from shared_types.hosts import AgentInfo
from tests.contracts.making import T0, Place, a_token, can, connect, report, start, submit, take


async def test_a_host_is_kept_as_it_registered(place: Place) -> None:
    store = await place.open()
    agents = (AgentInfo(agent="command", version="1.2", auth_ok=True, models=("m",)),)

    host = await store.host_connected(
        "h1", can("command", labels={"a": "b"}), agents, protocol=2, version="0.1.0", boot_id="boot", now=T0
    )

    assert (host.generation, host.is_connected, host.last_seen_at, host.connected_at) == (1, True, T0, T0)
    assert (host.agents, host.version, host.boot_id, host.protocol) == (agents, "0.1.0", "boot", 2)
    assert await store.host("h1") == host
    assert await store.hosts() == [host]
    (later,) = await (await place.open(T0 + 7)).hosts()
    assert (later.capabilities, later.agents, later.generation) == (host.capabilities, agents, 1)
    assert (later.is_connected, later.disconnected_at) == (False, T0 + 7)


async def test_each_connection_is_a_new_generation_also_after_a_restart(place: Place) -> None:
    store = await place.open()
    assert (await connect(store)).generation == 1
    assert (await connect(store, "h1", "other", protocol=1)).generation == 2
    store = await place.open()

    host = await connect(store)

    assert host.generation == 3
    assert host.is_connected


async def test_only_the_current_connection_gives_signs_of_life(place: Place) -> None:
    store = await place.open()
    old = await connect(store)
    new = await connect(store)

    assert await store.host_seen("h1", old.generation, T0 + 1) is Standing.SUPERSEDED
    assert await store.host_seen("h1", new.generation, T0 + 2) is Standing.GOOD
    assert await store.host_seen("h2", 1, T0 + 3) is Standing.SUPERSEDED
    assert (await store.host("h1")).last_seen_at == T0 + 2
    await store.host_gone("h1", new.generation, T0 + 4)
    assert await store.host_seen("h1", new.generation, T0 + 5) is Standing.SUPERSEDED
    assert (await (await place.open()).host("h1")).last_seen_at == T0 + 2


async def test_a_host_whose_token_is_revoked_is_not_welcome_any_more(store: Store) -> None:
    await store.add_token(a_token("tok_h1", host_id="h1"))
    host = await connect(store)
    assert await store.host_seen("h1", host.generation, T0) is Standing.GOOD

    await store.revoke_token("tok_h1", T0)

    assert await store.host_seen("h1", host.generation, T0) is Standing.REVOKED
    await store.add_token(a_token("tok_h1_new", host_id="h1"))
    assert await store.host_seen("h1", host.generation, T0) is Standing.GOOD


async def test_no_host_of_that_name(store: Store) -> None:
    with pytest.raises(NotFound) as host:
        await store.host("h1")
    with pytest.raises(NotFound) as draining:
        await store.set_draining("h1", True)

    assert host.value.code == draining.value.code == "NO_SUCH_HOST"


async def test_draining_is_remembered(place: Place) -> None:
    store = await place.open()
    await connect(store)

    assert (await store.set_draining("h1", True)).draining

    store = await place.open()
    assert (await store.host("h1")).draining
    assert (await connect(store)).draining
    assert not (await store.set_draining("h1", False)).draining
    assert not (await store.host("h1")).draining


# --- inputs -------------------------------------------------------------------------------------------


async def test_an_input_is_kept_until_the_agent_has_it(place: Place) -> None:
    store = await place.open()
    task = await submit(store)
    one = await store.add_input(task.id, "in_1", "first\n", T0)
    await store.add_input(task.id, "in_2", "second", T0)

    store = await place.open()
    assert one.state is InputState.STORED
    assert [(kept.input_id, kept.content) for kept in await store.open_inputs(task.id)] == [
        ("in_1", "first\n"),
        ("in_2", "second"),
    ]
    sent = await store.mark_input(task.id, "in_1", InputState.SENT)
    assert sent is not None
    assert sent.state is InputState.SENT
    assert len(await store.open_inputs(task.id)) == 2
    await store.mark_input(task.id, "in_1", InputState.TAKEN)
    assert [kept.input_id for kept in await store.open_inputs(task.id)] == ["in_2"]


async def test_only_so_much_input_waits_for_an_agent(store: Store) -> None:
    task = await submit(store)
    for number in range(31):
        await store.add_input(task.id, f"in_{number}", "x" * 256 * 1024, T0)

    with pytest.raises(TooMany) as caught:
        await store.add_input(task.id, "in_31", "x" * 256 * 1024, T0)
    await store.mark_input(task.id, "in_0", InputState.TAKEN)
    await store.add_input(task.id, "in_31", "x" * 256 * 1024, T0)

    assert caught.value.code == "INPUTS_FULL"
    assert len(await store.open_inputs(task.id)) == 31


@pytest.mark.parametrize("last", [InputState.TAKEN, InputState.REFUSED])
async def test_an_input_never_goes_back(store: Store, last: InputState) -> None:
    task = await submit(store)
    await store.add_input(task.id, "in_1", "text", T0)
    await store.mark_input(task.id, "in_1", last)

    for late in InputState:
        known = await store.mark_input(task.id, "in_1", late)
        assert known is not None
        assert known.state is last
    assert await store.open_inputs(task.id) == []
    assert (await store.add_input(task.id, "in_1", "text", T0)).state is last


async def test_input_that_was_refused_waits_no_more(store: Store) -> None:
    task = await submit(store)
    for number in range(40):
        await store.add_input(task.id, f"in_{number}", "x" * 256 * 1024, T0)
        await store.mark_input(task.id, f"in_{number}", InputState.REFUSED)

    assert await store.open_inputs(task.id) == []


async def test_the_same_input_again_gives_what_is_stored(store: Store) -> None:
    host = await connect(store)
    task = await submit(store)
    await store.add_input(task.id, "in_1", "text", T0)
    await store.mark_input(task.id, "in_1", InputState.TAKEN)
    await take(store, report(await start(store, host), host, Cause.SUCCEEDED))

    again = await store.add_input(task.id, "in_1", "another text", T0 + 1)

    assert (again.content, again.state) == ("text", InputState.TAKEN)


async def test_a_task_that_ended_takes_no_input_and_one_that_is_not_there_neither(store: Store) -> None:
    host = await connect(store)
    task = await submit(store)
    await take(store, report(await start(store, host), host, Cause.SUCCEEDED))

    with pytest.raises(Conflict) as ended:
        await store.add_input(task.id, "in_1", "text", T0)
    with pytest.raises(NotFound) as missing:
        await store.add_input("task_nobody", "in_1", "text", T0)

    assert (ended.value.code, missing.value.code) == ("TASK_ENDED", "NO_SUCH_TASK")
    assert await store.mark_input(task.id, "in_1", InputState.SENT) is None
    assert await store.mark_input("task_nobody", "in_1", InputState.SENT) is None
    assert await store.open_inputs("task_nobody") == []


async def test_inputs_of_two_tasks_may_have_one_name(store: Store) -> None:
    one, two = await submit(store), await submit(store)
    await store.add_input(one.id, "in_1", "to one", T0)

    assert (await store.add_input(two.id, "in_1", "to two", T0)).content == "to two"
