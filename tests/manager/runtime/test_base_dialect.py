"""The whole life of a host whose gateway speaks the base dialect: no records, no confirmations, no attempts."""

from pathlib import Path
from typing import Any

import anyio
import msgspec

from shared_types.messages import TaskAbort, TaskExecute, TaskInput
from shared_types.tasks import PermissionMode, TaskState
from tests.fakes.host import Hand
from tests.manager.runtime.hall import Hall, hall

GREETING = {
    "type": "register",
    "hostId": "b1",
    "capabilities": {"name": "Base", "agents": ["opencode", "claude"], "maxConcurrent": 3, "cwd": "/srv"},
}


async def say(hand: Hand, **message: Any) -> None:
    await hand.say_raw(msgspec.json.encode(message))


async def connected(h: Hall) -> Hand:
    hand = h.hand("b1")
    await hand.say_raw(msgspec.json.encode(GREETING))
    assert msgspec.to_builtins(await hand.next()) == {"type": "registered", "ok": True}
    await h.until_true(lambda: h.fleet.link("b1"))
    return hand


async def given(h: Hall, hand: Hand, **fields: Any) -> str:
    """A task that this host was told to run."""
    task_id = await h.submit(**fields)
    assert (await hand.expect(TaskExecute)).task.task_id == task_id
    return task_id


