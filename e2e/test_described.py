"""What a real manager says is what docs/schema says that it says."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest

from e2e.harness import Manager
from e2e.peers.base_gateway import BaseGateway

SCHEMAS = Path(__file__).parents[1] / "docs" / "schema"
API = json.loads((SCHEMAS / "api.schema.json").read_text())
ASYNCAPI = json.loads((SCHEMAS / "asyncapi.json").read_text())


def check(word: str, said: Any) -> None:
    """`said` is what the schema of `word` describes."""
    jsonschema.Draft202012Validator({**API, "$ref": f"#/$defs/{word}"}).validate(said)


@pytest.fixture
async def foreign(manager: Manager) -> AsyncIterator[BaseGateway]:
    """A connected host that does what prompts say."""
    gateway = BaseGateway(manager.link_url, await manager.api.host_token("foreign"), "foreign")
    async with gateway.connected():
        await manager.api.wait_host("foreign")
        yield gateway
    await gateway.stop_jobs()


class Talk:
    """One `/ws`; every frame that comes is checked against the schema."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []

    async def say(self, kind: str, payload: dict[str, Any], **more: Any) -> None:
        await self.socket.send_json({"type": kind, "payload": payload, **more})

    async def until(self, kind: str, **wanted: Any) -> dict[str, Any]:
        """The next frame of this type whose payload has these fields."""
        async with asyncio.timeout(15):
            while True:
                frame = await self.socket.receive_json()
                check("ToClient", frame)
                self.heard.append(frame)
                if frame["type"] == kind and wanted.items() <= frame["payload"].items():
                    return dict(frame)


async def test_every_frame_on_ws_is_described(manager: Manager, foreign: BaseGateway):
    headers = {"Authorization": f"Bearer {manager.token}"}
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{manager.url}/ws", headers=headers) as socket:
        talk = Talk(socket)
        await talk.say("subscribe", {"fleet": True}, id="1")
        assert (await talk.until("subscribed"))["id"] == "1"
        await talk.say("user:message", {"content": "say one\nask\nend two", "agentType": "my-script"}, id="2")
        task_id = (await talk.until("status"))["payload"]["id"]
        await talk.until("agent:response", taskId=task_id)
        await talk.say("task:input", {"taskId": task_id, "content": "between"}, id="3")
        await talk.until("task:input", taskId=task_id)
        await talk.until("status", id=task_id, status="completed")
        await talk.say("sync", {"taskId": task_id, "lastAckID": 0}, id="4")
        batch = (await talk.until("sync.batch"))["payload"]
        await talk.say("ack", {"taskId": task_id, "msgID": batch["latestID"]})
        await talk.say("task:abort", {"taskId": "task_none"}, id="5")
        assert (await talk.until("error"))["payload"]["code"] == "NO_SUCH_TASK"
        await talk.say("unsubscribe", {"fleet": True}, id="6")
        await talk.until("unsubscribed")

    assert [message["id"] for message in batch["messages"]] == list(range(1, batch["latestID"] + 1))
    assert {"event", "agent:response", "agent:status", "host:online"} <= {frame["type"] for frame in talk.heard}


async def test_every_frame_of_a_stream_is_described(manager: Manager, foreign: BaseGateway):
    task = await manager.api.submit(prompt="say one\nodd two\nend three", agentType="my-script")
    channel = ASYNCAPI["channels"]["task"]
    described = {name: message["payload"]["$ref"].rpartition("/")[2] for name, message in channel["messages"].items()}

    async with manager.api.stream(channel["address"].replace("{taskId}", task["id"])) as frames:
        names = []
        async for name, data in frames:
            names.append(name)
            check(described[name], data)
            if name == "end":
                break

    assert names[0] == "resume"
    assert {"resume", "message", "status", "end"} == set(names)


async def test_the_fleet_stream_is_described(manager: Manager, foreign: BaseGateway):
    channel = ASYNCAPI["channels"]["fleet"]
    described = {name: message["payload"]["$ref"].rpartition("/")[2] for name, message in channel["messages"].items()}

    async with manager.api.stream(channel["address"]) as frames:
        task = await manager.api.submit(prompt="end", agentType="my-script")
        names = []
        async for name, data in frames:
            names.append(name)
            check(described[name], data)
            if data.get("taskId") == task["id"] and data.get("status") == "completed":
                break

    assert names[:2] == ["resume", "snapshot"]


async def test_every_channel_is_served_and_every_answer_is_described(manager: Manager, foreign: BaseGateway):
    task = await manager.api.submit(prompt="end", agentType="my-script")
    await manager.api.wait_final(task["id"])
    answers = {
        "Task": f"/api/tasks/{task['id']}",
        "TaskPage": "/api/tasks",
        "Why": f"/api/tasks/{task['id']}/why",
        "EventPage": f"/api/tasks/{task['id']}/events",
        "FleetPage": "/api/events",
        "HostStatus": "/api/hosts/foreign",
        "Health": "/api/health",
    }
    for word, path in answers.items():
        check(word, await manager.api.json("GET", path))
    check("Problem", await manager.api.json("GET", "/api/tasks/task_none", status=404))

    served = (await manager.api.json("GET", "/schema/openapi.json"))["paths"]
    streams = [ASYNCAPI["channels"][name]["address"] for name in ("task", "session", "fleet")]
    assert {address.replace("Id}", "_id}") for address in streams} <= set(served)
