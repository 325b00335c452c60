"""Peers of another make: each of our two programs against one that knows the base dialect and nothing more.

The peers are written from the tables of docs/protocol.md, on another WebSocket library than ours.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from e2e.harness import Gateway, Manager, start_gateway_at, until
from e2e.peers.base_gateway import BaseGateway
from e2e.peers.base_manager import BaseManager

# --- the peers themselves ---------------------------------------------------------------------------


async def test_the_two_peers_understand_each_other():
    async with BaseManager("t").serving() as manager, BaseGateway(manager.url, "t", "h").connected() as gateway:
        await manager.execute("t1", "say one\nask\nend two", cwd="/tmp", agentType="my-script")
        await manager.say({"type": "task:input", "taskId": "t1", "content": "between"})
        end = await manager.wait_end("t1")
        await manager.execute("t2", "wait", cwd="/tmp", agentType="my-script")
        await manager.wait(lambda: manager.of("t2"))
        await manager.say({"type": "task:abort", "taskId": "t2"})
        aborted = await manager.wait_end("t2")
        await gateway.cut()

    assert [event["content"] for event in manager.events("t1")] == ["one", "between"]
    assert end["result"]["output"] == "two"
    assert aborted["error"] == "aborted"


# --- a foreign gateway with our manager -------------------------------------------------------------


@pytest.fixture
async def foreign(manager: Manager) -> AsyncIterator[BaseGateway]:
    """A gateway of another make, not connected yet."""
    gateway = BaseGateway(manager.link_url, await manager.api.host_token("foreign"), "foreign")
    yield gateway
    await gateway.stop_jobs()


async def test_a_foreign_gateway_is_a_host_like_any_other(manager: Manager, foreign: BaseGateway):
    async with foreign.connected():
        host = await manager.api.wait_host("foreign")

        assert host["status"] == "online"
        assert host["name"] == "foreign, of another make"
        assert host["capabilities"]["agents"] == ["my-script"]
        assert host["slots"] == 1

    await manager.api.wait_host("foreign", "offline")


async def test_its_heartbeats_keep_it_alive(manager: Manager, foreign: BaseGateway):
    async with foreign.connected():
        first = (await manager.api.wait_host("foreign"))["lastHeartbeat"]

        async def newer() -> bool:
            return (await manager.api.hosts())["foreign"]["lastHeartbeat"] > first

        await until(newer, 10, "a newer heartbeat is shown")


async def test_it_runs_a_task_and_every_event_is_there_once_in_order(manager: Manager, foreign: BaseGateway):
    async with foreign.connected():
        task = await manager.api.submit(prompt="say one\nodd rain\nsay three\nend done", agentType="my-script")

        ended = await manager.api.wait_final(task["id"])

    events = await manager.api.events(task["id"])
    assert ended["status"] == "completed"
    assert ended["result"]["output"] == "done"
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    assert [(e["type"], e["content"]) for e in events if e["type"] != "status"] == [
        ("message", "one"),
        ("x-weather", "rain"),
        ("message", "three"),
    ]


async def test_it_says_that_a_task_failed_and_why(manager: Manager, foreign: BaseGateway):
    async with foreign.connected():
        task = await manager.api.submit(prompt="fail the printer is on fire", agentType="my-script")

        ended = await manager.api.wait_final(task["id"])

    assert ended["status"] == "failed"
    assert ended["reason"]
    assert "the printer is on fire" in ended["detail"]


async def test_it_is_told_to_abort(manager: Manager, foreign: BaseGateway):
    async with foreign.connected():
        task = await manager.api.submit(prompt="wait", agentType="my-script")
        await manager.api.wait_status(task["id"], "running")

        await manager.api.abort(task["id"])

        assert (await manager.api.wait_final(task["id"]))["status"] == "aborted"


async def test_it_takes_input(manager: Manager, foreign: BaseGateway):
    async with foreign.connected():
        task = await manager.api.submit(prompt="ask\nend thanks", agentType="my-script")
        await manager.api.wait_status(task["id"], "running")

        await manager.api.input(task["id"], "the answer is 42")

        await manager.api.wait_event(task["id"], type="message", content="the answer is 42")
        assert (await manager.api.wait_final(task["id"]))["status"] == "completed"


async def test_it_never_gets_more_than_it_has_room_for(manager: Manager, foreign: BaseGateway):
    async with foreign.connected():
        first = await manager.api.submit(prompt="ask\nend 1", agentType="my-script")
        await manager.api.wait_status(first["id"], "running")
        second = await manager.api.submit(prompt="end 2", agentType="my-script")

        assert (await manager.api.wait_host("foreign", "busy"))["activeTasks"] == [first["id"]]
        assert (await manager.api.task(second["id"]))["status"] == "queued"
        assert list(foreign.jobs) == [first["id"]]
        await manager.api.input(first["id"], "go")

        assert (await manager.api.wait_final(second["id"]))["status"] == "completed"


async def test_a_cut_in_the_middle_of_a_task_loses_nothing_and_doubles_nothing(manager: Manager, foreign: BaseGateway):
    async with foreign.connected():
        task = await manager.api.submit(prompt="say before\nask\nsay after\nend done", agentType="my-script")
        await manager.api.wait_event(task["id"], type="message", content="before")
        await foreign.cut()
        await manager.api.wait_host("foreign", "offline")

    async with foreign.connected():
        await manager.api.wait_host("foreign")
        await manager.api.input(task["id"], "in between")
        ended = await manager.api.wait_final(task["id"])

    said = [event["content"] for event in await manager.api.events(task["id"]) if event["type"] == "message"]
    assert ended["status"] == "completed"
    assert said == ["before", "in between", "after"]
    assert [message["type"] for message in foreign.heard].count("task:execute") == 1


async def test_a_message_of_a_type_we_do_not_know_closes_nothing(manager: Manager, foreign: BaseGateway):
    async with foreign.connected():
        foreign.say({"type": "task:sing", "taskId": "t"})
        task = await manager.api.submit(prompt="end still here", agentType="my-script")

        assert (await manager.api.wait_final(task["id"]))["status"] == "completed"
        assert foreign.close_code is None


async def test_words_about_a_task_that_is_not_its_own_change_nothing(manager: Manager, foreign: BaseGateway):
    task = await manager.api.submit(prompt="p", agentType="gemini")
    async with foreign.connected():
        foreign.say({"type": "task:completed", "taskId": task["id"], "result": {"success": True}})
        foreign.say({"type": "task:completed", "taskId": "task_none", "result": {"success": True}})
        own = await manager.api.submit(prompt="end", agentType="my-script")
        await manager.api.wait_final(own["id"])

        assert (await manager.api.task(task["id"]))["status"] == "queued"


@pytest.mark.parametrize("token", ["", "nonsense", "fgh_nonsense"])
async def test_without_a_good_token_the_handshake_is_refused(manager: Manager, token: str):
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(
                f"{manager.link_url}/agent/ws?hostId=foreign", headers={"Authorization": f"Bearer {token}"}
            )

    assert refused.value.status == 401


async def test_a_token_speaks_for_its_own_host_only(manager: Manager, foreign: BaseGateway):
    foreign.host_id = "another"

    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with foreign.connected():
            pass

    assert refused.value.status == 403


async def test_nothing_is_heard_before_register(manager: Manager, foreign: BaseGateway):
    async with aiohttp.ClientSession() as session, foreign._dial(session) as socket:
        await socket.send_json({"type": "task:started", "taskId": "t", "sessionId": ""})

        refusal = await socket.receive_json(timeout=10)
        await socket.receive(timeout=10)

    assert refusal["type"] == "registered"
    assert refusal["ok"] is False
    assert refusal["error"]
    assert socket.close_code == 4400
    assert "foreign" not in await manager.api.hosts()


async def test_a_frame_of_5_megabytes_closes_the_connection_and_nothing_else(manager: Manager, foreign: BaseGateway):
    async with foreign.connected():
        await foreign.say_once({"type": "task:sing", "content": "x" * 5_000_000})
        # 1009, if the network still delivers it to a peer that has not stopped talking.
        assert await until(lambda: foreign.close_code, 10, "the connection is closed") in {1006, 1009}

    async with foreign.connected():
        task = await manager.api.submit(prompt="end fine", agentType="my-script")
        assert (await manager.api.wait_final(task["id"]))["status"] == "completed"


async def test_the_newest_connection_of_a_host_wins(manager: Manager, foreign: BaseGateway):
    newer = BaseGateway(foreign.url, foreign.token, foreign.host_id)
    async with foreign.connected():
        async with newer.connected():
            await until(lambda: foreign.close_code, 10, "the older connection is closed")
            task = await manager.api.submit(prompt="end newer", agentType="my-script")

            assert (await manager.api.wait_final(task["id"]))["status"] == "completed"
            assert list(newer.jobs) == [task["id"]]
            assert foreign.jobs == {}
        await newer.stop_jobs()


# --- our gateway with a foreign manager -------------------------------------------------------------

TOKEN = "a token of another make"


@asynccontextmanager
async def linked(tmp_path: Path, manager: BaseManager) -> AsyncIterator[Gateway]:
    """Our gateway, registered with a foreign manager; its agent `sh-script` runs the prompt's lines as it pleases."""
    script = tmp_path / "agent.py"
    script.write_text(SCRIPT)
    home = tmp_path / "home"
    home.mkdir(parents=True, exist_ok=True)
    (home / "gateway.toml").write_text(command_agent("script", script) + command_agent("talker", script, input="lines"))
    async with start_gateway_at(manager.url, home, host_id="ours", token=TOKEN, cwd=tmp_path / "work") as gateway:
        await manager.wait(lambda: any(m["type"] == "register" for m in manager.heard))
        yield gateway


