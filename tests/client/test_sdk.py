"""Both clients against a real socket that cuts, and calls against a scripted transport."""

import json
from contextlib import aclosing
from pathlib import Path
from random import Random

import anyio
import httpx
import pytest
import respx

from client.errors import (
    BadAnswer,
    Conflict,
    Denied,
    Gap,
    Invalid,
    ManagerFault,
    NotFound,
    TooMuch,
    Unreachable,
    WaitTimeout,
)
from client.sdk import AsyncFleetgate, Fleetgate
from shared_types.api import EventRecord, FleetSnapshot, TaskCreate
from shared_types.tasks import Task, TaskState
from tests.client.fake_manager import FakeManager, InThread, a_task, an_event

EVENTS = [an_event(id) for id in range(1, 5)]
RETRY = len(b"retry: 1\n")  # behind these bytes a cut costs a millisecond
URL = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("FLEETGATE_URL", "FLEETGATE_TOKEN", "FLEETGATE_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLEETGATE_HOME", str(tmp_path))


async def heard(client: AsyncFleetgate, after: int = 0) -> list[EventRecord]:
    async with aclosing(client.events("t", after)) as events:
        return [event async for event in events]


# --- streams ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("politely", [True, False], ids=["closed", "broken off"])
async def test_a_cut_at_any_byte_is_mended(politely: bool):
    manager = FakeManager(events=EVENTS, politely=politely)
    async with manager.serving(), AsyncFleetgate(manager.url, "t") as client:
        for cut in range(RETRY, len(manager.body(0))):
            manager.budgets = [cut]

            events = await heard(client)

            assert [event.id for event in events] == [1, 2, 3, 4], f"cut at byte {cut}"
            assert events[0].content == EVENTS[0]["content"]


async def test_any_number_of_cuts_is_mended():
    random = Random(7)
    manager = FakeManager(events=[an_event(id) for id in range(1, 60)])
    async with manager.serving(), AsyncFleetgate(manager.url, "t") as client:
        head = manager.body(0).index(b"id: 1\n")
        manager.budgets = [random.randint(RETRY, head + 600) for _ in range(80)]

        events = await heard(client)

    assert [event.id for event in events] == list(range(1, 60))
    assert len(manager.seen) > 20


def test_the_sync_client_mends_cuts_too():
    manager = FakeManager(events=EVENTS)
    with InThread(manager), Fleetgate(manager.url, "t") as client:
        for cut in range(RETRY, len(manager.body(0)), 7):
            manager.budgets = [cut]

            assert [event.id for event in client.events("t")] == [1, 2, 3, 4], f"cut at byte {cut}"


async def test_a_manager_that_restarts_is_waited_for_and_each_wait_is_told():
    manager = FakeManager(events=EVENTS, budgets=[RETRY + 700], statuses=[200, 503, 502])
    told: list[float] = []
    async with (
        manager.serving(),
        AsyncFleetgate(manager.url, "t") as client,
        aclosing(client.events("t", on_cut=lambda why, delay_s: told.append(delay_s))) as events,
    ):
        ids = [event.id async for event in events]

    assert ids == [1, 2, 3, 4]
    assert len(told) == 3
    assert manager.places[0] == "0"
    assert manager.places[-1] not in (None, "0")


async def test_a_manager_that_was_never_there_is_said_at_once():
    async with AsyncFleetgate(URL, "t") as client:
        with pytest.raises(Unreachable, match="no manager answers at"):
            await heard(client)


async def test_a_token_revoked_in_between_ends_the_stream_with_its_reason():
    manager = FakeManager(events=EVENTS, budgets=[900], statuses=[200, 401])
    async with manager.serving(), AsyncFleetgate(manager.url, "t") as client:
        with pytest.raises(Denied):
            await heard(client)


async def test_nothing_more_to_come_is_the_end():
    manager = FakeManager(statuses=[204])
    async with manager.serving(), AsyncFleetgate(manager.url, "t") as client:
        assert await heard(client, 4) == []


