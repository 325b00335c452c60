"""One attempt's bad luck is that attempt's: the gateway and everything else on the host go on."""

import os

import anyio
import pytest

from gateway.agents.command import CommandDriver
from gateway.runtime import attempt as attempts
from shared_types.messages import TaskAbort, TaskCompleted
from tests.fakes.attempts import survivors, wait_until


async def the_host_still_works(manager):
    await manager.offer("after", prompt="say fine")
    assert isinstance(await manager.wait_end("after"), TaskCompleted)
    assert len(manager.greetings) == 1


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "\u2028", "%s\n"])
async def test_a_directory_whose_name_no_system_takes_is_refused(manager, start, tmp_path, name):
    async with start():
        attempt = await manager.offer("t1", cwd=f"{tmp_path}/work/{name}")
        await manager.wait(lambda: attempt.refused)

        await the_host_still_works(manager)
    assert attempt.refused.reason in ("cwd_missing", "cwd_not_allowed")


@pytest.mark.parametrize("name", ["exit.json", "journal", "task.json", "state.json", "lock", "private"])
@pytest.mark.parametrize("kind", ["garbage", "directory"])
async def test_a_damaged_directory_of_an_earlier_attempt_does_not_keep_the_gateway_from_starting(
    manager, start, home, name, kind
):
    manager.confirms = False
    async with start():
        attempt = await manager.offer("t1", prompt="say x")
        await manager.wait_end("t1")
    path = attempts.directory(home, attempt.uid)
    await wait_until(lambda: not attempts.is_kept(path))
    os.rename(path / name, home / "gone")
    if kind == "directory":
        (path / name).mkdir()
    else:
        (path / name).write_bytes(b"\xff{garbage\0")

    attempt.end = None
    manager.confirms = True
    async with start():
        await manager.offer("after", prompt="say fine")
        assert isinstance(await manager.wait_end("after"), TaskCompleted)
        with anyio.fail_after(25):
            await wait_until(lambda: attempts.found(home) == [])


async def test_a_fault_of_ours_ends_its_attempt_and_leaves_nothing_of_it(manager, start, home, monkeypatch):
    monkeypatch.setattr(CommandDriver, "is_done", property(lambda driver: 1 // (driver.spec.task_id == "after")))
    async with start():
        attempt = await manager.offer("t1", prompt="leave\nsay up\nwait")
        end = await manager.wait_end("t1")

        assert (end.reason, end.error) == (
            "agent_error.protocol",
            "The gateway failed at this attempt; see its log.",
        )
        assert survivors(attempt.uid) == []
        await the_host_still_works(manager)
        with anyio.fail_after(25):
            await wait_until(lambda: attempts.found(home) == [])


async def test_an_agent_that_breaks_when_it_is_asked_to_stop_was_aborted_all_the_same(manager, start, monkeypatch):
    monkeypatch.setattr(CommandDriver, "on_cancel", lambda driver: driver.write("cancel", b"exit 3\n"))
    async with start():
        attempt = await manager.offer("t1", agent="talk", prompt="say up\nlisten")
        await manager.wait(lambda: attempt.texts("message"))
        await manager.say(TaskAbort(task_id="t1", attempt=1))
        end = await manager.wait_end("t1")

    assert (end.reason, end.result.exit_code) == ("aborted_by_user", 3)


async def test_an_agent_that_was_done_before_it_heard_of_the_abort_is_done(manager, start, monkeypatch):
    monkeypatch.setattr(CommandDriver, "on_cancel", lambda driver: driver.write("cancel", b"exit 0\n"))
    async with start():
        attempt = await manager.offer("t1", agent="talk", prompt="say up\nlisten")
        await manager.wait(lambda: attempt.texts("message"))
        await manager.say(TaskAbort(task_id="t1", attempt=1))

        assert isinstance(await manager.wait_end("t1"), TaskCompleted)
