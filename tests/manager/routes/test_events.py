"""Logs as pages and streams: whoever comes back with its last id misses nothing and gets nothing twice."""

import json
import socket
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest

from shared_types.hosts import HostState
from tests.manager.routes.world import Frame, Run, World, frames, ids, read_all, until, world

SSE = {"Accept": "text/event-stream"}


async def ended_task(w: World, texts: int = 4) -> str:
    task = await w.new_task()
    run = await w.start(task)
    await run.say(*[f"t{n}" for n in range(texts)])
    await run.end()
    return task.id


async def test_a_stream_tells_the_whole_log_and_ends(w: World, c: httpx.AsyncClient):
    task_id = await ended_task(w)
    stream = await read_all(c, f"/api/tasks/{task_id}/events")

    assert [frame.event for frame in stream] == ["resume", *["message"] * 8, "end"]
    assert stream[0].json | {"task": None} == {
        "verdict": "ok",
        "epoch": w.store.epoch,
        "firstId": 1,
        "latestId": 8,
        "task": None,
    }
    assert stream[0].json["task"]["status"] == "completed"
    assert ids(stream) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [frame.json.get("content") for frame in stream[4:8]] == ["t0", "t1", "t2", "t3"]
    assert all(frame.json["id"] == int(frame.id or 0) for frame in stream[1:-1])
    assert stream[-1].json == {"status": "completed"}


async def test_a_stream_has_the_headers_that_browsers_and_proxies_need(w: World, c: httpx.AsyncClient):
    task = await w.new_task()
    async with c.stream("GET", f"/api/tasks/{task.id}/events", headers=SSE) as response:
        first = await anext(response.aiter_lines())

    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-accel-buffering"] == "no"
    assert first == "retry: 1000"


@pytest.mark.parametrize("by", ["header", "query"])
async def test_a_reader_that_comes_back_at_any_id_misses_nothing(w: World, c: httpx.AsyncClient, by: str):
    task_id = await ended_task(w)
    for last in range(8):
        query = f"?after={last}" if by == "query" else ""
        headers = {"Last-Event-ID": str(last)} if by == "header" else {}
        stream = await read_all(c, f"/api/tasks/{task_id}/events{query}", **headers)

        assert stream[0].json["verdict"] == "ok"
        assert ids(stream) == list(range(last + 1, 9))


@pytest.mark.parametrize("where", [{"Last-Event-ID": "8"}, {}])
async def test_a_reader_that_has_all_of_an_ended_task_is_told_so(w: World, c: httpx.AsyncClient, where: dict[str, str]):
    task_id = await ended_task(w)
    query = "" if where else "?after=8"
    answer = await c.get(f"/api/tasks/{task_id}/events{query}", headers=SSE | where)

    assert (answer.status_code, answer.content) == (204, b"")


async def test_the_header_wins_over_the_query(w: World, c: httpx.AsyncClient):
    task_id = await ended_task(w)

    assert ids(await read_all(c, f"/api/tasks/{task_id}/events?after=2", **{"Last-Event-ID": "6"})) == [7, 8]


@pytest.mark.parametrize("query", ["?after=99", "?after=3&epoch=another"])
async def test_an_id_of_another_life_is_a_gap_and_gives_all_there_is(w: World, c: httpx.AsyncClient, query: str):
    task_id = await ended_task(w)
    stream = await read_all(c, f"/api/tasks/{task_id}/events{query}")

    assert stream[0].json["verdict"] == "gap"
    assert ids(stream) == list(range(1, 9))


async def test_an_id_of_this_life_may_say_so(w: World, c: httpx.AsyncClient):
    task_id = await ended_task(w)
    stream = await read_all(c, f"/api/tasks/{task_id}/events?after=3&epoch={w.store.epoch}")

    assert (stream[0].json["verdict"], ids(stream)) == ("ok", [4, 5, 6, 7, 8])


