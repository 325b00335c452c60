"""The whole life of a host whose gateway speaks the base dialect: no records, no confirmations, no attempts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from manager.core.tasks import Change
from manager.errors import StoreUnavailable
from manager.ports import Taken
from manager.runtime.host_link import Patience
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


async def test_a_base_host_keeps_a_silent_task_by_saying_again_that_it_started(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        _, task_id = await at_work(h)
        await h.cut("b1")
        await h.until_disconnected(task_id)
        again = await connected(h)
        await say(again, type="heartbeat", timestamp=1)  # it lives; of its tasks that says nothing

        await say(again, type="task:started", taskId=task_id, sessionId="")

        async def is_here() -> bool:
            return (await h.store.task(task_id)).disconnected_since is None

        await h.until_true(is_here)
        h.clock.later_ms = 3600_000
        await h.watchdog.look()

        assert (await h.store.task(task_id)).status is TaskState.RUNNING


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

        assert task.reason == "mode_not_allowed"
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


# --- a store that is away when the host hangs up --------------------------------------------------------


async def last_words(h: Hall, hand: Hand, task_id: str) -> None:
    await say(hand, type="task:event", taskId=task_id, event={"type": "log", "content": "last", "timestamp": 3})
    await say(hand, type="task:completed", taskId=task_id, result={"success": True, "exitCode": 0})
    await h.until_true(lambda: h.fleet.counters["store_retries"])
    h.lines["b1"].cut()
    await h.until_true(lambda: h.fleet.link("b1") is None)


async def at_work(h: Hall) -> tuple[Hand, str]:
    hand = await connected(h)
    task_id = await given(h, hand)
    await say(hand, type="task:started", taskId=task_id, sessionId="")
    await h.until(task_id, TaskState.RUNNING)
    return hand, task_id


async def away(*_: Any, **__: Any) -> Any:
    raise StoreUnavailable("disk full", code="DISK_FULL")


async def test_what_a_base_host_said_last_is_kept_until_the_store_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hall(tmp_path, patience=Patience(drain_s=0.05)) as h:
        hand, task_id = await at_work(h)
        with monkeypatch.context() as outage:
            outage.setattr(h.store, "change", away)
            await last_words(h, hand, task_id)
            await h.until_true(lambda: h.fleet.arrears.trouble)
            assert (await h.store.host("b1")).is_connected  # its end is not written before its words

        await h.until(task_id, TaskState.COMPLETED)

        assert (await h.kinds(task_id))[-3:] == ["running", "log", "completed"]
        await h.until_true(lambda: not h.fleet.arrears.trouble)
        assert not (await h.store.host("b1")).is_connected
        assert h.fleet.counters["unwritten"] == 0


async def test_a_base_host_that_comes_back_does_not_fence_what_it_said_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hall(tmp_path, patience=Patience(drain_s=0.05)) as h:
        hand, task_id = await at_work(h)
        with monkeypatch.context() as outage:
            outage.setattr(h.store, "change", away)
            await last_words(h, hand, task_id)
            again = h.hand("b1")
            closed = await again.hangs_up(after=msgspec.json.encode(GREETING))
            assert closed.code == 1013
            assert (await h.store.host("b1")).generation == 1

        await h.until(task_id, TaskState.COMPLETED)
        await connected(h)
        assert (await h.store.host("b1")).generation == 2


async def test_words_that_are_being_written_when_the_host_hangs_up_are_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hall(tmp_path, patience=Patience(drain_s=0.05)) as h:
        hand, task_id = await at_work(h)
        change = h.store.change
        is_asked, may_answer = anyio.Event(), anyio.Event()

        async def slow(changes: Sequence[Change]) -> list[Taken]:
            taken = await change(changes)
            is_asked.set()
            await may_answer.wait()
            return taken

        monkeypatch.setattr(h.store, "change", slow)
        link = h.fleet.link("b1")
        await say(hand, type="task:event", taskId=task_id, event={"type": "log", "content": "last", "timestamp": 3})
        await is_asked.wait()
        h.lines["b1"].cut()
        with anyio.move_on_after(0.2):  # longer than it has to write down what it heard
            await h.until_true(lambda: h.fleet.link("b1") is not link)
        may_answer.set()
        await h.until_true(lambda: h.fleet.link("b1") is None)
        await h.until_disconnected(task_id)

        assert (await h.kinds(task_id)).count("log") == 1


async def test_more_words_than_there_is_room_for_are_lost_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manager.runtime.arrears.MAX_BYTES", 700)
    async with hall(tmp_path, patience=Patience(drain_s=0.05)) as h:
        hand, task_id = await at_work(h)
        with monkeypatch.context() as outage:
            outage.setattr(h.store, "change", away)
            await last_words(h, hand, task_id)

        await h.until_disconnected(task_id)

        assert (await h.kinds(task_id))[-3:] == ["running", "log", "running"]
        assert h.fleet.counters["unwritten"] == 1