async def test_a_gap_is_raised_and_can_be_stepped_over():
    manager = FakeManager(events=[an_event(8), an_event(9)], first_id=8)
    async with manager.serving(), AsyncFleetgate(manager.url, "t") as client:
        with pytest.raises(Gap) as gap:
            await heard(client, 3)

        assert [event.id for event in await heard(client, gap.value.resume_after)] == [8, 9]


async def test_a_page_of_a_proxy_is_not_taken_for_a_stream():
    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="<html>log in first</html>", headers={"content-type": "text/html"})

    async with AsyncFleetgate(URL, "t", transport=httpx.MockTransport(answer)) as client:
        with pytest.raises(BadAnswer, match="text/html"):
            await heard(client)


# --- wait -------------------------------------------------------------------------------------------


@respx.mock(base_url=URL)
async def test_wait_gives_the_task_as_it_ended(respx_mock: respx.MockRouter):
    manager = FakeManager(events=EVENTS)
    respx_mock.get("/api/tasks/t").respond(json=a_task())
    respx_mock.get(f"/api/tasks/{a_task()['id']}/events").respond(
        content=manager.body(0), content_type="text/event-stream"
    )
    async with AsyncFleetgate(URL, "t") as client:
        task = await client.wait("t", timeout=20)

    assert task.status is TaskState.COMPLETED


async def test_wait_gives_up_in_time_with_the_task_as_it_stands():
    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            await anyio.sleep_forever()
        return httpx.Response(200, json=a_task())

    async with AsyncFleetgate(URL, "t", transport=httpx.MockTransport(answer)) as client:
        with pytest.raises(WaitTimeout) as late:
            await client.wait("t", timeout=0.05)

    assert late.value.task.status is TaskState.RUNNING


def test_the_sync_wait_gives_up_in_time_too():
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=a_task()))
    with Fleetgate(URL, "t", transport=transport) as client, pytest.raises(WaitTimeout):
        client.wait("t", timeout=0.1)


def test_the_sync_wait_gives_the_task_as_it_ended():
    answers = [a_task(), a_task(status="failed", rv=2, reason="no_result")]
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=answers.pop(0)))
    with Fleetgate(URL, "t", transport=transport) as client:
        assert client.wait("t").reason == "no_result"


# --- calls ------------------------------------------------------------------------------------------


@respx.mock(base_url=URL)
async def test_a_submit_that_is_cut_is_sent_again_under_the_same_key(respx_mock: respx.MockRouter):
    route = respx_mock.post("/api/tasks")
    route.side_effect = [httpx.ReadError("cut"), httpx.Response(201, json=a_task())]
    async with AsyncFleetgate(URL, "fgp_x") as client:
        task = await client.submit(TaskCreate(prompt="hi", agent_type="claude-code"))

    keys = {call.request.headers["Idempotency-Key"] for call in route.calls}
    assert task.id == a_task()["id"]
    assert (len(route.calls), len(keys)) == (2, 1)
    assert route.calls[0].request.headers["Authorization"] == "Bearer fgp_x"


@respx.mock(base_url=URL)
async def test_what_may_not_be_repeated_is_not(respx_mock: respx.MockRouter):
    route = respx_mock.post("/api/tasks/t/retry")
    route.side_effect = httpx.ReadError("cut")
    async with AsyncFleetgate(URL, "t") as client:
        with pytest.raises(Unreachable):
            await client.retry("t")

    assert len(route.calls) == 1


@respx.mock(base_url=URL)
async def test_a_body_has_only_what_was_set(respx_mock: respx.MockRouter):
    route = respx_mock.post("/api/tasks").respond(201, json=a_task())
    async with AsyncFleetgate(URL, "t") as client:
        await client.submit(TaskCreate(prompt="hi", agent_type="claude-code", timeout=5))

    sent = json.loads(route.calls[0].request.content)
    assert sent["prompt"] == "hi"
    assert sent["timeout"] == 5
    assert None not in sent.values()