@pytest.mark.parametrize("garbage", ["x", "-1", "1.5", "1 2", "9" * 17, "'; drop table", "\u0661"])
async def test_a_last_event_id_that_is_none_is_refused(w: World, c: httpx.AsyncClient, garbage: str):
    task = await w.new_task()
    answer = await c.get(f"/api/tasks/{task.id}/events", headers=[*SSE.items(), ("Last-Event-ID", garbage.encode())])

    assert (answer.status_code, answer.json()["code"]) == (400, "BAD_EVENT_ID")


async def test_a_stream_follows_what_happens_and_how_the_task_stands(w: World, c: httpx.AsyncClient):
    task = await w.new_task()
    seen: list[Frame] = []
    told = anyio.Event()

    async def read() -> None:
        async with c.stream("GET", f"/api/tasks/{task.id}/events", headers=SSE) as response:
            async for frame in frames(response):
                seen.append(frame)
                if frame.id == "1":
                    told.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await told.wait()
            run = await w.start(task)
            for n in range(20):
                await run.say(f"a{n}", f"b{n}")
            await run.end()

    assert ids(seen) == list(range(1, 45))
    standings = [frame.json["status"] for frame in seen if frame.event == "status"]
    assert standings[-1] == "completed"
    assert set(standings) <= {"assigned", "running", "completed"}
    assert seen[-1].event == "end"


async def test_cuts_at_random_places_lose_and_double_nothing(w: World, c: httpx.AsyncClient):
    task = await w.new_task()
    run = await w.start(task)
    got: list[int] = []

    async def read() -> None:
        cut_after = 1
        while True:
            last = {"Last-Event-ID": str(got[-1])} if got else {}
            async with c.stream("GET", f"/api/tasks/{task.id}/events", headers=SSE | last) as response:
                if response.status_code == 204:
                    return
                left = cut_after
                async for frame in frames(response):
                    if frame.id is not None:
                        got.append(int(frame.id))
                        left -= 1
                    if left == 0:
                        break
                cut_after = cut_after % 7 + 1

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            for n in range(40):
                await run.say(*[f"{n}.{m}" for m in range(n % 4 + 1)])
                await anyio.lowlevel.checkpoint()
            await run.end()

    assert got == list(range(1, got[-1] + 1))
    assert got[-1] == (await w.store.task(task.id)).last_event_id


async def test_what_the_tail_has_let_go_comes_from_the_store(w: World, c: httpx.AsyncClient):
    task = await w.new_task()
    run = await w.start(task)
    for _ in range(5):
        await run.say(*["x" * 2000] * 100)
    await run.end()
    w.announcer.tail._rings.clear()
    stream = await read_all(c, f"/api/tasks/{task.id}/events")

    assert ids(stream) == list(range(1, 505))


async def test_a_foreign_event_with_line_breaks_breaks_no_stream(w: World, c: httpx.AsyncClient):
    task = await w.new_task()
    run = await w.start(task)
    await run.report(events=(b'{"type":"x",\n"timestamp":1,\r\n"content":"id: 9"}',), span=(1, 1))
    run.seq = 1
    await run.end()
    stream = await read_all(c, f"/api/tasks/{task.id}/events")

    assert ids(stream) == [1, 2, 3, 4, 5]
    assert stream[4].json["content"] == "id: 9"


async def test_a_retried_task_streams_on_under_the_same_ids(w: World, c: httpx.AsyncClient):
    task = await w.new_task()
    await w.desk.abort(task.id)
    first = await read_all(c, f"/api/tasks/{task.id}/events")
    await w.desk.retry(task.id, "")
    run = await w.start(task)
    await run.end()
    second = await read_all(c, f"/api/tasks/{task.id}/events", **{"Last-Event-ID": str(ids(first)[-1])})

    assert first[-1].json == {"status": "aborted"}
    assert ids(first) + ids(second) == list(range(1, ids(second)[-1] + 1))
    assert second[-1].json == {"status": "completed"}