async def test_a_base_host_is_told_to_run_a_task_streams_it_and_ends_it(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = await connected(h)
        task_id = await h.submit("hello", agent="claude", env={"A": "1"}, timeout=5_000, metadata={"k": "v"})

        said = msgspec.to_builtins(await hand.expect(TaskExecute))
        assert said["task"] == {
            "taskId": task_id,
            "prompt": "hello",
            "cwd": "/srv",
            "agentType": "claude-code",
            "env": {"A": "1"},
            "timeout": 5_000,
            "metadata": {"k": "v"},
        }
        assert set(said) == {"type", "task"}

        await say(hand, type="task:started", taskId=task_id, sessionId="")
        await say(hand, type="task:event", taskId=task_id, event={"type": "log", "content": "a", "timestamp": 1})
        await say(hand, type="task:event", taskId=task_id, event={"type": "message", "content": "b", "timestamp": 2})
        await say(hand, type="task:started", taskId=task_id, sessionId="theirs")
        await say(
            hand,
            type="task:completed",
            taskId=task_id,
            result={"success": True, "exitCode": 0, "output": "b", "duration": 9, "filesChanged": ["x"]},
        )
        task = await h.until(task_id, TaskState.COMPLETED)

        assert await h.kinds(task_id) == ["queued", "assigned", "running", "log", "message", "completed"]
        assert task.agent_session_id == "theirs"
        assert task.result is not None
        assert task.result.files_changed == ("x",)


async def test_a_failure_at_a_base_host_is_told_with_its_reason(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = await connected(h)
        first, second = await given(h, hand), await given(h, hand)

        await say(hand, type="task:started", taskId=first, sessionId="")
        await say(hand, type="task:completed", taskId=first, result={"success": False, "exitCode": 2})
        await say(hand, type="task:failed", taskId=second, error="spawn ENOENT", details={"path": "/x"})

        assert (await h.until(first, TaskState.FAILED)).reason == "exit_nonzero"
        task = await h.until(second, TaskState.FAILED)
        assert (task.reason, task.detail) == ("agent_error", 'spawn ENOENT: {"path":"/x"}')


async def test_abort_at_a_base_host_ends_when_it_says_so(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = await connected(h)
        task_id = await given(h, hand)
        await say(hand, type="task:started", taskId=task_id, sessionId="")
        await h.until(task_id, TaskState.RUNNING)

        await h.tasks.abort(task_id, reason="enough")
        said = await hand.expect(TaskAbort)
        assert msgspec.to_builtins(said) == {"type": "task:abort", "taskId": task_id}
        await say(hand, type="task:failed", taskId=task_id, error="killed")
        task = await h.until(task_id, TaskState.ABORTED)

        assert task.reason == "aborted_by_user"


async def test_input_reaches_a_base_host_once(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = await connected(h)
        task_id = await given(h, hand)
        early = await h.tasks.input(task_id, "early")
        await say(hand, type="task:started", taskId=task_id, sessionId="")
        assert msgspec.to_builtins(await hand.expect(TaskInput)) == {
            "type": "task:input",
            "taskId": task_id,
            "content": "early",
        }

        late = await h.tasks.input(task_id, "late")
        assert (await hand.expect(TaskInput)).content == "late"

        assert (early.state, late.state) == ("stored", "sent")
        await h.cut("b1")
        again = await connected(h)
        await h.tasks.input(task_id, "third")
        assert (await again.expect(TaskInput)).content == "third"


async def test_after_a_cut_a_base_host_goes_on_with_what_it_had(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = await connected(h)
        task_id = await given(h, hand)
        await say(hand, type="task:started", taskId=task_id, sessionId="")
        await h.until(task_id, TaskState.RUNNING)
        await h.cut("b1")
        await h.until_disconnected(task_id)

        again = await connected(h)
        assert (await h.store.task(task_id)).disconnected_since is not None  # it cannot say what it still runs
        await say(again, type="task:event", taskId=task_id, event={"type": "log", "content": "on", "timestamp": 3})
        await say(again, type="task:completed", taskId=task_id, result={"success": True, "exitCode": 0})
        await h.until(task_id, TaskState.COMPLETED)

        assert (await h.kinds(task_id))[-4:] == ["running", "running", "log", "completed"]


async def test_a_base_host_that_never_speaks_of_its_task_again_loses_it_at_the_deadline(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = await connected(h)
        task_id = await given(h, hand)
        await say(hand, type="task:started", taskId=task_id, sessionId="")
        await h.until(task_id, TaskState.RUNNING)
        await h.cut("b1")
        await h.until_disconnected(task_id)
        again = await connected(h)
        h.clock.later_ms = 3600_000

        await h.watchdog.look()
        assert (await h.until(task_id, TaskState.LOST)).reason == "host_lost"
        assert (await again.expect(TaskAbort)).task_id == task_id

        # And should it speak after all, it is told to stop.
        await say(again, type="task:event", taskId=task_id, event={"type": "log", "timestamp": 3})
        assert (await again.expect(TaskAbort)).task_id == task_id


async def test_a_wish_to_stop_is_said_again_to_a_base_host_that_comes_back(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = await connected(h)
        task_id = await given(h, hand)
        await say(hand, type="task:started", taskId=task_id, sessionId="")
        await h.until(task_id, TaskState.RUNNING)
        await h.cut("b1")
        await h.tasks.abort(task_id)

        again = await connected(h)

        assert (await again.expect(TaskAbort)).task_id == task_id


async def test_a_task_that_may_only_plan_is_not_given_to_a_base_host(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        await connected(h)

        task_id = await h.submit(permission_mode=PermissionMode.PLAN)
        task = await h.until(task_id, TaskState.FAILED)

        assert task.reason == "refused_everywhere"
        assert "base dialect" in (task.detail or "")


async def test_work_that_a_base_host_was_not_told_goes_back_when_it_is_gone(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        slow = h.hand("b1", room=2)  # for the welcome and one more
        await slow.say_raw(msgspec.json.encode(GREETING))
        await h.until_true(lambda: h.fleet.link("b1"))
        first, second, third = [await h.submit() for _ in range(3)]
        await h.until(third, TaskState.ASSIGNED)
        await anyio.wait_all_tasks_blocked()  # the second one waits to be written, the third behind it

        await h.cut("b1")

        for task_id in (second, third):
            task = await h.until(task_id, TaskState.QUEUED)
            assert task.excluded_hosts == ()
        # What was in the socket may have arrived: nobody can say, so it is not given to another.
        assert (await h.store.task(first)).status is TaskState.ASSIGNED
        assert (await h.store.task(first)).disconnected_since is not None


async def test_work_that_a_base_host_was_not_told_is_told_to_its_newer_connection(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        slow = h.hand("b1", room=2)  # for the welcome and one more
        await slow.say_raw(msgspec.json.encode(GREETING))
        await h.until_true(lambda: h.fleet.link("b1"))
        _, second, third = [await h.submit() for _ in range(3)]
        await h.until(third, TaskState.ASSIGNED)
        await anyio.wait_all_tasks_blocked()  # the second one waits to be written, the third behind it

        new = h.hand("b1")
        await new.say_raw(msgspec.json.encode(GREETING))

        assert [(await new.expect(TaskExecute)).task.task_id for _ in range(2)] == [second, third]
