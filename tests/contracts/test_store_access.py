"""Store, access: tokens, join codes, unread marks."""

import anyio
import pytest

from manager.errors import Conflict, Forbidden, NotFound
from manager.ports import Store
from tests.contracts.making import T0, Place, a_token, connect

MINUTE = 60_000


async def test_a_token_is_found_by_its_hash_and_listed_without_it(place: Place) -> None:
    store = await place.open()
    personal, host = a_token("tok_1", now=T0), a_token("tok_2", host_id="h1", now=T0 + 1)
    await store.add_token(host)
    await store.add_token(personal)

    async for again in place.now_and_restarted():
        assert await again.token(personal.hash) == personal
        assert await again.token(host.hash) == host
        assert await again.token("another hash") is None
        assert await again.tokens() == [personal.info, host.info]


async def test_a_revoked_token_stays_revoked_since_the_first_time(place: Place) -> None:
    store = await place.open()
    token = a_token()
    await store.add_token(token)

    info = await store.revoke_token("tok_1", T0 + 1)
    again = await store.revoke_token("tok_1", T0 + 2)

    assert info.revoked_at == again.revoked_at == T0 + 1
    async for looked in place.now_and_restarted():
        found = await looked.token(token.hash)
        assert found is not None
        assert found.info == info


async def test_no_token_of_that_name(store: Store) -> None:
    with pytest.raises(NotFound) as caught:
        await store.revoke_token("tok_nobody", T0)
    await store.touch_token("tok_nobody", T0)

    assert caught.value.code == "NO_SUCH_TOKEN"
    assert await store.tokens() == []


async def test_the_use_of_a_token_is_known_to_the_minute(place: Place) -> None:
    store = await place.open()
    await store.add_token(a_token())
    seen = []
    for now in (T0, T0 + MINUTE - 1, T0 + MINUTE):
        await store.touch_token("tok_1", now)
        seen.append((await store.tokens())[0].last_used_at)

    assert seen == [T0, T0, T0 + MINUTE]
    found = await (await place.open()).token(a_token().hash)
    assert found is not None
    assert found.info.last_used_at == T0 + MINUTE


# --- join codes ---------------------------------------------------------------------------------------


async def test_a_join_code_gives_a_host_its_token_and_labels(place: Place) -> None:
    store = await place.open()
    await store.add_join_code("code", expires_at=T0 + 10, labels={"team": "red"})
    store = await place.open()
    token = a_token("tok_h1", host_id="h1")

    labels = await store.redeem_join_code("code", host_id="h1", token=token, now=T0 + 9)

    assert labels == {"team": "red"}
    store = await place.open()
    assert await store.token(token.hash) == token
    assert await store.hosts() == []  # it never connected
    assert (await connect(store)).labels == {"team": "red"}


async def test_a_join_code_is_for_one_use(store: Store) -> None:
    await store.add_join_code("code", expires_at=T0 + 10, labels={})
    outcomes: list[str] = []

    async def redeem(name: str) -> None:
        try:
            await store.redeem_join_code("code", host_id=name, token=a_token(f"tok_{name}", host_id=name), now=T0)
            outcomes.append("joined")
        except Forbidden as error:
            outcomes.append(error.code)

    async with anyio.create_task_group() as group:
        for name in ("h1", "h2", "h3"):
            group.start_soon(redeem, name)

    assert sorted(outcomes) == ["BAD_JOIN_CODE", "BAD_JOIN_CODE", "joined"]
    assert len(await store.tokens()) == 1


async def test_an_expired_or_unknown_join_code_is_worth_nothing(store: Store) -> None:
    await store.add_join_code("code", expires_at=T0, labels={})

    for code in ("code", "another"):
        with pytest.raises(Forbidden) as caught:
            await store.redeem_join_code(code, host_id="h1", token=a_token("tok_h1", host_id="h1"), now=T0)
        assert caught.value.code == "BAD_JOIN_CODE"
    assert await store.tokens() == []


async def test_a_name_that_is_taken_is_refused_and_the_code_stays_usable(store: Store) -> None:
    await store.add_token(a_token("tok_old", host_id="h1"))
    await store.add_join_code("code", expires_at=T0 + 10, labels={"new": "label"})
    token = a_token("tok_new", host_id="h1")

    with pytest.raises(Conflict) as caught:
        await store.redeem_join_code("code", host_id="h1", token=token, now=T0)

    assert caught.value.code == "HOST_EXISTS"
    assert await store.token(token.hash) is None
    await store.revoke_token("tok_old", T0)
    assert await store.redeem_join_code("code", host_id="h1", token=token, now=T0) == {"new": "label"}


async def test_a_host_that_joins_again_has_the_new_labels(store: Store) -> None:
    await connect(store)
    await store.add_join_code("code", expires_at=T0 + 10, labels={"new": "label"})

    await store.redeem_join_code("code", host_id="h1", token=a_token("tok_h1", host_id="h1"), now=T0)

    assert (await store.host("h1")).labels == {"new": "label"}


# --- unread marks -------------------------------------------------------------------------------------


async def test_marks_go_forward_only_and_belong_to_one_device(place: Place) -> None:
    store = await place.open()
    assert await store.marked("alice", "phone", "sess_a") == 0
    await store.mark("alice", "phone", "sess_a", 7)
    await store.mark("alice", "phone", "sess_a", 5)

    async for again in place.now_and_restarted():
        assert await again.marked("alice", "phone", "sess_a") == 7
        assert await again.marked("alice", "laptop", "sess_a") == 0
        assert await again.marked("bob", "phone", "sess_a") == 0
        assert await again.marked("alice", "phone", "sess_b") == 0