async def test_pages_of_a_log_lead_to_its_end(w: World, c: httpx.AsyncClient):
    task_id = await ended_task(w)
    seen: list[int] = []
    while True:
        page = (
            await c.get(f"/api/tasks/{task_id}/events", params={"after": seen[-1] if seen else 0, "limit": 3})
        ).json()
        seen += [event["id"] for event in page["items"]]
        if not page["hasMore"]:
            break

    assert seen == list(range(1, 9))
    assert (page["epoch"], page["verdict"], page["firstId"], page["latestId"]) == (w.store.epoch, "ok", 1, 8)


async def test_a_sessions_stream_stays_open_and_says_how_its_tasks_stand(w: World, c: httpx.AsyncClient):
    task = await w.new_task()
    seen: list[Frame] = []
    with anyio.fail_after(10):
        async with c.stream("GET", f"/api/sessions/{task.session_id}/events", headers=SSE) as response:
            run = await w.start(task)
            await run.end()
            async for frame in frames(response):
                seen.append(frame)
                if frame.event == "status" and frame.json["status"] == "completed":
                    break

    assert ids(seen) == [1, 2, 3, 4]
    assert "end" not in [frame.event for frame in seen]


async def test_a_session_that_is_not_there_is_not_found(c: httpx.AsyncClient):
    answer = await c.get("/api/sessions/nothing/events", headers=SSE)

    assert (answer.status_code, answer.json()["code"]) == (404, "NO_SUCH_SESSION")


# --- the fleet --------------------------------------------------------------------------------------


async def some(response: httpx.Response, count: int) -> list[Frame]:
    with anyio.fail_after(10):
        stream = frames(response)
        return [await anext(stream) for _ in range(count)]


async def test_the_fleets_stream_begins_with_a_snapshot_and_goes_on_from_there(w: World, c: httpx.AsyncClient):
    w.announcer.host(w.hosts.add("h1"), "host.online")
    await w.new_task()
    async with c.stream("GET", "/api/events", headers=SSE) as response:
        begin = await some(response, 2)
        w.announcer.host(w.hosts.add("h2"), "host.online")

    assert [frame.event for frame in begin] == ["resume", "snapshot"]
    assert begin[1].json["asOf"] == 2
    assert [host["hostId"] for host in begin[1].json["hosts"]] == ["h1"]
    assert begin[1].json["counts"]["queued"] == 1


async def test_a_reader_of_the_fleet_comes_back_where_it_was(w: World, c: httpx.AsyncClient):
    for name in ("h1", "h2", "h3"):
        w.announcer.host(w.hosts.add(name), "host.online")
    async with c.stream("GET", "/api/events", headers=SSE | {"Last-Event-ID": "f1-1"}) as response:
        stream = await some(response, 3)

    assert [frame.event for frame in stream] == ["resume", "message", "message"]
    assert [(frame.id, frame.json["hostId"]) for frame in stream[1:]] == [("f1-2", "h2"), ("f1-3", "h3")]


@pytest.mark.parametrize("last", ["f0-1", "99"])
async def test_a_reader_of_an_earlier_managers_fleet_is_told_of_the_gap(w: World, c: httpx.AsyncClient, last: str):
    w.announcer.host(w.hosts.add("h1"), "host.online")
    async with c.stream("GET", "/api/events", headers=SSE | {"Last-Event-ID": last}) as response:
        stream = await some(response, 2)

    assert [frame.event for frame in stream] == ["resume", "snapshot"]
    assert stream[0].json["verdict"] == "gap"


async def test_the_fleets_stream_tells_of_hosts_and_tasks(w: World, c: httpx.AsyncClient):
    async with c.stream("GET", "/api/events", headers=SSE) as response:
        stream = frames(response)
        assert [(await anext(stream)).event, (await anext(stream)).event] == ["resume", "snapshot"]
        w.announcer.host(w.hosts.add("h1"), "host.online")
        task = await w.new_task()
        await w.desk.abort(task.id)
        w.announcer.host(w.hosts.add("h1", HostState.OFFLINE), "host.offline")
        told = [(await anext(stream)).json for _ in range(4)]

    assert [event["type"] for event in told] == ["host.online", "task.status", "task.status", "host.offline"]
    assert [event["id"] for event in told] == [1, 2, 3, 4]
    assert [event.get("status") for event in told[1:3]] == ["queued", "aborted"]
    assert told[3]["host"]["status"] == "offline"


