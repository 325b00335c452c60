"""Who may do what: every route and every message has a rule, and the rule holds."""

import json
from typing import Any, get_args

import httpx
import pytest
import websockets
from litestar import Litestar
from litestar.handlers import BaseRouteHandler
from websockets.exceptions import InvalidStatus

from manager.routes.access import MAY, Action
from manager.routes.site import litestar_app
from manager.routes.sockets import RULES
from shared_types.api import FromClient, TokenKind
from tests.manager.routes.world import World

PUBLIC = {"/healthz", "/readyz", "/api/health", "/api/auth/join", "/schema", "/schema/openapi.json"}


def handlers(app: Litestar) -> list[tuple[str, BaseRouteHandler]]:
    return [(route.path, handler) for route in app.routes for handler in _handlers(route)]


def _handlers(route: Any) -> list[BaseRouteHandler]:
    found = list(getattr(route, "route_handlers", ())) or [route.route_handler]
    return [handler for handler in found if getattr(handler, "http_methods", None) != {"OPTIONS"}]


def example(path: str) -> str:
    return (
        path.replace("{task_id:str}", "t")
        .replace("{host_id:str}", "h")
        .replace("{session_id:str}", "s")
        .replace("{token_id:str}", "tok")
    )


async def test_every_route_has_a_rule(w: World):
    rules = {(path, handler.opt.get("action")) for path, handler in handlers(litestar_app(w.services))}

    assert all(isinstance(action, Action) for _, action in rules)
    assert {path for path, action in rules if action is Action.PUBLIC} == PUBLIC


def test_every_message_has_a_rule():
    assert set(RULES) == {cls.__struct_config__.tag for cls in get_args(FromClient)}


def test_a_host_token_is_good_for_the_link_alone():
    assert MAY[TokenKind.HOST] == {Action.PUBLIC, Action.LINK}
    assert Action.LINK not in MAY[TokenKind.PERSONAL]


async def test_every_route_but_the_public_ones_refuses_who_brings_no_token_or_a_wrong_one(w: World):
    tried = 0
    async with w.client(None) as client:
        for path, handler in handlers(litestar_app(w.services)):
            for method in getattr(handler, "http_methods", ()):
                if path in PUBLIC:
                    continue
                for headers in (
                    {},
                    w.auth("fgp_wrong"),
                    {"Authorization": f"Basic {w.token}"},
                    {"Authorization": "Bearer"},
                ):
                    answer = await client.request(method, example(path), headers=headers)
                    assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED"), (method, path)
                    assert answer.headers["www-authenticate"].startswith("Bearer")
                refused = await client.request(method, example(path), headers=w.auth(w.host_token))
                assert (refused.status_code, refused.json()["code"]) == (403, "HOST_TOKEN"), (method, path)
                tried += 1

    assert tried > 15


@pytest.mark.parametrize("path", sorted(PUBLIC - {"/api/auth/join"}))
async def test_public_routes_need_no_token(w: World, path: str):
    async with w.client(None) as client:
        assert (await client.get(path)).status_code == 200


async def refusal(url: str, **headers: str) -> tuple[int, dict[str, Any]]:
    with pytest.raises(InvalidStatus) as caught:
        async with websockets.connect(url, additional_headers=headers):
            pass
    response = caught.value.response
    return response.status_code, json.loads(bytes(response.body))


@pytest.mark.parametrize("path", ["/ws", "/agent/ws"])
async def test_a_handshake_without_a_token_is_answered_401_with_a_reason(w: World, path: str):
    status, problem = await refusal(w.ws + path)

    assert (status, problem["code"], problem["instance"]) == (401, "UNAUTHORIZED", path)


async def test_a_host_token_does_not_open_the_socket_of_people(w: World):
    status, problem = await refusal(w.ws + "/ws", **w.auth(w.host_token))

    assert (status, problem["code"]) == (403, "HOST_TOKEN")


async def test_a_personal_token_does_not_open_the_link(w: World):
    status, problem = await refusal(w.ws + "/agent/ws?hostId=h1", **w.auth())

    assert (status, problem["code"]) == (403, "NOT_A_HOST_TOKEN")


async def test_a_host_token_speaks_for_no_other_host(w: World):
    status, problem = await refusal(w.ws + "/agent/ws?hostId=h2", **w.auth(w.host_token))

    assert (status, problem["code"]) == (403, "HOST_ID_MISMATCH")


async def test_a_socket_where_there_is_none_is_not_found(w: World):
    status, problem = await refusal(w.ws + "/nowhere", **w.auth())

    assert (status, problem["code"]) == (404, "NO_SUCH_PATH")


async def test_a_host_speaks_over_its_link(w: World):
    headers = w.auth(w.host_token)
    async with websockets.connect(w.ws + "/agent/ws?hostId=h1", additional_headers=headers) as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"
        await socket.send("bye")
        await socket.wait_closed()

    assert socket.close_code == 4000


@pytest.mark.parametrize("name", ["token", "access_token", "jwt", "code", "Token"])
async def test_a_token_in_a_url_is_refused_even_if_it_is_right(w: World, c: httpx.AsyncClient, name: str):
    answer = await c.get(f"/api/tasks?{name}={w.token}")

    assert (answer.status_code, answer.json()["code"]) == (400, "TOKEN_IN_URL")
    assert w.token not in answer.text


async def test_a_token_in_the_url_of_a_handshake_is_refused(w: World):
    status, problem = await refusal(f"{w.ws}/ws?token={w.token}", **w.auth())

    assert (status, problem["code"]) == (400, "TOKEN_IN_URL")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_a_page_of_another_origin_writes_nothing(w: World, c: httpx.AsyncClient, headers: dict[str, str]):
    answer = await c.post("/api/tasks", json={"prompt": "p", "agentType": "claude"}, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (403, "FOREIGN_ORIGIN")


async def test_a_page_of_another_origin_opens_no_socket(w: World):
    status, problem = await refusal(w.ws + "/ws", Origin="https://evil.example", **w.auth())

    assert (status, problem["code"]) == (403, "FOREIGN_ORIGIN")


async def test_a_page_of_our_own_origin_may_write(w: World, c: httpx.AsyncClient):
    headers = {"Origin": w.origin, "Sec-Fetch-Site": "same-origin"}
    answer = await c.post("/api/tasks", json={"prompt": "p", "agentType": "claude"}, headers=headers)

    assert answer.status_code == 201
