import re

import httpx

from shared_types.hosts import HostState
from tests.manager.routes.world import World


async def test_hosts_are_listed_with_those_that_are_away(w: World, c: httpx.AsyncClient):
    w.hosts.add("h1")
    w.hosts.add("h2", HostState.OFFLINE)
    listed = (await c.get("/api/hosts")).json()

    assert [(host["hostId"], host["status"]) for host in listed] == [("h1", "online"), ("h2", "offline")]
    assert (await c.get("/api/hosts/h2")).json() == listed[1]


async def test_an_unknown_host_is_not_found(c: httpx.AsyncClient):
    for method, path in (("GET", ""), ("POST", "/drain"), ("POST", "/resume")):
        answer = await c.request(method, f"/api/hosts/nobody{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "NO_SUCH_HOST")


async def test_a_host_is_drained_and_resumed(w: World, c: httpx.AsyncClient):
    w.hosts.add("h1")

    assert (await c.post("/api/hosts/h1/drain")).json()["draining"] is True
    assert (await c.post("/api/hosts/h1/resume")).json()["draining"] is False


async def test_health_counts_and_names_what_is_degraded(w: World, c: httpx.AsyncClient):
    w.hosts.add("h1")
    await w.new_task()
    well = (await c.get("/api/health")).json()
    w.services.doors.is_draining = True
    ill = (await c.get("/api/health")).json()

    assert (well["status"], well["hostsOnline"], well["tasksQueued"]) == ("ok", 1, 1)
    assert (ill["status"], list(ill["degraded"])) == ("degraded", ["manager"])


async def test_a_manager_that_drains_is_not_ready(w: World, c: httpx.AsyncClient):
    w.services.doors.is_draining = True
    answer = await c.get("/readyz")

    assert (answer.status_code, answer.json()["code"]) == (503, "DRAINING")
    assert (await c.get("/healthz")).status_code == 200


async def test_metrics_say_what_is_going_on(w: World, c: httpx.AsyncClient):
    w.hosts.add("h1")
    task = await w.new_task()
    run = await w.start(task)
    await run.say("a", "b")
    await c.get("/api/tasks/nothing")
    text = (await c.get("/api/metrics")).text

    def value(sample: str) -> float:
        found = re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
        assert found, f"{sample} is not in\n{text}"
        return float(found[1])

    assert value('fleetgate_hosts{status="online"}') == 1
    assert value('fleetgate_tasks{status="running"}') == 1
    assert value("fleetgate_queue") == 0
    assert value("fleetgate_events_total") == 4  # assigned, running, a, b; queued was told by its record
    assert value('fleetgate_http_requests_total{method="GET",route="/api/tasks/{task_id}",status="404"}') == 1
    assert value('fleetgate_http_seconds_count{method="GET",route="/api/tasks/{task_id}"}') == 1