async def test_the_fleets_log_has_pages_too(w: World, c: httpx.AsyncClient):
    for name in ("h1", "h2", "h3"):
        w.announcer.host(w.hosts.add(name), "host.online")
    page = (await c.get("/api/events?after=1&limit=1")).json()
    rest = (await c.get("/api/events?after=2")).json()

    assert ([event["id"] for event in page["items"]], page["hasMore"]) == ([2], True)
    assert ([event["id"] for event in rest["items"]], rest["hasMore"]) == ([3], False)


# --- slow and leaving readers -----------------------------------------------------------------------


def never_reading(w: World, path: str) -> socket.socket:
    """A client that asks and then takes nothing, with a small window so that it is noticed soon."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", w.server.port))
    headers = f"Host: x\r\nAuthorization: Bearer {w.token}\r\nAccept: text/event-stream\r\n"
    sock.sendall(f"GET {path} HTTP/1.1\r\n{headers}\r\n".encode())
    sock.setblocking(False)
    return sock


async def flood(run: Run, megabytes: int) -> None:
    for _ in range(megabytes * 10):
        await run.say(*["x" * 1000] * 100)


async def test_a_reader_that_takes_nothing_holds_nobody_up_and_is_cut(tmp_path: Any):
    async with world(tmp_path, sweep_s=0.2, send_timeout_s=0.5) as w, w.client() as c:
        task = await w.new_task()
        run = await w.start(task)
        stuck = [never_reading(w, f"/api/tasks/{task.id}/events") for _ in range(5)]
        try:
            await flood(run, 6)
            await run.end()
            with anyio.fail_after(20):
                whole = ids(await read_all(c, f"/api/tasks/{task.id}/events"))
                await until(lambda: w.services.doors.cut_total == 5 and w.services.doors.inside("sse") == 0)
        finally:
            for sock in stuck:
                sock.close()

    assert whole == list(range(1, 6005))


async def test_a_manager_that_stops_says_so_to_its_readers(w: World, c: httpx.AsyncClient):
    task = await w.new_task()
    async with c.stream("GET", f"/api/tasks/{task.id}/events", headers=SSE) as response:
        stream = frames(response)
        assert (await anext(stream)).event == "resume"
        w.server.stop()
        with anyio.fail_after(5):
            rest = [frame async for frame in stream]

    assert rest[-1].event == "drain"
    assert json.loads(rest[-1].data) == {"retry": True}


async def test_a_reader_that_goes_leaves_nothing_behind(w: World, c: httpx.AsyncClient):
    task = await w.new_task()
    for _ in range(10):
        async with c.stream("GET", f"/api/tasks/{task.id}/events", headers=SSE) as response:
            await anext(frames(response))
    with anyio.fail_after(5):
        await w.services.doors.wait_empty()

    assert w.services.doors.inside("sse") == 0


async def test_a_quiet_stream_is_pinged(tmp_path: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("manager.routes.events.PING_S", 0.05)
    async with world(tmp_path, sweep_s=0.1) as w, w.client() as c:
        task = await w.new_task()
        async with c.stream("GET", f"/api/tasks/{task.id}/events", headers=SSE) as response:
            with anyio.fail_after(5):
                async for line in response.aiter_lines():
                    if line == ": ping":
                        break

        assert w.services.doors.cut_total == 0


async def test_a_lost_wakeup_costs_a_delay_and_nothing_else(tmp_path: Any):
    async with world(tmp_path, sweep_s=0.1) as w, w.client() as c:
        task = await w.new_task()
        async with c.stream("GET", f"/api/tasks/{task.id}/events", headers=SSE) as response:
            stream = frames(response)
            with anyio.fail_after(5):
                while (await anext(stream)).id != "1":
                    pass
                w.announcer.taken = lambda taken: None  # type: ignore[method-assign]  # nobody is told
                await w.desk.abort(task.id)
                rest = [frame async for frame in stream]

    assert [frame.event for frame in rest] == ["message", "status", "end"]
