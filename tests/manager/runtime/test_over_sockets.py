"""The whole manager on a real port, and hosts that dial it: what memory cannot show."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from manager import app
from manager.settings import Settings
from shared_types.codec import encode
from shared_types.messages import Register
from tests.fakes.host import FakeHost, Hand, Plan, capabilities, dial
from tests.fakes.mute import MutePeer

PATIENCE_S = 20.0


@asynccontextmanager
async def manager(home: Path, **more: Any) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """(a client with a personal token, the ws:// address)"""
    facts: dict[str, Any] = {}
    is_ready = anyio.Event()

    def ready(told: Any) -> None:
        facts.update(told)
        is_ready.set()

    settings = Settings(home=str(home), host="127.0.0.1", port=0, bootstrap_token_file=str(home / "token"), **more)
    async with anyio.create_task_group() as group:
        group.start_soon(app.run, settings, ready)
        with anyio.fail_after(PATIENCE_S):
            await is_ready.wait()
        token = (home / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=facts["url"], headers=headers, trust_env=False) as client:
            yield client, facts["url"].replace("http", "ws")
        group.cancel_scope.cancel()


async def host_token(client: httpx.AsyncClient, host_id: str) -> tuple[str, str]:
    """(token, its id)"""
    answer = await client.post("/api/auth/tokens", json={"name": host_id, "kind": "host", "hostId": host_id})
    assert answer.status_code == 201, answer.text
    return answer.json()["token"], answer.json()["info"]["id"]


async def until(client: httpx.AsyncClient, task_id: str, status: str) -> dict[str, Any]:
    with anyio.fail_after(PATIENCE_S):
        while True:
            task: dict[str, Any] = (await client.get(f"/api/tasks/{task_id}")).json()
            if task["status"] == status:
                return task
            await anyio.sleep(0.01)


async def until_host(client: httpx.AsyncClient, host_id: str, status: str) -> None:
    with anyio.fail_after(PATIENCE_S):
        while True:
            answer = await client.get(f"/api/hosts/{host_id}")
            if answer.is_success and answer.json()["status"] == status:
                return
            await anyio.sleep(0.01)


async def submit(client: httpx.AsyncClient) -> str:
    answer = await client.post("/api/tasks", json={"prompt": "p", "agentType": "opencode"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def greeting() -> Register:
    return Register(host_id="h1", protocol=2, capabilities=capabilities("h1"))


async def test_a_task_runs_on_a_host_that_dialled_in_and_survives_a_cut(tmp_path: Path) -> None:
    async with manager(tmp_path) as (client, url):
        token, _ = await host_token(client, "h1")
        host = FakeHost("h1", plan=lambda _: Plan(events=2, holds=True))
        async with anyio.create_task_group() as group:
            async with dial(url, token) as line:
                group.start_soon(host.run, line)
                task_id = await submit(client)
                await until(client, task_id, "running")
                line.cut()
            async with dial(url, token) as line:
                group.start_soon(host.run, line)
                await host.online.wait()
                await host.finish(task_id)
                task = await until(client, task_id, "completed")

        assert task["attempt"] == 1
        page = (await client.get(f"/api/tasks/{task_id}/events")).json()
        assert [event["type"] for event in page["items"] if event["attempt"]] == ["message", "message"]


async def test_a_frame_of_five_megabytes_is_refused_by_its_size(tmp_path: Path) -> None:
    async with manager(tmp_path) as (client, url):
        token, _ = await host_token(client, "h1")
        async with dial(url, token) as line:
            hand = Hand(line)
            await hand.register(greeting())
            closed = await hand.hangs_up(after=b'{"type":"heartbeat","timestamp":1,"x":"' + b"x" * 5_000_000 + b'"}')

        assert closed.code == 1009
        async with dial(url, token) as line:
            assert (await Hand(line).register(greeting())).ok


async def test_a_connection_that_is_closed_for_a_reason_carries_it_to_the_host(tmp_path: Path) -> None:
    async with manager(tmp_path) as (client, url):
        token, _ = await host_token(client, "h1")
        async with dial(url, token) as old, dial(url, token) as new, dial(url, token) as bad:
            await Hand(old).register(greeting())
            await Hand(new).register(greeting())
            assert (await Hand(old).hangs_up()).code == 4409

            await Hand(bad).say_raw(b"nonsense")
            closed = await Hand(bad).hangs_up()
            assert (closed.code, closed.reason[:10]) == (1007, "malformed:")


async def test_a_revoked_host_is_put_out_at_its_next_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manager.runtime.recorder.SEEN_EVERY_S", 0.0)
    async with manager(tmp_path) as (client, url):
        token, token_id = await host_token(client, "h1")
        async with dial(url, token) as line:
            hand = Hand(line)
            await hand.register(greeting())
            assert (await client.delete(f"/api/auth/tokens/{token_id}")).is_success
            await hand.say_raw(b'{"type":"heartbeat","timestamp":1}')

            closed = await hand.hangs_up()

        assert (closed.code, closed.reason[:8]) == (4401, "REVOKED:")


async def test_a_host_whose_last_token_is_revoked_is_put_out_at_once(tmp_path: Path) -> None:
    async with manager(tmp_path) as (client, url):
        token, token_id = await host_token(client, "h1")
        _, other_id = await host_token(client, "h1")
        async with dial(url, token) as line:
            hand = Hand(line)
            await hand.register(greeting())
            assert (await client.delete(f"/api/auth/tokens/{other_id}")).is_success
            assert (await client.get("/api/hosts/h1")).json()["status"] == "online"

            assert (await client.delete(f"/api/auth/tokens/{token_id}")).is_success
            closed = await hand.hangs_up()

        assert (closed.code, closed.reason[:8]) == (4401, "REVOKED:")


async def test_a_host_whose_machine_is_gone_is_offline_after_its_silence(tmp_path: Path) -> None:
    async with manager(tmp_path, heartbeat_s=0.1, host_ttl_s=0.5) as (client, url):
        token, _ = await host_token(client, "h1")
        headers = {"Authorization": f"Bearer {token}"}
        async with MutePeer.connect("127.0.0.1", int(url.rpartition(":")[2]), "/agent/ws", headers=headers) as peer:
            await peer.say(encode(greeting()).decode())
            await until_host(client, "h1", "online")

            await until_host(client, "h1", "offline")
