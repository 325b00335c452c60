"""One attempt's bad luck is that attempt's: the gateway and everything else on the host go on."""

import json
import os
import signal
from threading import Event

import anyio
import pytest
from structlog.testing import capture_logs

from gateway.agents.command import CommandDriver
from gateway.runtime import attempt as attempts
from gateway.runtime import crew, keeper, workspace
from gateway.runtime.process import Stranger
from shared_types.messages import Heartbeat, Ping, TaskAbort, TaskCompleted, TaskFailed, TaskInput
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


class DeadDisk:
    """A file system that answers nobody until it is `back`; `asked` is set when somebody waits for it."""

    def __init__(self, monkeypatch, name):
        self.back, self.asked = Event(), Event()
        look = getattr(workspace, name)

        def wait(*args):
            if str(args[0]).endswith("/dead"):
                self.asked.set()
                self.back.wait()
            return look(*args)

        monkeypatch.setattr(workspace, name, wait)

    async def wait_asked(self):
        await wait_until(self.asked.is_set)


@pytest.fixture
def dead_disk(monkeypatch, tmp_path):
    (tmp_path / "work" / "dead").mkdir()
    disk = DeadDisk(monkeypatch, "working_directory")
    yield disk
    disk.back.set()


async def the_gateway_answers(manager):
    before = len(manager.said(Heartbeat))
    await manager.say(Ping())
    await manager.wait(lambda: len(manager.said(Heartbeat)) > before)


async def test_a_directory_that_does_not_answer_is_refused_and_holds_nobody_up(
    manager, start, tmp_path, monkeypatch, dead_disk
):
    monkeypatch.setattr(crew, "LOOK_S", 0.5)
    async with start():
        attempt = await manager.offer("t1", cwd=str(tmp_path / "work" / "dead"))
        await dead_disk.wait_asked()
        await the_gateway_answers(manager)
        assert attempt.refused is None
        await the_host_still_works(manager)
        await manager.wait(lambda: attempt.refused)

    assert attempt.refused.reason == "cwd_missing"
    assert attempt.refused.details == (
        f"the file system of {tmp_path / 'work' / 'dead'} does not answer on this host: no answer within 0.5 s"
    )
    assert not attempt.accepted


async def test_a_directory_that_dies_between_offer_and_start_fails_the_start_and_holds_nobody_up(
    manager, start, tmp_path, monkeypatch
):
    (tmp_path / "work" / "dead").mkdir()
    disk = DeadDisk(monkeypatch, "enter")
    monkeypatch.setattr(crew, "LOOK_S", 0.5)
    async with start() as gateway:
        attempt = await manager.offer("t1", prompt="say x", cwd=str(tmp_path / "work" / "dead"))
        await disk.wait_asked()
        await the_gateway_answers(manager)
        await manager.wait(lambda: attempt.refused)
        await wait_until(lambda: gateway.crew.alive == 0)
        await the_host_still_works(manager)
        disk.back.set()

    assert attempt.accepted
    assert attempt.refused.reason == "cwd_missing"
    assert attempt.started == []


async def test_an_offer_ends_with_its_connection_however_long_it_is_looked_at(manager, start, tmp_path, dead_disk):
    async with start(GATEWAY_MAX_CONCURRENT="1") as gateway:
        attempt = await manager.offer("t1", cwd=str(tmp_path / "work" / "dead"))
        await dead_disk.wait_asked()
        second = await manager.offer("t2")
        await manager.wait(lambda: second.refused)
        assert second.refused.reason == "no_free_slot"
        manager.cut()
        await manager.wait_connected(2)
        with anyio.fail_after(10):
            await gateway.crew.wait_idle()
        dead_disk.back.set()
        await manager.offer("after", prompt="say fine")
        assert isinstance(await manager.wait_end("after"), TaskCompleted)

    assert (attempt.accepted, attempt.refused) == (False, None)
    assert manager.greetings[1].running == ()


async def test_an_offer_that_is_aborted_while_it_is_looked_at_is_given_back_at_once(
    manager, start, tmp_path, dead_disk
):
    async with start() as gateway:
        attempt = await manager.offer("t1", cwd=str(tmp_path / "work" / "dead"))
        await dead_disk.wait_asked()
        await manager.say(TaskAbort(task_id="t1", attempt=1))
        await manager.wait(lambda: attempt.refused)
        with anyio.fail_after(10):
            await gateway.crew.wait_idle()

    assert attempt.refused.reason == "aborted_by_user"
    assert not attempt.accepted


async def test_in_base_what_is_said_while_a_directory_is_looked_at_is_not_lost(manager, start, tmp_path, dead_disk):
    manager.dialect = 1
    async with start():
        attempt = await manager.offer("t1", agent="talk", prompt="listen", cwd=str(tmp_path / "work" / "dead"))
        await dead_disk.wait_asked()
        await manager.say(TaskInput(task_id="t1", content="say heard"))
        await manager.say(TaskInput(task_id="t1", content="exit 0"))
        await the_gateway_answers(manager)
        manager.cut()
        await manager.wait_connected(2)
        dead_disk.back.set()
        end = await manager.wait_end("t1")

        dead_disk.back.clear()
        dead_disk.asked.clear()
        stopped = await manager.offer("t2", cwd=str(tmp_path / "work" / "dead"), prompt="say never")
        await dead_disk.wait_asked()
        await manager.say(TaskAbort(task_id="t2"))
        other = await manager.wait_end("t2")
        dead_disk.back.set()

    assert isinstance(end, TaskCompleted)
    assert end.result.output == "heard\n"
    assert attempt.texts("input") == ["say heard", "exit 0"]
    assert stopped.texts("message") == []
    assert isinstance(other, TaskFailed)


