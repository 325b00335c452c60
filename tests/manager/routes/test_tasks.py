import httpx
import pytest

from tests.manager.routes.world import World

TASK = {"prompt": "hello", "agentType": "claude"}


async def test_a_posted_task_is_answered_by_its_record(w: World, c: httpx.AsyncClient):
    answer = await c.post("/api/tasks", json=TASK)

    assert answer.status_code == 201
    body = answer.json()
    assert (body["status"], body["agentType"], body["prompt"]) == ("queued", "claude-code", "hello")
    assert answer.headers["location"] == f"/api/tasks/{body['id']}"
    assert (await w.store.task(body["id"])).trace_id == answer.headers["x-request-id"]


async def test_a_repeat_of_an_idempotency_key_gives_the_old_task(c: httpx.AsyncClient):
    first = await c.post("/api/tasks", json=TASK, headers={"Idempotency-Key": "k1"})
    again = await c.post("/api/tasks", json=TASK, headers={"Idempotency-Key": "k1"})

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]


async def test_an_idempotency_key_for_another_task_is_refused(c: httpx.AsyncClient):
    await c.post("/api/tasks", json=TASK, headers={"Idempotency-Key": "k1"})
    other = await c.post("/api/tasks", json=TASK | {"prompt": "other"}, headers={"Idempotency-Key": "k1"})

    assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_MISMATCH")


async def test_a_trace_id_comes_from_the_traceparent(w: World, c: httpx.AsyncClient):
    trace = "0af7651916cd43dd8448eb211c80319c"
    answer = await c.post("/api/tasks", json=TASK, headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})

    assert answer.json()["traceId"] == trace


async def test_values_of_an_environment_are_never_shown(w: World, c: httpx.AsyncClient):
    created = (await c.post("/api/tasks", json=TASK | {"env": {"API_KEY": "hush"}})).json()
    shown = await c.get(f"/api/tasks/{created['id']}")

    assert list(shown.json()["env"]) == ["API_KEY"]
    assert "hush" not in shown.text


async def test_a_beginning_that_only_one_task_has_names_it(w: World, c: httpx.AsyncClient):
    task = await w.new_task()

    assert (await c.get(f"/api/tasks/{task.id[:-4]}")).json()["id"] == task.id
    assert (await c.get(f"/api/tasks/{task.id.removeprefix('task_')[:-4]}")).json()["id"] == task.id


async def test_a_beginning_that_two_tasks_have_is_ambiguous(w: World, c: httpx.AsyncClient):
    await w.new_task()
    await w.new_task()
    answer = await c.get("/api/tasks/task_0")

    assert (answer.status_code, answer.json()["code"]) == (409, "AMBIGUOUS_ID")


async def test_pages_of_tasks_lead_to_the_last_one(w: World, c: httpx.AsyncClient):
    made = [(await w.new_task(f"p{n}")).id for n in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = (await c.get("/api/tasks", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
        seen += [task["id"] for task in page["items"]]
        if (cursor := page["nextCursor"]) is None:
            break

    assert seen == made[::-1]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("status=running", ["runs"]),
        ("status=running&status=queued", ["labelled", "runs", "waits"]),
        ("status=failed", []),
        ("agent=claude", ["labelled", "runs", "waits"]),
        ("agent=gemini", []),
        ("host=h1", ["runs"]),
        ("label=team=blue", ["labelled"]),
        ("label=team=red", []),
        ("text=wait", ["waits"]),
        ("session=nothing", []),
    ],
)
async def test_filters_must_all_hold(w: World, c: httpx.AsyncClient, query: str, found: list[str]):
    runs = await w.new_task("runs")
    await w.start(runs)
    await w.new_task("waits")
    await w.new_task("labelled", metadata={"team": "blue"})
    page = (await c.get(f"/api/tasks?{query}")).json()

    assert sorted(task["prompt"] for task in page["items"]) == found


async def test_a_queued_task_is_aborted_at_once(w: World, c: httpx.AsyncClient):
    task = await w.new_task()
    answer = await c.post(f"/api/tasks/{task.id}/abort")

    assert (answer.status_code, answer.json()["status"]) == (202, "aborted")


async def test_a_running_task_is_told_to_stop(w: World, c: httpx.AsyncClient):
    task = await w.new_task()
    await w.start(task)
    answer = await c.post(f"/api/tasks/{task.id}/abort", json={"reason": "no longer needed", "kill": True})

    assert (answer.status_code, answer.json()["status"]) == (202, "stopping")


async def test_who_stopped_a_task_is_told_by_name(w: World, c: httpx.AsyncClient):
    task = await w.new_task()
    await w.start(task)
    await c.post(f"/api/tasks/{task.id}/abort", json={"reason": "no longer needed"})

    events = (await c.get(f"/api/tasks/{task.id}/events")).json()["items"]
    assert events[-1]["content"] == "Told to stop (Stopped by test: no longer needed)."


async def test_an_aborted_task_is_tried_again(w: World, c: httpx.AsyncClient):
    task = await w.new_task()
    await c.post(f"/api/tasks/{task.id}/abort")
    answer = await c.post(f"/api/tasks/{task.id}/retry")

    assert (answer.status_code, answer.json()["status"]) == (202, "queued")


async def test_an_input_is_answered_by_how_far_it_came(w: World, c: httpx.AsyncClient):
    task = await w.new_task()
    await w.start(task)
    first = await c.post(f"/api/tasks/{task.id}/input", json={"content": "go on", "inputId": "i1"})
    again = await c.post(f"/api/tasks/{task.id}/input", json={"content": "go on", "inputId": "i1"})

    assert first.status_code == 202
    assert first.json() == {"inputId": "i1", "taskId": task.id, "state": "stored"} == again.json()


async def test_why_says_why(w: World, c: httpx.AsyncClient):
    task = await w.new_task()

    assert (await c.get(f"/api/tasks/{task.id}/why")).json()["summary"] == "No host is connected."


@pytest.mark.parametrize("action", ["", "/why", "/events"])
async def test_an_unknown_task_is_not_found(c: httpx.AsyncClient, action: str):
    answer = await c.get(f"/api/tasks/task_00000000000000000000000000{action}")

    assert (answer.status_code, answer.json()["code"]) == (404, "NO_SUCH_TASK")
