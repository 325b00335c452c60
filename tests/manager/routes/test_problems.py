"""Whatever is wrong with a request is answered by a problem document that names it, and nothing changes."""

import json
from typing import Any

import httpx
import pytest

from manager.errors import StoreUnavailable
from tests.manager.routes.world import World

GOOD: dict[str, Any] = {"prompt": "p", "agentType": "claude"}
JSON = {"Content-Type": "application/json"}


def is_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code), problem
    assert problem["requestId"] == answer.headers["x-request-id"]
    assert problem["detail"]
    return problem


@pytest.mark.parametrize(
    ("body", "code", "key"),
    [
        ({"agentType": "claude"}, "MISSING_FIELD", "$.prompt"),
        ({"prompt": "p"}, "MISSING_FIELD", "$.agentType"),
        (GOOD | {"prompt": ""}, "INVALID_FIELD", "$.prompt"),
        (GOOD | {"prompt": 5}, "INVALID_FIELD", "$.prompt"),
        (GOOD | {"prompt": None}, "INVALID_FIELD", "$.prompt"),
        (GOOD | {"agentType": "-rf /"}, "INVALID_FIELD", "$.agentType"),
        (GOOD | {"timeout": -1}, "INVALID_FIELD", "$.timeout"),
        (GOOD | {"timeout": 0}, "INVALID_FIELD", "$.timeout"),
        (GOOD | {"timeout": 1.5}, "INVALID_FIELD", "$.timeout"),
        (GOOD | {"timeout": "5"}, "INVALID_FIELD", "$.timeout"),
        (GOOD | {"timeout": 10**40}, "INVALID_FIELD", "$.timeout"),
        (GOOD | {"priority": 10}, "INVALID_FIELD", "$.priority"),
        (GOOD | {"env": ["a"]}, "INVALID_FIELD", "$.env"),
        (GOOD | {"env": {"A": 1}}, "INVALID_FIELD", "$.env[...]"),
        (GOOD | {"labels": {"require": 1}}, "INVALID_FIELD", "$.labels.require"),
        (GOOD | {"labels": {"requires": {}}}, "UNKNOWN_FIELD", "$.labels.requires"),
        (GOOD | {"model": "a b"}, "INVALID_FIELD", "$.model"),
        (GOOD | {"permissionMode": "yolo"}, "INVALID_FIELD", "$.permissionMode"),
        (GOOD | {"promt": "p"}, "UNKNOWN_FIELD", "$.promt"),
        (GOOD | {"agent_type": "claude"}, "UNKNOWN_FIELD", "$.agent_type"),
        ([GOOD], "INVALID_FIELD", "$"),
        ("text", "INVALID_FIELD", "$"),
        (None, "INVALID_FIELD", "$"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
async def test_a_wrong_field_is_named(w: World, c: httpx.AsyncClient, body: Any, code: str, key: str):
    problem = is_problem(await c.post("/api/tasks", content=json.dumps(body), headers=JSON), 400, code)

    assert [field["key"] for field in problem["errors"]] == [key]
    assert sum((await w.store.counts()).values()) == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{]",
        b"nonsense",
        b'{"prompt":"\xff","agentType":"claude"}',
        b"\x00",
        b"[" * 100_000,
        b'{"metadata":' + b'{"a":' * 9000,
    ],
    ids=lambda content: repr(content[:20]),
)
async def test_what_is_no_json_is_refused(c: httpx.AsyncClient, content: bytes):
    answer = await c.post("/api/tasks", content=content, headers=JSON)

    assert answer.status_code == 400
    assert answer.json()["code"] in {"MALFORMED_JSON", "INVALID_FIELD"}


async def test_metadata_of_any_shape_come_back_as_they_were(c: httpx.AsyncClient):
    metadata = {"a": [1, 2.5, None, True], "b": {"c": "\u2028\u0000"}, "d": -(2**53), "e": "🦊"}
    answer = await c.post("/api/tasks", json=GOOD | {"metadata": metadata})

    assert (answer.status_code, answer.json()["metadata"]) == (201, metadata)


@pytest.mark.parametrize("number", ["1e999", "123456789012345678901234567890", "-0.0", "1e-400"])
async def test_numbers_beyond_measure_are_no_fault_of_ours(c: httpx.AsyncClient, number: str):
    body = '{"prompt":"p","agentType":"claude","metadata":{"n":' + number + "}}"
    answer = await c.post("/api/tasks", content=body, headers=JSON)

    assert answer.status_code in (201, 400), answer.text


async def test_a_body_of_another_type_is_refused(c: httpx.AsyncClient):
    answer = await c.post("/api/tasks", content=json.dumps(GOOD), headers={"Content-Type": "text/plain"})

    is_problem(answer, 415, "UNSUPPORTED_MEDIA_TYPE")


async def test_a_body_of_two_megabytes_is_too_large(c: httpx.AsyncClient):
    is_problem(await c.post("/api/tasks", json=GOOD | {"prompt": "x" * 2_000_000}), 413, "BODY_TOO_LARGE")


async def test_a_body_that_says_no_length_is_too_large_too(c: httpx.AsyncClient):
    async def endless():
        for _ in range(40):
            yield b"x" * 65536

    is_problem(await c.post("/api/tasks", content=endless(), headers=JSON), 413, "BODY_TOO_LARGE")


@pytest.mark.parametrize(
    ("query", "key"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("status=done", "status"),
        ("label=blue", "label"),
        ("text=" + "x" * 600, "text"),
    ],
)
async def test_a_wrong_parameter_is_named(c: httpx.AsyncClient, query: str, key: str):
    problem = is_problem(await c.get(f"/api/tasks?{query}"), 400, "INVALID_PARAMETER")

    assert [field["key"] for field in problem["errors"]] == [key]


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        (GOOD | {"permissionMode": "yolo"}, "One of default, acceptEdits, plan, bypass, deny."),
        (GOOD | {"timeout": -1}, "Milliseconds, an integer of at least 1."),
        (GOOD | {"promt": "p"}, "GET /schema/openapi.json describes what every path takes."),
    ],
)
async def test_a_wrong_field_comes_with_what_it_takes(c: httpx.AsyncClient, body: Any, hint: str):
    assert (await c.post("/api/tasks", json=body)).json()["hint"] == hint


