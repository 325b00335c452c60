"""`/ws`: many tasks over one socket, each message answered, nothing lost, nobody starved."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from manager.routes.services import EdgeConfig
from shared_types.hosts import HostState
from tests.fakes.mute import MutePeer
from tests.manager.routes.world import World, until, world


class Client:
    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def say(self, type: str, payload: Any = None, **more: Any) -> None:
        await self.socket.send(json.dumps({"type": type, "payload": payload} | more))

    async def hear(self) -> dict[str, Any]:
        with anyio.fail_after(5):
            message: dict[str, Any] = json.loads(await self.socket.recv())
            return message

    async def closed(self) -> None:
        with anyio.fail_after(10):
            await self.socket.wait_closed()

    async def hear_until(self, type: str, **payload: Any) -> list[dict[str, Any]]:
        """Messages up to the first of this type whose payload has these values."""
        heard = []
        while True:
            heard.append(message := await self.hear())
            if message["type"] == type and payload.items() <= message["payload"].items():
                return heard

    async def ask(self, type: str, payload: Any = None, **more: Any) -> dict[str, Any]:
        """The answer to one message."""
        await self.say(type, payload, id="q1", **more)
        while (message := await self.hear()).get("id") != "q1":
            pass
        return message


@asynccontextmanager
async def connect(w: World, **more: Any) -> AsyncIterator[Client]:
    async with websockets.connect(
        w.ws + "/ws", additional_headers=w.auth(), max_size=2**22, close_timeout=1, **more
    ) as socket:
        yield Client(socket)


def told(messages: list[dict[str, Any]]) -> list[int]:
    return [message["payload"]["id"] for message in messages if message["type"] == "event"]


async def test_a_subscriber_is_told_what_happens(w: World):
    task = await w.new_task()
    async with connect(w) as client:
        subscribed = await client.ask("subscribe", {"taskId": task.id, "after": 0})
        run = await w.start(task)
        await run.say("a", "b")
        await run.end()
        heard = await client.hear_until("status", status="completed")

    assert subscribed["type"] == "subscribed"
    assert subscribed["payload"] == {"taskId": task.id, "after": 0, "epoch": w.store.epoch, "verdict": "ok"}
    assert told(heard) == [1, 2, 3, 4, 5, 6]
    event = next(message for message in heard if message["type"] == "event" and message["payload"]["id"] == 4)
    assert event["payload"]["taskId"] == task.id
    assert event["payload"]["event"]["content"] == "a"


async def test_a_subscriber_without_a_place_begins_now(w: World):
    task = await w.new_task()
    run = await w.start(task)
    async with connect(w) as client:
        await client.ask("subscribe", {"taskId": task.id})
        await run.say("new")
        heard = await client.hear_until("event")

    assert told(heard) == [4]


async def test_sync_and_subscribe_leave_no_hole(w: World):
    task = await w.new_task()
    run = await w.start(task)
    await run.say("a", "b", "c")
    async with connect(w) as client:
        batch = await client.ask("sync", {"taskId": task.id, "lastAckID": 2})
        await run.say("between")
        await client.ask("subscribe", {"taskId": task.id})
        heard = await client.hear_until("event")

    assert batch["type"] == "sync.batch"
    assert [message["id"] for message in batch["payload"]["messages"]] == [3, 4, 5, 6]
    assert batch["payload"] | {"messages": None} == {
        "latestID": 6,
        "firstID": 1,
        "epoch": w.store.epoch,
        "verdict": "ok",
        "hasMore": False,
        "sessionId": task.session_id,
        "messages": None,
    }
    assert told(heard) == [7]


async def test_batches_are_bounded_and_say_that_more_follows(w: World):
    task = await w.new_task()
    run = await w.start(task)
    for _ in range(12):
        await run.say(*[f"{n}" for n in range(100)])
    seen: list[int] = []
    sizes = []
    async with connect(w) as client:
        while True:
            batch = await client.ask("sync", {"sessionId": task.session_id, "lastAckID": seen[-1] if seen else 0})
            seen += [message["id"] for message in batch["payload"]["messages"]]
            sizes.append(len(batch["payload"]["messages"]))
            if not batch["payload"]["hasMore"]:
                break

    assert seen == list(range(1, 1204))
    assert sizes == [500, 500, 203]


async def test_large_messages_fill_a_batch_before_it_has_500(w: World):
    task = await w.new_task()
    run = await w.start(task)
    for _ in range(10):
        await run.say(*["x" * 60_000] * 4)
    async with connect(w) as client:
        batch = await client.ask("sync", {"taskId": task.id, "lastAckID": 0})

    assert len(json.dumps(batch)) < 1024 * 1024 + 4096
    assert batch["payload"]["hasMore"] is True


async def test_an_id_of_another_life_is_a_gap(w: World):
    task = await w.new_task()
    async with connect(w) as client:
        batch = await client.ask("sync", {"taskId": task.id, "lastAckID": 77})

    assert batch["payload"]["verdict"] == "gap"
    assert [message["id"] for message in batch["payload"]["messages"]] == [1]


async def test_marks_are_kept_for_each_device(w: World):
    task = await w.new_task()
    run = await w.start(task)
    await run.say("a", "b")
    async with connect(w) as client:
        phone, laptop = {"metadata": {"deviceId": "phone"}}, {"metadata": {"deviceId": "laptop"}}
        await client.say("ack", {"taskId": task.id, "msgID": 4}, **phone)
        on_phone = await client.ask("sync", {"taskId": task.id}, **phone)
        on_laptop = await client.ask("sync", {"taskId": task.id}, **laptop)

    assert [message["id"] for message in on_phone["payload"]["messages"]] == [5]
    assert [message["id"] for message in on_laptop["payload"]["messages"]] == [1, 2, 3, 4, 5]


async def test_a_mark_never_lies_beyond_the_log(w: World):
    task = await w.new_task()
    async with connect(w) as client:
        await client.say("ack", {"taskId": task.id, "msgID": 10**9})
        await client.ask("sync", {"taskId": task.id})

    assert await w.store.marked(w.services.access._known.popitem()[1][0].id, "", task.session_id) == 1


async def test_a_session_can_be_named_in_the_metadata(w: World):
    task = await w.new_task()
    async with connect(w) as client:
        batch = await client.ask("sync", {}, metadata={"sessionId": task.session_id})

    assert batch["payload"]["latestID"] == 1


async def test_after_unsubscribe_nothing_more_is_told(w: World):
    task = await w.new_task()
    other = await w.new_task()
    run = await w.start(task)
    async with connect(w) as client:
        await client.ask("subscribe", {"taskId": task.id})
        gone = await client.ask("unsubscribe", {"taskId": task.id})
        await run.say("unheard")
        await client.ask("subscribe", {"taskId": other.id})
        await w.desk.abort(other.id)
        heard = await client.hear_until("event")

    assert gone["type"] == "unsubscribed"
    assert {message["payload"].get("taskId", other.id) for message in heard} == {other.id}


async def test_the_plain_text_view_says_the_same_in_words(w: World):
    task = await w.new_task()
    async with connect(w) as client:
        await client.ask("subscribe", {"taskId": task.id, "text": True})
        run = await w.start(task)
        await run.say("hel", delta=True)
        await run.say("hello", delta=False)
        await run.say("oops", type="error", code="x")
        await run.say("nor this", type="input", inputId="i1", state="refused")
        await run.say("this", type="input", inputId="i2", state="taken")
        await run.end()
        heard = await client.hear_until("agent:status", status="completed")

    plain = [
        (message["type"], message["payload"].get("content")) for message in heard if message["type"][:6] == "agent:"
    ]
    assert ("agent:stream", "hel") in plain
    assert ("agent:response", "hello") in plain
    assert ("agent:status", "oops") in plain
    assert ("agent:status", "nor this") in plain
    assert "this" not in [content for _, content in plain]
    assert plain[0][0] == "agent:status"


async def test_a_user_message_becomes_a_task_that_is_followed(w: World):
    async with connect(w) as client:
        created = await client.ask("user:message", {"content": "hi", "agentType": "claude"})
        task = await w.store.task(created["payload"]["id"])
        run = await w.start(task)
        await run.say("hello you", delta=False)
        heard = await client.hear_until("agent:response")

    assert (created["type"], task.prompt) == ("status", "hi")
    assert heard[-1]["payload"]["content"] == "hello you"


async def test_a_user_message_without_an_agent_needs_a_default(w: World, tmp_path: Path):
    async with connect(w) as client:
        refused = await client.ask("user:message", {"content": "hi"})
    async with world(tmp_path / "other", config=EdgeConfig(default_agent="gemini")) as other, connect(other) as client:
        created = await client.ask("user:message", {"content": "hi"})

    assert (refused["type"], refused["payload"]["code"]) == ("error", "AGENT_REQUIRED")
    assert created["payload"]["agentType"] == "gemini"


async def test_inputs_and_aborts_go_over_the_socket_too(w: World):
    task = await w.new_task()
    await w.start(task)
    async with connect(w) as client:
        receipt = await client.ask("task:input", {"taskId": task.id, "content": "go on", "inputId": "i1"})
        stopping = await client.ask("task:abort", {"taskId": task.id, "kill": True})

    assert receipt["payload"] == {"inputId": "i1", "taskId": task.id, "state": "stored"}
    assert stopping["payload"]["status"] == "stopping"


async def test_the_fleet_is_told_by_host_and_by_event(w: World):
    w.announcer.host(w.hosts.add("h1"), "host.online")
    async with connect(w) as client:
        await client.ask("subscribe", {"fleet": True})
        first = await client.hear()
        w.announcer.host(w.hosts.add("h1", HostState.OFFLINE), "host.offline")
        heard = await client.hear_until("host:offline")
        await w.new_task()
        status = (await client.hear_until("event"))[-1]

    assert (first["type"], first["payload"]["hostId"]) == ("host:online", "h1")
    assert heard[0]["payload"]["event"]["type"] == "host.offline"
    assert status["payload"]["event"]["type"] == "task.status"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "what"}, "UNKNOWN_TYPE"),
        ({"payload": {}}, "INVALID_MESSAGE"),
        ([], "INVALID_MESSAGE"),
        ({"type": 5}, "INVALID_MESSAGE"),
        ({"type": "sync"}, "MISSING_FIELD"),
        ({"type": "sync", "payload": {"taskId": 5}}, "INVALID_FIELD"),
        ({"type": "sync", "payload": {}}, "WHICH_STREAM"),
        ({"type": "sync", "payload": {"taskId": "task_0", "sessionId": "s"}}, "WHICH_STREAM"),
        ({"type": "sync", "payload": {"taskId": "task_nothing", "lastAckID": -1}}, "INVALID_FIELD"),
        ({"type": "sync", "payload": {"taskId": "task_nothing"}}, "NO_SUCH_TASK"),
        ({"type": "sync", "payload": {"sessionId": "nothing"}}, "NO_SUCH_SESSION"),
        ({"type": "subscribe", "payload": {"taskId": "task_nothing"}}, "NO_SUCH_TASK"),
        ({"type": "subscribe", "payload": {}}, "WHICH_STREAM"),
        ({"type": "subscribe", "payload": {"fleet": True, "taskId": "x"}}, "WHICH_STREAM"),
        ({"type": "ack", "payload": {"msgID": 1}}, "WHICH_STREAM"),
        ({"type": "user:message", "payload": {"content": ""}}, "INVALID_FIELD"),
        ({"type": "task:abort", "payload": {"taskId": "task_nothing"}}, "NO_SUCH_TASK"),
    ],
    ids=json.dumps,
)
async def test_a_wrong_message_is_answered_and_the_socket_stays_open(w: World, message: Any, code: str):
    task = await w.new_task()
    async with connect(w) as client:
        if isinstance(message, dict):
            message = message | {"id": "q1"}
        await client.socket.send(json.dumps(message))
        answer = await client.hear()
        alive = await client.ask("sync", {"taskId": task.id})

    assert (answer["type"], answer["payload"]["code"]) == ("error", code)
    assert answer.get("id") == ("q1" if code != "INVALID_MESSAGE" else None)
    assert alive["type"] == "sync.batch"


@pytest.mark.parametrize("data", ["{", "nonsense", "", b"\xff\xfe", '{"type":"sync","payload":' + "[" * 5000])
async def test_what_is_no_json_closes_with_1007(w: World, data: str | bytes):
    async with connect(w) as client:
        await client.socket.send(data)
        await client.closed()

    assert client.socket.close_code == 1007


@pytest.mark.parametrize("size", [256 * 1024 + 1, 5 * 1024 * 1024])
async def test_a_frame_that_is_too_large_closes_with_1009(w: World, size: int):
    async with connect(w) as client:
        with suppress(websockets.ConnectionClosed):  # it may be closed before we have said it all
            await client.socket.send("x" * size)
        await client.closed()

    assert client.socket.close_code == 1009


async def test_subscribing_twice_is_refused(w: World):
    task = await w.new_task()
    async with connect(w) as client:
        await client.ask("subscribe", {"taskId": task.id})
        again = await client.ask("subscribe", {"taskId": task.id})

    assert again["payload"]["code"] == "ALREADY_SUBSCRIBED"


async def test_a_socket_may_not_follow_without_end(w: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("manager.routes.sockets.MAX_SUBSCRIPTIONS", 2)
    tasks = [await w.new_task() for _ in range(3)]
    async with connect(w) as client:
        answers = [await client.ask("subscribe", {"taskId": task.id}) for task in tasks]

    assert [answer["type"] for answer in answers] == ["subscribed", "subscribed", "error"]
    assert answers[2]["payload"]["code"] == "TOO_MANY_SUBSCRIPTIONS"


async def test_no_subscription_starves_another(w: World):
    loud, quiet = await w.new_task(), await w.new_task()
    loud_run = await w.start(loud)
    for _ in range(40):
        await loud_run.say(*["x" * 500] * 100)
    async with connect(w) as client:
        await client.ask("subscribe", {"taskId": loud.id, "after": 0})
        await client.say("subscribe", {"taskId": quiet.id, "after": 0})
        heard = await client.hear_until("event", taskId=quiet.id)

    assert len(told(heard)) < 2500  # it came long before the loud one was through


async def test_a_client_that_takes_nothing_holds_nobody_up_and_is_cut(tmp_path: Path):
    async with world(tmp_path, sweep_s=0.2, send_timeout_s=0.5) as w:
        task = await w.new_task()
        run = await w.start(task)
        async with connect(w, max_queue=1) as stuck, connect(w) as client:
            await stuck.ask("subscribe", {"taskId": task.id, "after": 0})
            await client.ask("subscribe", {"taskId": task.id, "after": 0})
            stuck.socket.transport.pause_reading()
            for _ in range(60):
                await run.say(*["x" * 1000] * 100)
            await run.end()
            heard = await client.hear_until("status", status="completed")
            with anyio.fail_after(10):
                await until(lambda: w.services.doors.cut_total == 1 and w.services.doors.inside("ws") == 1)
            stuck.socket.transport.abort()

        assert told(heard) == list(range(1, 6005))


async def test_a_manager_that_stops_closes_with_1012(w: World):
    async with connect(w) as client:
        w.server.stop()
        await client.closed()

    assert client.socket.close_code == 1012


async def test_a_client_whose_machine_is_gone_is_freed(tmp_path: Path):
    async with (
        world(tmp_path, ping_s=0.02, silence_s=0.06) as w,
        MutePeer.connect("127.0.0.1", w.server.port, "/ws", headers=w.auth()) as peer,
    ):
        await peer.say(json.dumps({"type": "subscribe", "payload": {"fleet": True}}))
        await peer.pings_until_cut()

        with anyio.fail_after(10):
            await until(lambda: w.services.doors.inside("ws") == 0)


async def test_a_client_that_only_listens_stays(tmp_path: Path):
    async with (
        world(tmp_path, ping_s=0.02, silence_s=0.2) as w,
        MutePeer.connect("127.0.0.1", w.server.port, "/ws", headers=w.auth(), answers=True) as peer,
    ):
        for _ in range(30):
            await peer.ping()

        assert w.services.doors.inside("ws") == 1