async def test_what_an_agent_says_of_our_token_reaches_neither_the_manager_nor_the_disk(manager, start, home):
    manager.token, manager.confirms = "fgh_s3cret-token", False
    async with start():
        attempt = await manager.offer("t1", prompt="backwards " + "<fgh_s3cret-token>"[::-1])
        await manager.wait_end("t1")

    assert set(attempt.texts("message")) == {"<***>\n"}
    assert manager.token.encode() not in (attempts.directory(home, attempt.uid) / "journal").read_bytes()


async def test_what_the_manager_did_not_take_is_kept_and_refuses_new_tasks_until_it_is_taken(manager, start, home):
    manager.confirms = False
    async with start(GATEWAY_JOURNAL_QUOTA="1MiB"):
        first = await manager.offer("t1", prompt="flood 20000")
        await manager.wait(lambda: attempts.bytes_taken(home) > 2**20, 60)
    async with start(GATEWAY_JOURNAL_QUOTA="1MiB") as gateway:  # looks at the disk when it starts
        refused = await manager.offer("t2")
        await manager.wait(lambda: refused.refused)
        assert attempts.found(home) == [first.uid]

        manager.confirms = True
        manager.cut()
        await manager.wait_end("t1")
        with anyio.fail_after(25):
            await wait_until(lambda: attempts.found(home) == [])
        await gateway.vitals.look()
        await manager.offer("after", prompt="say fine")
        assert isinstance(await manager.wait_end("after"), TaskCompleted)

    assert refused.refused.reason == "disk_full"
    assert "of the 1 MiB" in refused.refused.details
    assert manager.said(Heartbeat)[-1].vitals.journals is not None


async def left_by_a_newer_release(manager, start, home):
    """An attempt that runs under a keeper whose contract nobody knows yet."""
    async with start():
        attempt = await manager.offer("t1", prompt="leave\nsay up\nwait")
        await manager.wait(lambda: attempt.texts("message"))
    state = attempts.directory(home, attempt.uid) / attempts.STATE
    state.write_text(json.dumps({**json.loads(state.read_text()), "v": keeper.VERSION + 1, "strange": []}))
    return attempt


async def test_a_keeper_of_a_newer_release_goes_on_holds_its_slot_and_ends_when_that_is_wanted(manager, start, home):
    attempt = await left_by_a_newer_release(manager, start, home)
    before = survivors(attempt.uid)
    with capture_logs() as logs:
        async with start(GATEWAY_MAX_CONCURRENT="1") as gateway:
            second = await manager.offer("t2")
            await manager.wait(lambda: second.refused)
            assert second.refused.reason == "no_free_slot"
            assert [running.uid for running in manager.greetings[1].running] == [attempt.uid]
            assert (gateway.crew.alive, survivors(attempt.uid)) == (1, before)

            await manager.say(TaskAbort(task_id="t1", attempt=1))
            end = await manager.wait_end("t1")
            assert survivors(attempt.uid) == []
            await manager.offer("after", prompt="say fine")
            assert isinstance(await manager.wait_end("after"), TaskCompleted)
            with anyio.fail_after(25):
                await wait_until(lambda: attempts.found(home) == [])

    assert end.reason == "agent_error.protocol"
    assert f"contract {keeper.VERSION + 1}" in end.error
    assert "keeper.too_new" in [log["event"] for log in logs]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_how_a_keeper_of_a_newer_release_ended_is_not_guessed(manager, start, home, end):
    attempt = await left_by_a_newer_release(manager, start, home)
    async with start():
        os.kill(attempts.state(attempts.directory(home, attempt.uid)).pid, end)
        ended = await manager.wait_end("t1")

    assert (ended.reason, survivors(attempt.uid)) == ("agent_error.protocol", [])


async def test_a_keeper_of_a_newer_release_is_not_ended_because_its_agent_is_unknown_here(manager, start, home):
    attempt = await left_by_a_newer_release(manager, start, home)
    before = survivors(attempt.uid)
    async with start(GATEWAY_ONLY_AGENTS="talk"):
        await the_gateway_answers(manager)

    assert (survivors(attempt.uid), attempts.found(home)) == (before, [attempt.uid])
    Stranger.of(home, attempt.uid).end()
    await wait_until(lambda: survivors(attempt.uid) == [])


async def test_of_an_agent_whose_keeper_is_killed_nothing_survives(manager, start, home):
    async with start() as gateway:
        assert gateway.crew._cgroups.place is not None, "run this test as root, on Linux 5.14 or newer"
        attempt = await manager.offer("t1", prompt="vanish\nsay up\nwait")
        await manager.wait(lambda: attempt.texts("message"))
        assert len(survivors(attempt.uid)) == 2  # what vanished has the name in its command line
        os.kill(attempts.state(attempts.directory(home, attempt.uid)).pid, signal.SIGKILL)

        with anyio.fail_after(5):
            await wait_until(lambda: not survivors(attempt.uid))
        end = await manager.wait_end("t1")
        assert end.reason == "supervisor_died"
        await the_host_still_works(manager)
        await wait_until(lambda: not os.path.exists(gateway.crew._cgroups.path(attempt.uid)))


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
