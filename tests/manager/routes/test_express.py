"""The short way of `POST /api/tasks` answers as the long way does, whatever is asked of it."""

import re
from typing import Any, Final

import httpx
import pytest

from manager.errors import StoreUnavailable
from manager.routes.express import Express
from manager.routes.problems import MAX_BODY_BYTES
from tests.manager.routes.world import World

GOOD: Final = b'{"prompt":"p","agentType":"claude","env":{"A":"hush"},"metadata":{"a":"b"}}'
JSON: Final = {"Content-Type": "application/json"}
VARIES: Final = re.compile(rb'"(id|sessionId|traceId|requestId)":"[^"]*"|"(createdAt|updatedAt|deadlineAt)":[0-9]+')
OWN: Final = frozenset({"date", "x-request-id", "location", "content-length"})  # of each answer

ASKED: Final[dict[str, tuple[dict[str, str], bytes]]] = {
    "good": (JSON, GOOD),
    "no content type": ({"Content-Type": ""}, GOOD),
    "a charset": ({"Content-Type": "application/json; charset=utf-8"}, GOOD),
    "another type": ({"Content-Type": "text/plain"}, GOOD),
    "no body": (JSON, b""),
    "no JSON": (JSON, b'{"prompt":'),
    "not UTF-8": (JSON, b'{"prompt":"\xff","agentType":"claude"}'),
    "an unknown field": (JSON, b'{"prompt":"p","agentType":"claude","more":1}'),
    "a missing field": (JSON, b'{"prompt":"p"}'),
    "too large": (JSON, b'"' + b"x" * MAX_BODY_BYTES + b'"'),
    "no token": (JSON | {"Authorization": ""}, GOOD),
    "another scheme": (JSON | {"Authorization": "Basic YTpi"}, GOOD),
    "an unknown token": (JSON | {"Authorization": "Bearer fgp_nobody"}, GOOD),
    "a foreign page": (JSON | {"Origin": "https://evil.example"}, GOOD),
    "a foreign page that says no origin": (JSON | {"Sec-Fetch-Site": "cross-site"}, GOOD),
    "a trace": (JSON | {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, GOOD),
    "a request id": (JSON | {"X-Request-Id": "mine-12345678"}, GOOD),
}


def shown(answer: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    headers = {name: value for name, value in answer.headers.items() if name not in OWN}
    return answer.status_code, headers, VARIES.sub(b"", answer.content)


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())
async def test_both_ways_answer_alike(
    c: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, asked: tuple[dict[str, str], bytes]
) -> None:
    headers, body = asked
    short = await c.post("/api/tasks", content=body, headers=headers)
    monkeypatch.setattr(Express, "takes", staticmethod(lambda scope, headers: False))

    long = await c.post("/api/tasks", content=body, headers=headers)

    assert shown(short) == shown(long)
    assert ("location" in short.headers) is ("location" in long.headers)
    assert len(short.headers["x-request-id"]) == len(long.headers["x-request-id"])


async def test_a_host_token_is_refused_alike(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with w.client() as c:
        short = await c.post("/api/tasks", content=GOOD, headers=JSON | w.auth(w.host_token))
        monkeypatch.setattr(Express, "takes", staticmethod(lambda scope, headers: False))
        long = await c.post("/api/tasks", content=GOOD, headers=JSON | w.auth(w.host_token))

    assert shown(short) == shown(long)
    assert short.json()["code"] == "HOST_TOKEN"


async def test_a_store_that_is_away_and_a_fault_of_ours_are_told_alike(
    w: World, c: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fault in (StoreUnavailable("disk full", code="DISK_FULL"), ZeroDivisionError()):

        async def fail(*_: Any, fault: Exception = fault, **__: Any) -> Any:
            raise fault

        with monkeypatch.context() as broken:
            broken.setattr(w.desk, "submit", fail)
            short = await c.post("/api/tasks", content=GOOD, headers=JSON)
            broken.setattr(Express, "takes", staticmethod(lambda scope, headers: False))
            long = await c.post("/api/tasks", content=GOOD, headers=JSON)

        assert shown(short) == shown(long)
        assert short.status_code in (500, 503)


async def test_what_is_out_of_the_ordinary_goes_the_long_way(
    w: World, c: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[object] = []
    answer = Express.answer

    async def watched(self: Express, *args: Any) -> Any:
        answered.append(args)
        return await answer(self, *args)

    monkeypatch.setattr(Express, "answer", watched)

    async def chunks() -> Any:
        yield GOOD

    assert (await c.post("/api/tasks?x=1", content=GOOD, headers=JSON)).json()["code"] == "UNKNOWN_PARAMETER"
    assert (await c.post("/api/tasks", content=GOOD, headers=JSON | {"Idempotency-Key": "k"})).status_code == 201
    assert (await c.post("/api/tasks", content=chunks(), headers=JSON)).status_code == 201
    assert (await c.get("/api/tasks")).status_code == 200
    assert answered == []
    assert (await c.post("/api/tasks", content=GOOD, headers=JSON)).status_code == 201
    assert len(answered) == 1


async def test_both_ways_are_counted_alike(w: World, c: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    await c.post("/api/tasks", content=GOOD, headers=JSON)
    monkeypatch.setattr(Express, "takes", staticmethod(lambda scope, headers: False))
    await c.post("/api/tasks", content=GOOD, headers=JSON)

    metrics = (await c.get("/api/metrics")).text

    assert 'fleetgate_http_requests_total{method="POST",route="/api/tasks",status="201"} 2.0' in metrics
    assert 'fleetgate_http_seconds_count{method="POST",route="/api/tasks"} 2.0' in metrics