SCRIPT = """
import sys, time
for line in sys.stdin:
    word, _, argument = line.rstrip("\\n").partition(" ")
    if word == "say":
        print(argument, flush=True)
    elif word == "fail":
        sys.exit(argument)
    elif word == "end":
        break
    elif word == "wait":
        while True:
            time.sleep(60)
"""


def command_agent(name: str, script: Path, **more: str) -> str:
    """The settings that declare an agent of the host's owner."""
    lines = [f"[agents.{name}]", f'argv = ["{sys.executable}", "{script}"]', *(f'{k} = "{v}"' for k, v in more.items())]
    return "\n".join(lines) + "\n"


def text(events: list[dict[str, Any]]) -> str:
    """What the agent said, once: deltas are repeated by the whole message at its end."""
    whole = [event["content"] for event in events if event["type"] == "message" and not event["data"]["delta"]]
    return "".join(whole)


@pytest.fixture
async def foreign_manager() -> AsyncIterator[BaseManager]:
    async with BaseManager(TOKEN).serving() as manager:
        yield manager


async def test_our_gateway_registers_with_a_manager_of_another_make(tmp_path: Path, foreign_manager: BaseManager):
    async with linked(tmp_path, foreign_manager):
        register = foreign_manager.heard[0]

    assert register["type"] == "register"
    assert register["hostId"] == foreign_manager.handshakes[0]["hostId"] == "ours"
    assert "script" in register["capabilities"]["agents"]
    assert register["capabilities"]["maxConcurrent"] == 2
    assert register["capabilities"]["cwd"] == str(tmp_path / "work")


