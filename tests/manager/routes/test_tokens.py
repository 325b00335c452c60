import httpx
import pytest
import websockets

from tests.manager.routes.world import World


async def test_a_token_is_shown_once_and_works(w: World, c: httpx.AsyncClient):
    made = (await c.post("/api/auth/tokens", json={"name": "ci"})).json()
    listed = await c.get("/api/auth/tokens")

    assert made["token"].startswith("fgp_")
    assert made["info"]["id"] in {info["id"] for info in listed.json()}
    assert made["token"] not in listed.text
    async with w.client(made["token"]) as client:
        assert (await client.get("/api/tasks")).status_code == 200


async def test_a_revoked_token_is_refused_at_once(w: World, c: httpx.AsyncClient):
    made = (await c.post("/api/auth/tokens", json={"name": "ci"})).json()
    async with w.client(made["token"]) as client:
        before = await client.get("/api/tasks")
        revoked = await c.delete(f"/api/auth/tokens/{made['info']['id']}")
        after = await client.get("/api/tasks")

    assert (before.status_code, revoked.status_code) == (200, 200)
    assert (after.status_code, after.json()["code"]) == (401, "REVOKED")
    assert revoked.json()["revokedAt"] is not None


async def test_what_was_opened_with_a_revoked_token_ends(w: World, c: httpx.AsyncClient):
    made = (await c.post("/api/auth/tokens", json={"name": "ci"})).json()
    task = await w.new_task()
    async with (
        w.client(made["token"]) as client,
        client.stream("GET", f"/api/tasks/{task.id}/events", headers={"Accept": "text/event-stream"}) as stream,
        websockets.connect(w.ws + "/ws", additional_headers=w.auth(made["token"])) as socket,
    ):
        lines = stream.aiter_lines()
        while "event: resume" not in await anext(lines):
            pass
        await c.delete(f"/api/auth/tokens/{made['info']['id']}")
        rest = [line async for line in lines]
        await socket.wait_closed()

    assert "event: revoked" in rest
    assert socket.close_code == 4401


async def test_a_token_that_is_not_there_is_not_revoked(c: httpx.AsyncClient):
    answer = await c.delete("/api/auth/tokens/tok_nothing")

    assert (answer.status_code, answer.json()["code"]) == (404, "NO_SUCH_TOKEN")


@pytest.mark.parametrize("body", [{"name": "x", "kind": "host"}, {"name": "x", "hostId": "h9"}])
async def test_a_host_token_names_its_host_and_a_personal_one_does_not(c: httpx.AsyncClient, body: dict[str, str]):
    answer = await c.post("/api/auth/tokens", json=body)

    assert (answer.status_code, answer.json()["errors"][0]["key"]) == (400, "$.hostId")


async def test_a_code_makes_one_host(w: World, c: httpx.AsyncClient):
    code = (await c.post("/api/auth/join-codes", json={"labels": {"team": "blue"}})).json()["code"]
    async with w.client(None) as client:
        joined = await client.post("/api/auth/join", json={"code": code, "name": "laptop", "hostId": "h7"})
        again = await client.post("/api/auth/join", json={"code": code, "name": "thief"})

    assert joined.status_code == 201
    assert (joined.json()["hostId"], joined.json()["labels"]) == ("h7", {"team": "blue"})
    assert joined.json()["url"] == w.ws
    assert (again.status_code, again.json()["code"]) == (403, "BAD_JOIN_CODE")
    headers = w.auth(joined.json()["token"])
    async with websockets.connect(w.ws + "/agent/ws?hostId=h7", additional_headers=headers) as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"


async def test_a_host_that_names_no_id_gets_one(w: World, c: httpx.AsyncClient):
    code = (await c.post("/api/auth/join-codes")).json()["code"]
    async with w.client(None) as client:
        joined = (await client.post("/api/auth/join", json={"code": code, "name": "laptop"})).json()

    assert joined["hostId"].startswith("host_")


async def test_a_code_that_nobody_made_is_refused(w: World):
    async with w.client(None) as client:
        answer = await client.post("/api/auth/join", json={"code": "fgj_guess", "name": "x"})

    assert (answer.status_code, answer.json()["code"]) == (403, "BAD_JOIN_CODE")