async def test_a_wrong_state_comes_with_those_there_are(c: httpx.AsyncClient):
    hint = (await c.get("/api/tasks?status=done")).json()["hint"]

    assert hint.startswith("One of queued, assigned, running, ")


async def test_a_cursor_that_we_did_not_give_is_refused(c: httpx.AsyncClient):
    is_problem(await c.get("/api/tasks?cursor=garbage"), 400, "BAD_CURSOR")


async def test_a_misspelt_parameter_is_refused(c: httpx.AsyncClient):
    problem = is_problem(await c.get("/api/tasks?staus=running"), 400, "UNKNOWN_PARAMETER")

    assert problem["errors"][0]["key"] == "staus"
    assert "status" in problem["hint"]


@pytest.mark.parametrize("query", ["limit=1&limit=2", "after=null"])
async def test_a_parameter_is_one_number_or_left_out(w: World, c: httpx.AsyncClient, query: str):
    is_problem(await c.get(f"/api/events?{query}"), 400, "INVALID_PARAMETER")


async def test_options_are_answered_for_every_path_with_any_query(c: httpx.AsyncClient):
    answer = await c.options("/api/events?whatever=1")

    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, OPTIONS")


async def test_an_unknown_path_is_not_found(c: httpx.AsyncClient):
    is_problem(await c.get("/api/nothing"), 404, "NO_SUCH_PATH")


@pytest.mark.parametrize(("method", "path"), [("PUT", "/api/tasks"), ("DELETE", "/api/hosts"), ("POST", "/healthz")])
async def test_another_method_is_refused_with_those_allowed(c: httpx.AsyncClient, method: str, path: str):
    answer = await c.request(method, path)

    is_problem(answer, 405, "METHOD_NOT_ALLOWED")
    assert "GET" in answer.headers["allow"]


async def test_a_fault_of_ours_says_nothing_about_the_inside(
    w: World, c: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    async def broken(task_id: str) -> Any:
        raise RuntimeError("the secret inside")

    monkeypatch.setattr(w.desk, "why", broken)
    task = await w.new_task()
    answer = await c.get(f"/api/tasks/{task.id}/why")

    is_problem(answer, 500, "INTERNAL")
    assert "secret" not in answer.text


async def test_a_store_that_is_away_says_try_again(w: World, c: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch):
    async def away(task_id: str) -> Any:
        raise StoreUnavailable("disk full", code="DISK_FULL")

    monkeypatch.setattr(w.desk, "why", away)
    task = await w.new_task()
    answer = await c.get(f"/api/tasks/{task.id}/why")

    is_problem(answer, 503, "STORE_UNAVAILABLE")
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("content", ["", "null", '{"content":""}', '{"content":1}', '{"contents":"x"}'])
async def test_a_wrong_input_is_refused(w: World, c: httpx.AsyncClient, content: str):
    task = await w.new_task()
    answer = await c.post(f"/api/tasks/{task.id}/input", content=content, headers=JSON)

    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


async def test_a_given_request_id_is_kept_and_a_hostile_one_is_not(c: httpx.AsyncClient):
    kept = await c.get("/healthz", headers={"X-Request-Id": "my-request-1"})
    hostile = await c.get("/healthz", headers={"X-Request-Id": "a b\tc" * 100})

    assert kept.headers["x-request-id"] == "my-request-1"
    assert len(hostile.headers["x-request-id"]) == 16