async def test_our_gateway_runs_a_task_for_it(tmp_path: Path, foreign_manager: BaseManager):
    async with linked(tmp_path, foreign_manager):
        await foreign_manager.execute("t1", "say hello\nsay world", cwd=str(tmp_path / "work"), agentType="script")
        end = await foreign_manager.wait_end("t1")

    assert foreign_manager.of("t1")[0]["type"] == "task:started"
    assert text(foreign_manager.events("t1")).split() == ["hello", "world"]
    assert all(isinstance(event["timestamp"], int) for event in foreign_manager.events("t1"))
    assert end["type"] == "task:completed"
    assert end["result"]["success"] is True
    assert end["result"]["exitCode"] == 0
    only_base = {"register", "heartbeat", "task:started", "task:event", "task:completed", "task:failed"}
    assert {message["type"] for message in foreign_manager.heard} <= only_base


async def test_our_gateway_tells_it_of_a_failure(tmp_path: Path, foreign_manager: BaseManager):
    async with linked(tmp_path, foreign_manager):
        await foreign_manager.execute("t1", "fail badly", cwd=str(tmp_path / "work"), agentType="script")
        end = await foreign_manager.wait_end("t1")

    assert end["type"] == "task:failed"
    assert end["error"]


@pytest.mark.parametrize(
    "wish",
    [{"agentType": "nobody"}, {"cwd": "/etc"}, {"cwd": "/nowhere/at/all"}, {"env": {"LD_PRELOAD": "/x.so"}}],
    ids=["an unknown agent", "a cwd outside the roots", "a cwd that is not there", "a dangerous name"],
)
async def test_what_our_gateway_will_not_run_is_a_failed_task(tmp_path: Path, foreign_manager: BaseManager, wish):
    async with linked(tmp_path, foreign_manager):
        task = {"cwd": str(tmp_path / "work"), "agentType": "script"} | wish
        await foreign_manager.execute("t1", "say never", **task)
        end = await foreign_manager.wait_end("t1")

    assert end["type"] == "task:failed"
    assert end["error"]
    assert foreign_manager.events("t1") == []