@respx.mock(base_url=URL)
async def test_tasks_are_listed_over_all_pages(respx_mock: respx.MockRouter):
    route = respx_mock.get("/api/tasks")
    route.side_effect = [
        httpx.Response(200, json={"items": [a_task(id="task_2")], "nextCursor": "c"}),
        httpx.Response(200, json={"items": [a_task(id="task_1")], "nextCursor": None}),
    ]
    async with AsyncFleetgate(URL, "t") as client:
        ids = [task.id async for task in client.tasks(statuses=[TaskState.QUEUED], host="h1")]

    assert ids == ["task_2", "task_1"]
    assert dict(route.calls[1].request.url.params) == {
        "status": "queued",
        "host": "h1",
        "cursor": "c",
        "limit": "200",
    }


@respx.mock(base_url=URL)
async def test_an_id_from_a_person_stays_one_part_of_the_path(respx_mock: respx.MockRouter):
    route = respx_mock.get(url__regex=r".*").respond(200, json=a_task())
    async with AsyncFleetgate(URL, "t") as client:
        await client.task("../hosts?x=1")

    assert route.calls[0].request.url.raw_path == b"/api/tasks/..%2Fhosts%3Fx%3D1"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Invalid),
        (401, Denied),
        (403, Denied),
        (404, NotFound),
        (409, Conflict),
        (413, TooMuch),
        (429, TooMuch),
        (500, ManagerFault),
    ],
)
async def test_each_refusal_has_its_kind_and_keeps_code_detail_and_hint(status: int, kind: type[Exception]):
    problem = {"title": "T", "status": status, "code": "SOME_CODE", "detail": "so it is", "hint": "do this"}
    transport = httpx.MockTransport(lambda request: httpx.Response(status, json=problem))
    async with AsyncFleetgate(URL, "t", transport=transport) as client:
        with pytest.raises(kind) as refused:
            await client.task("x")

    assert (refused.value.code, refused.value.detail, refused.value.hint) == ("SOME_CODE", "so it is", "do this")


async def test_an_answer_that_is_no_managers_is_said_so():
    transport = httpx.MockTransport(lambda request: httpx.Response(200, text="hello"))
    async with AsyncFleetgate(URL, "t", transport=transport) as client:
        with pytest.raises(BadAnswer):
            await client.health()


async def test_without_a_token_the_refusal_says_how_to_get_one():
    transport = httpx.MockTransport(
        lambda request: httpx.Response(401, json={"title": "U", "status": 401, "code": "UNAUTHORIZED"})
    )
    async with AsyncFleetgate(URL, transport=transport) as client:
        with pytest.raises(Denied, match="there is none") as denied:
            await client.hosts()

    assert denied.value.hint is not None
    assert "fleetgate login" in denied.value.hint


async def test_the_fleet_goes_on_after_a_cut_with_a_snapshot():
    stream = (
        b'retry: 1\nevent: resume\ndata: {"verdict":"ok","epoch":"f","firstId":1,"latestId":1}\n\n'
        b'event: snapshot\ndata: {"asOf":1,"hosts":[],"counts":{}}\n\n'
        b'id: f-2\ndata: {"type":"host.online","timestamp":1,"id":2,"hostId":"h"}\n\n'
    )
    headers = {"content-type": "text/event-stream"}
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=stream, headers=headers))
    kinds: list[str] = []
    async with AsyncFleetgate(URL, "t", transport=transport) as client, aclosing(client.fleet_events()) as items:
        async for item in items:
            kinds.append("snapshot" if isinstance(item, FleetSnapshot) else item.type)
            if len(kinds) == 3:
                break

    assert kinds == ["snapshot", "host.online", "snapshot"]


def test_tasks_are_typed():
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=a_task()))
    with Fleetgate(URL, "t", transport=transport) as client:
        assert isinstance(client.task("x"), Task)