async def test_our_gateway_aborts_for_it_and_the_process_is_gone(tmp_path: Path, foreign_manager: BaseManager):
    async with linked(tmp_path, foreign_manager):
        await foreign_manager.execute("t1", "say up\nwait", cwd=str(tmp_path / "work"), agentType="script")
        await foreign_manager.wait(lambda: foreign_manager.events("t1"))
        await foreign_manager.say({"type": "task:abort", "taskId": "t1"})
        end = await foreign_manager.wait_end("t1", within_s=10)  # at once, not with the next heartbeat

    assert end["type"] == "task:failed"


async def test_our_gateway_gives_its_input_to_the_agent(tmp_path: Path, foreign_manager: BaseManager):
    async with linked(tmp_path, foreign_manager):
        await foreign_manager.execute("t1", "say first", cwd=str(tmp_path / "work"), agentType="talker")
        await foreign_manager.wait(lambda: foreign_manager.events("t1"))
        for line in ("say second", "end"):
            await foreign_manager.say({"type": "task:input", "taskId": "t1", "content": line})
        end = await foreign_manager.wait_end("t1")

    assert end["type"] == "task:completed"
    assert text(foreign_manager.events("t1")).split() == ["first", "second"]


async def test_our_gateway_answers_its_ping(tmp_path: Path, foreign_manager: BaseManager):
    async with linked(tmp_path, foreign_manager):
        beats = sum(m["type"] == "heartbeat" for m in foreign_manager.heard)

        await foreign_manager.say({"type": "ping"})

        await foreign_manager.wait(lambda: sum(m["type"] == "heartbeat" for m in foreign_manager.heard) > beats)


async def test_our_gateway_takes_its_config(tmp_path: Path, foreign_manager: BaseManager):
    async with linked(tmp_path, foreign_manager):
        await foreign_manager.say({"type": "config:update", "config": {"heartbeatInterval": 1000}})

        await foreign_manager.wait(lambda: sum(m["type"] == "heartbeat" for m in foreign_manager.heard) >= 3)


async def test_what_happens_while_it_is_away_is_told_when_it_is_back(tmp_path: Path, foreign_manager: BaseManager):
    async with linked(tmp_path, foreign_manager):
        await foreign_manager.execute(
            "t1", "say up\nwait", cwd=str(tmp_path / "work"), agentType="script", timeout=2000
        )
        await foreign_manager.wait(lambda: foreign_manager.events("t1"))
        assert foreign_manager._socket is not None
        await foreign_manager._socket.close()

        await foreign_manager.wait(lambda: sum(m["type"] == "register" for m in foreign_manager.heard) == 2)
        end = await foreign_manager.wait_end("t1")

    deltas = [
        e["content"].strip() for e in foreign_manager.events("t1") if e["type"] == "message" and e["data"]["delta"]
    ]
    assert end["type"] == "task:failed"
    assert deltas == ["up"]


async def test_our_gateway_survives_a_manager_that_says_odd_things(tmp_path: Path, foreign_manager: BaseManager):
    async with linked(tmp_path, foreign_manager):
        await foreign_manager.say({"type": "task:sing", "taskId": "t"})
        await foreign_manager.say({"type": "task:abort", "taskId": "never heard of"})
        await foreign_manager.say({"type": "task:input", "taskId": "never heard of", "content": "x"})
        await foreign_manager.execute("t1", "say fine", cwd=str(tmp_path / "work"), agentType="script")

        assert (await foreign_manager.wait_end("t1"))["type"] == "task:completed"
    assert len(foreign_manager.handshakes) == 1


async def test_two_tasks_run_side_by_side(tmp_path: Path, foreign_manager: BaseManager):
    async with linked(tmp_path, foreign_manager):
        for task_id in ("t1", "t2"):
            await foreign_manager.execute(task_id, f"say {task_id}", cwd=str(tmp_path / "work"), agentType="script")
        ends = await asyncio.gather(foreign_manager.wait_end("t1"), foreign_manager.wait_end("t2"))

    assert [end["type"] for end in ends] == ["task:completed", "task:completed"]
