"""A gateway, a manager, an agent: what must be true from end to end on one host."""

import os
from pathlib import Path

import anyio
import msgspec
import pytest

from gateway.agents.command import CommandDriver
from gateway.agents.fold import MAX_SAYS
from gateway.runtime import attempt as attempts
from gateway.runtime import kept
from shared_types.messages import (
    ConfigUpdate,
    GatewayConfig,
    Heartbeat,
    TaskAbort,
    TaskAccepted,
    TaskCompleted,
    TaskEvents,
    TaskFailed,
    TaskInput,
)


def processes_of(uid):
    """Living processes that bear the attempt's cookie."""
    cookie, found = f"FLEETGATE_ATTEMPT={uid}".encode(), []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and cookie in (entry / "environ").read_bytes().split(b"\0"):
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                found += [int(entry.name)] if state != "Z" else []
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def keepers_of(home):
    """Processes that run this home's keeper, waiting or not."""
    program = str(home / "keeper").encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            found += [entry.name] if entry.name.isdigit() and program in (entry / "cmdline").read_bytes() else []
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


async def until(condition, within_s=15):
    with anyio.fail_after(within_s):
        while True:
            if condition():
                return
            await anyio.sleep(0.01)


async def test_a_task_runs_and_everything_is_told(manager, start):
    async with start():
        attempt = await manager.offer("t1", prompt="say hello\nsay world\ngrumble hm")
        end = await manager.wait_end("t1")

    assert isinstance(end, TaskCompleted)
    assert end.result.success
    assert end.result.exit_code == 0
    assert "".join(attempt.texts("message")[:-1]) == "hello\nworld\n"
    assert attempt.texts("message")[-1] == end.result.output == "hello\nworld\n"
    assert attempt.texts("log") == ["hm"]
    assert attempt.started[0].pid
    assert manager.heard.index(attempt.started[0]) < manager.heard.index(manager.said(TaskEvents)[0])


async def test_a_keeper_waits_for_the_next_attempt_and_goes_with_the_gateway(manager, start, home):
    async with start(GATEWAY_WARM_KEEPERS="2") as gateway:
        for number in range(3):
            await until(lambda: len(gateway.warm._ready) == 2)
            first = gateway.warm._ready[0]
            await manager.offer(f"t{number}", prompt="say x")
            assert isinstance(await manager.wait_end(f"t{number}"), TaskCompleted)
            assert not first.is_alive
        with anyio.fail_after(10):
            await gateway.crew.wait_idle()
        await until(lambda: len(gateway.warm._ready) == 2)

    await until(lambda: not keepers_of(home))


async def test_a_gateway_that_keeps_none_warm_starts_them_cold(manager, start, home):
    async with start(GATEWAY_WARM_KEEPERS="0") as gateway:
        await manager.offer("t1", prompt="say x")
        assert isinstance(await manager.wait_end("t1"), TaskCompleted)
        assert not gateway.warm._ready

    await until(lambda: not keepers_of(home))


async def test_nothing_is_spawned_before_the_word_to_start(manager, start, tmp_path):
    manager.starts = False
    async with start() as gateway:
        attempt = await manager.offer("t1", prompt=f"touch {tmp_path}/ran")
        await manager.wait(lambda: manager.said(TaskAccepted))
        manager.cut()
        await manager.wait_connected(2)

        assert attempts.found(tmp_path / "home") == []
        assert gateway.crew.alive == 0
    assert manager.greetings[1].running == ()
    assert attempt.started == []
    assert not (tmp_path / "ran").exists()


async def test_an_attempt_is_forgotten_when_its_end_is_confirmed(manager, start, home):
    async with start() as gateway:
        await manager.offer("t1", prompt="say x")
        await manager.wait_end("t1")
        with anyio.fail_after(10):
            await gateway.crew.wait_idle()

        assert attempts.found(home) == []


async def test_an_attempt_is_kept_until_its_end_is_confirmed(manager, start, home):
    manager.confirms = False
    async with start():
        attempt = await manager.offer("t1", prompt="say x")
        await manager.wait_end("t1")

    assert attempts.found(home) == [attempt.uid]


async def test_a_failure_is_told_with_its_reason(manager, start):
    async with start():
        await manager.offer("t1", prompt="grumble it broke\nexit 3")
        end = await manager.wait_end("t1")

    assert isinstance(end, TaskFailed)
    assert (end.reason, end.result.exit_code) == ("exit_nonzero", 3)
    assert "it broke" in end.error


async def test_an_answer_of_300_kilobytes_arrives_whole_and_the_result_has_its_tail(manager, start):
    async with start():
        attempt = await manager.offer("t1", prompt="flood 3000")
        end = await manager.wait_end("t1")

    whole = "".join(f"{n:08d} " + "x" * 90 + "\n" for n in range(3000))
    assert attempt.texts("message")[-1] == whole
    assert "".join(attempt.texts("message")[:-1]) == whole
    assert whole.endswith(end.result.output)
    assert end.result.output_truncated


async def test_an_answer_of_megabytes_does_not_break_the_line(manager, start):
    async with start():
        attempt = await manager.offer("t1", prompt="flood 30000")
        end = await manager.wait_end("t1")

    assert isinstance(end, TaskCompleted)
    assert attempt.events[-1].data["truncated"] is True
    assert len(manager.greetings) == 1


async def test_a_killed_agent_is_told_as_killed(manager, start):
    async with start():
        await manager.offer("t1", prompt="die")

        assert (await manager.wait_end("t1")).reason == "killed_by_signal"


# --- what is refused


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"agent": "nobody"}, "unknown_agent"),
        ({"cwd": "/etc"}, "cwd_not_allowed"),
        ({"cwd": "relative"}, "cwd_not_allowed"),
        ({"cwd": "{work}/none"}, "cwd_missing"),
        ({"env": {"LD_PRELOAD": "/x.so"}}, "env_not_allowed"),
        ({"mode": "plan"}, "mode_not_allowed"),
        ({"model": "--version"}, "spawn_failed"),
    ],
)
async def test_what_this_host_will_not_run_is_refused_with_its_reason(manager, start, tmp_path, wish, reason):
    wish = {name: value.format(work=tmp_path / "work") if name == "cwd" else value for name, value in wish.items()}
    async with start():
        attempt = await manager.offer("t1", **wish)
        await manager.wait(lambda: attempt.refused)

    assert attempt.refused.reason == reason
    assert attempt.refused.details
    assert not attempt.accepted


async def test_slots_are_kept_whatever_the_manager_believes(manager, start, tmp_path):
    async with start(GATEWAY_MAX_CONCURRENT="1") as gateway:
        await manager.offer("t1", prompt="say up\nwait")
        await manager.wait(lambda: manager.attempts["t1"].texts("message"))
        second = await manager.offer("t2", prompt="say x")
        await manager.wait(lambda: second.refused)
        assert second.refused.reason == "no_free_slot"

        await manager.say(TaskAbort(task_id="t1", attempt=1, grace_ms=0))
        await manager.wait_end("t1")
        await until(lambda: gateway.crew.alive == 0)
        await manager.offer("t3", prompt="say x")

        assert isinstance(await manager.wait_end("t3"), TaskCompleted)


async def test_a_manager_may_ask_for_fewer_slots_and_is_told_what_holds(manager, start):
    async with start(GATEWAY_MAX_CONCURRENT="2"):
        await manager.say(ConfigUpdate(config=GatewayConfig(max_concurrent=0, heartbeat_interval=1)))
        await manager.wait(lambda: manager.said(Heartbeat) and manager.said(Heartbeat)[-1].config)
        attempt = await manager.offer("t1")
        await manager.wait(lambda: attempt.refused)

    config = next(beat.config for beat in reversed(manager.said(Heartbeat)) if beat.config)
    assert (config.max_concurrent, config.heartbeat_interval) == (0, 1000)
    assert attempt.refused.reason == "no_free_slot"


async def test_a_draining_host_takes_nothing_new(manager, start):
    async with start():
        await manager.say(ConfigUpdate(config=GatewayConfig(draining=True)))
        await manager.wait(lambda: manager.said(Heartbeat) and manager.said(Heartbeat)[-1].config)
        attempt = await manager.offer("t1")
        await manager.wait(lambda: attempt.refused)

    assert attempt.refused.reason == "draining"


@pytest.mark.parametrize("uid", ["../../etc", ".hidden", "a/b", ""])
async def test_a_name_that_leads_elsewhere_is_refused(manager, start, monkeypatch, uid):
    monkeypatch.setattr("tests.fakes.manager.secrets.token_hex", lambda _: uid or "-")
    async with start():
        attempt = await manager.offer("t1")
        await manager.wait(lambda: attempt.refused)

    assert attempt.refused.reason == "spawn_failed"


# --- the agent's surroundings


async def test_an_agent_sees_what_it_may_and_no_secret_of_ours(manager, start, tmp_path):
    async with start(ALLOWED="yes", FORBIDDEN="no", GATEWAY_AGENT_ENV="GATEWAY_*,EXTRA", EXTRA="more"):
        prompt = "cwd\nenv ALLOWED\nenv EXTRA\nenv TASK\nenv CI\nenv TERM\nnames"
        await manager.offer("t1", prompt=prompt, env={"TASK": "mine"}, cwd=str(tmp_path / "work"))
        end = await manager.wait_end("t1")

    cwd, allowed, extra, task, ci, term, names = end.result.output.splitlines()
    assert (cwd, allowed, extra, task, ci, term) == (str(tmp_path / "work"), "yes", "more", "mine", "1", "dumb")
    assert "FORBIDDEN" not in names
    assert not [name for name in names.split() if name.startswith(("GATEWAY", "MANAGER"))]


async def test_temporary_files_go_to_a_place_of_the_attempts_own_and_go_with_it(manager, start, home):
    async with start() as gateway:
        attempt = await manager.offer("t1", prompt="env TMPDIR")
        tmp = Path((await manager.wait_end("t1")).result.output.strip())
        with anyio.fail_after(10):
            await gateway.crew.wait_idle()

    assert tmp.is_relative_to(home / "attempts" / attempt.uid / "private")
    assert not tmp.exists()


async def test_no_value_of_a_tasks_environment_is_written_to_disk(manager, start, home):
    manager.confirms = False
    async with start():
        await manager.offer("t1", prompt="say x", env={"TOKEN": "a-very-secret-value"})
        await manager.wait_end("t1")

    kept = [file for file in (home / "attempts").rglob("*") if file.is_file()]
    assert len(kept) > 3
    assert not [file for file in kept if b"a-very-secret-value" in file.read_bytes()]


# --- stopping


async def test_an_abort_ends_the_whole_tree(manager, start):
    async with start():
        attempt = await manager.offer("t1", prompt="leave\nsay up\nwait")
        await manager.wait(lambda: attempt.texts("message"))
        assert len(processes_of(attempt.uid)) >= 2
        await manager.say(TaskAbort(task_id="t1", attempt=1))
        end = await manager.wait_end("t1")

    assert (type(end), end.reason) == (TaskFailed, "aborted_by_user")
    assert processes_of(attempt.uid) == []


async def test_a_stubborn_agent_is_killed_after_its_grace(manager, start):
    async with start():
        attempt = await manager.offer("t1", prompt="stubborn\nwait")
        await manager.wait(lambda: attempt.texts("message"))
        await manager.say(TaskAbort(task_id="t1", attempt=1, grace_ms=100))
        end = await manager.wait_end("t1")

    assert end.reason == "aborted_by_user"
    assert processes_of(attempt.uid) == []


async def test_what_an_agent_leaves_behind_is_ended_with_it(manager, start):
    async with start():
        attempt = await manager.offer("t1", prompt="leave\nsay done")
        end = await manager.wait_end("t1")

    assert isinstance(end, TaskCompleted)
    assert processes_of(attempt.uid) == []


async def test_a_task_that_takes_too_long_times_out(manager, start):
    async with start():
        await manager.offer("t1", prompt="say up\nwait", timeout=300)

        assert (await manager.wait_end("t1")).reason == "run_timeout"


async def test_the_hosts_limit_holds_when_a_task_asks_for_more(manager, start):
    async with start(GATEWAY_TASK_TIMEOUT="300ms"):
        await manager.offer("t1", prompt="say up\nwait", timeout=3_600_000)

        assert (await manager.wait_end("t1")).reason == "run_timeout"


async def test_an_agent_that_says_nothing_at_first_is_stopped(manager, start):
    async with start():
        await manager.offer("t1", agent="quick", prompt="wait")

        assert (await manager.wait_end("t1")).reason == "start_timeout"


async def test_an_agent_that_falls_silent_is_stopped(manager, start):
    async with start():
        await manager.offer("t1", agent="quick", prompt="say up\nwait")

        assert (await manager.wait_end("t1")).reason == "idle_timeout"


async def test_a_tasks_own_patience_goes_before_the_agents(manager, start):
    async with start():
        await manager.offer("t1", prompt="say up\nwait", idle_timeout=200)

        assert (await manager.wait_end("t1")).reason == "idle_timeout"


# --- input


async def test_follow_up_input_reaches_a_running_agent_once(manager, start):
    async with start():
        attempt = await manager.offer("t1", agent="talk", prompt="say up\nlisten")
        await manager.wait(lambda: attempt.texts("message"))
        for _ in range(2):
            await manager.say(TaskInput(task_id="t1", content="say again", input_id="i1"))
        await manager.say(TaskInput(task_id="t1", content="exit 0", input_id="i2"))
        end = await manager.wait_end("t1")

    assert isinstance(end, TaskCompleted)
    assert end.result.output == "up\nagain\n"
    assert [event.data["inputId"] for event in attempt.events if event.type == "input"] == ["i1", "i2"]


def refusals(attempt):
    """Input that the agent did not get: its id and why."""
    data = [event.data for event in attempt.events if event.type == "input" and event.data["state"] == "refused"]
    return [(said["inputId"], said["code"]) for said in data]


async def test_input_for_an_agent_that_takes_none_is_told_as_refused(manager, start):
    async with start():
        attempt = await manager.offer("t1", prompt="say up\nwait")
        await manager.wait(lambda: attempt.texts("message"))
        await manager.say(TaskInput(task_id="t1", content="say more", input_id="i1"))
        await manager.wait(lambda: refusals(attempt))
        await manager.say(TaskAbort(task_id="t1", attempt=1))
        await manager.wait_end("t1")

    assert refusals(attempt) == [("i1", "not_supported")]
    assert 'The agent does not get the input "say more": it takes no input while it works.' in attempt.texts("input")


async def test_input_that_was_refused_is_refused_once_whoever_says_it_again(manager, start, tmp_path):
    async with start():
        attempt = await manager.offer("t1", prompt=f"say up\nawait {tmp_path}/go")
        await manager.wait(lambda: attempt.texts("message"))
        for _ in range(2):
            await manager.say(TaskInput(task_id="t1", content="more", input_id="i1"))
        await manager.wait(lambda: refusals(attempt))

    attempt.inbox.heard = 0  # this manager has forgotten all of it
    attempt.events.clear()
    async with start():
        await manager.say(TaskInput(task_id="t1", content="more", input_id="i1"))
        await manager.say(TaskInput(task_id="t1", content="x" * 100, input_id="\u20ac\0" * 60))
        await manager.wait(lambda: len(refusals(attempt)) == 2)
        (tmp_path / "go").touch()
        assert isinstance(await manager.wait_end("t1"), TaskCompleted)

    assert refusals(attempt) == [("i1", "not_supported"), ("\u20ac\0" * 60, "not_supported")]


async def test_input_for_an_agent_that_has_closed_its_stdin_is_told_as_refused(manager, start):
    async with start():
        attempt = await manager.offer("t1", agent="talk", prompt="deaf\nwait")
        await manager.wait(lambda: attempt.texts("message"))
        await manager.say(TaskInput(task_id="t1", content="say more", input_id="i1"))
        await manager.wait(lambda: refusals(attempt))
        await manager.say(TaskAbort(task_id="t1", attempt=1))
        await manager.wait_end("t1")

    assert refusals(attempt) == [("i1", "closed")]
    assert 'The agent does not get the input "say more": it reads no input any more.' in attempt.texts("input")


async def test_input_beyond_what_may_wait_is_refused_though_the_agent_does_not_read(manager, start):
    async with start():
        attempt = await manager.offer("t1", agent="talk", prompt="say up\nwait")
        await manager.wait(lambda: attempt.texts("message"))
        await manager.say(TaskInput(task_id="t1", content="x" * 900_000, input_id="big"))
        for number in range(MAX_SAYS + 30):
            await manager.say(TaskInput(task_id="t1", content="x" * 200_000, input_id=f"i{number}"))
        await manager.wait(lambda: refusals(attempt))
        await manager.say(TaskAbort(task_id="t1", attempt=1, grace_ms=0))
        await manager.wait_end("t1")

    assert {code for _, code in refusals(attempt)} == {"full"}


# --- lines that break, managers that are away


async def test_a_cut_line_loses_and_doubles_nothing(manager, start, tmp_path):
    async with start():
        attempt = await manager.offer(
            "t1", prompt=f"flood 300\nawait {tmp_path}/go\nflood 20000\nawait {tmp_path}/end\nsay last"
        )
        await manager.wait(lambda: attempt.inbox.heard > 300)
        manager.cut()
        await manager.wait_connected(2)
        (tmp_path / "go").touch()
        for connection in (3, 4, 5):
            await manager.wait(lambda before=attempt.inbox.heard: attempt.inbox.heard > before)
            manager.cut()
            await manager.wait_connected(connection)
        (tmp_path / "end").touch()
        await manager.wait_end("t1")

    lines = "".join(event.content for event in attempt.events if event.data.get("delta")).splitlines()
    expected = [f"{n:08d} " + "x" * 90 for n in [*range(300), *range(20000)]]
    assert len(lines) == len(expected) + 1
    assert lines == [*expected, "last"]


async def test_minding_goes_on_while_the_manager_is_away_and_all_is_told_later(home, tmp_path, start, manager):
    manager.confirms = False  # the window fills up, as with a manager that is stuck
    async with start() as gateway:
        attempt = await manager.offer("t1", prompt="flood 50000\nsay end")
        await until(lambda: gateway.crew.alive == 0 and attempt.uid in attempts.found(home), 30)
        assert manager.attempts["t1"].end is None
        manager.confirms = True
        manager.cut()

        end = await manager.wait_end("t1")

    assert isinstance(end, TaskCompleted)
    lines = "".join(event.content for event in attempt.events if event.data.get("delta")).splitlines()
    assert len(lines) == 50_001


async def test_a_new_gateway_adopts_what_the_old_one_left(manager, start, tmp_path):
    async with start():
        attempt = await manager.offer("t1", prompt=f"say one\nawait {tmp_path}/go\nsay two")
        await manager.wait(lambda: attempt.texts("message"))
    pid = attempt.started[0].pid

    async with start():
        (tmp_path / "go").touch()
        end = await manager.wait_end("t1")

    (running,) = manager.greetings[1].running
    assert (running.task_id, running.attempt, running.uid) == ("t1", 1, attempt.uid)
    assert isinstance(end, TaskCompleted)
    assert end.result.output == "one\ntwo\n"
    assert {started.pid for started in attempt.started} == {pid}
    assert "".join(attempt.texts("message")[:-1]) == "one\ntwo\n"


async def test_what_ended_while_no_gateway_was_there_is_told(manager, start, tmp_path, home):
    async with start():
        attempt = await manager.offer("t1", prompt=f"say one\nawait {tmp_path}/go\nsay two\nexit 42")
        await manager.wait(lambda: attempt.texts("message"))
    (tmp_path / "go").touch()
    await until(lambda: attempts.ending(home / "attempts" / attempt.uid))

    async with start() as gateway:
        end = await manager.wait_end("t1")
        with anyio.fail_after(10):
            await gateway.crew.wait_idle()

    assert (end.reason, end.result.exit_code) == ("exit_nonzero", 42)
    assert "".join(attempt.texts("message")[:-1]) == "one\ntwo\n"
    assert attempts.found(home) == []


async def test_an_adopted_agent_can_be_talked_to_and_stopped(manager, start):
    async with start():
        attempt = await manager.offer("t1", agent="talk", prompt="say up\nlisten")
        await manager.wait(lambda: attempt.texts("message"))
    async with start():
        await manager.say(TaskInput(task_id="t1", content="say heard", input_id="i1"))
        await manager.wait(lambda: "heard\n" in "".join(attempt.texts("message")))
        await manager.say(TaskAbort(task_id="t1", attempt=1))
        end = await manager.wait_end("t1")

    assert end.reason == "aborted_by_user"
    assert processes_of(attempt.uid) == []


async def test_an_attempt_that_nobody_wants_any_more_is_stopped_and_forgotten(manager, start, home):
    async with start() as gateway:
        attempt = await manager.offer("t1", prompt="say up\nwait")
        await manager.wait(lambda: attempt.texts("message"))
        del manager.attempts["t1"]
        manager.cut()
        await manager.wait_connected(2)
        with anyio.fail_after(15):
            await gateway.crew.wait_idle()

    assert processes_of(attempt.uid) == []
    assert attempts.found(home) == []


async def test_a_keeper_that_died_is_told_as_such_and_its_agent_is_gone(manager, start, home):
    async with start():
        attempt = await manager.offer("t1", prompt="leave\nsay up\nwait")
        await manager.wait(lambda: attempt.texts("message"))
        os.kill(attempts.state(home / "attempts" / attempt.uid).pid, 9)
        end = await manager.wait_end("t1")

    assert end.reason == "supervisor_died"
    assert processes_of(attempt.uid) == []


async def test_after_a_restart_of_the_host_an_attempt_is_told_as_such(manager, start, home):
    async with start():
        attempt = await manager.offer("t1", prompt="say up\nwait")
        await manager.wait(lambda: attempt.texts("message"))
    directory = home / "attempts" / attempt.uid
    state = attempts.state(directory)
    os.kill(state.pid, 9)
    text = (directory / "state.json").read_text()
    (directory / "state.json").write_text(text.replace(state.boot_id, "another-boot"))

    async with start():
        end = await manager.wait_end("t1")

    assert end.reason == "host_restarted"
    assert (manager.greetings[1].boot_id or "").startswith(state.boot_id + ".")


async def test_a_driver_that_fails_ends_its_attempt_and_not_the_host(manager, start, monkeypatch):
    heard = CommandDriver.heard

    def stumble(driver, record):
        if record.data == b"poison":
            raise ZeroDivisionError
        return heard(driver, record)

    monkeypatch.setattr(CommandDriver, "heard", stumble)
    async with start():
        attempt = await manager.offer("t1", prompt="say before\nsay poison\nwait")
        end = await manager.wait_end("t1")
        await manager.offer("t2", prompt="say fine")
        other = await manager.wait_end("t2")

    assert (type(end), end.reason) == (TaskFailed, "agent_error.protocol")
    assert "before\n" in attempt.texts("message")
    assert isinstance(other, TaskCompleted)
    assert len(manager.greetings) == 1


async def test_an_agent_that_does_not_read_can_be_stopped_all_the_same(manager, start):
    async with start():
        attempt = await manager.offer("t1", agent="talk", prompt="say up\nwait")
        await manager.wait(lambda: attempt.texts("message"))
        for number in range(12):
            await manager.say(TaskInput(task_id="t1", content="x" * 900_000, input_id=f"i{number}"))
        await manager.say(TaskAbort(task_id="t1", attempt=1))
        end = await manager.wait_end("t1")

    assert end.reason == "aborted_by_user"


async def test_what_was_laid_out_and_never_begun_is_given_back(manager, start, home):
    manager.confirms = False
    async with start():
        attempt = await manager.offer("t1", prompt="say x")
        await manager.wait_end("t1")
    directory = home / "attempts" / attempt.uid
    for name in ("state.json", "journal", "exit.json", "lock"):
        (directory / name).unlink()
    attempt.end, attempt.inbox.heard = None, 0

    async with start():
        await manager.wait(lambda: attempt.refused)
        await until(lambda: attempts.found(home) == [])

    assert attempt.refused.reason == "draining"


async def test_what_was_laid_out_before_a_power_cut_may_have_run_though_no_trace_of_it_is_left(manager, start, home):
    manager.confirms = False
    async with start():
        attempt = await manager.offer("t1", prompt="say x")
        await manager.wait_end("t1")
    directory = home / "attempts" / attempt.uid
    for name in ("state.json", "journal", "exit.json", "lock"):
        (directory / name).unlink()
    this = kept.read(directory)
    assert this.boot_id
    kept.write(directory, msgspec.structs.replace(this, boot_id="another-boot"))
    attempt.end, attempt.inbox.heard = None, 0

    async with start():
        end = await manager.wait_end("t1")

    assert (end.reason, attempt.refused) == ("host_restarted", None)


async def test_an_attempt_whose_agent_is_declared_no_more_is_ended(manager, start, home):
    async with start():
        attempt = await manager.offer("t1", prompt="say up\nwait")
        await manager.wait(lambda: attempt.texts("message"))

    async with start(GATEWAY_ONLY_AGENTS="talk"):
        await until(lambda: attempts.found(home) == [])

    assert manager.greetings[1].running == ()
    assert processes_of(attempt.uid) == []


async def test_two_tasks_run_side_by_side(manager, start, tmp_path):
    async with start():
        await manager.offer("t1", prompt=f"await {tmp_path}/one\ntouch {tmp_path}/two\nsay 1")
        await manager.offer("t2", prompt=f"touch {tmp_path}/one\nawait {tmp_path}/two\nsay 2")

        assert (await manager.wait_end("t1")).result.output == "1\n"
        assert (await manager.wait_end("t2")).result.output == "2\n"


# --- base dialect


@pytest.fixture
def base(manager):
    manager.dialect = 1
    return manager


async def test_a_base_manager_is_served_in_plain_words(base, start):
    async with start():
        attempt = await base.offer("t1", prompt="say hello")
        end = await base.wait_end("t1")

    assert isinstance(end, TaskCompleted)
    assert (end.seq, end.attempt) == (None, None)
    assert attempt.started[0].pid is None
    assert "".join(attempt.texts("message")[:-1]) == "hello\n"


async def test_a_base_manager_hears_what_happened_while_it_was_away_and_nothing_twice(base, start, tmp_path):
    async with start():
        attempt = await base.offer("t1", prompt=f"say one\nawait {tmp_path}/go\nsay two")
        await base.wait(lambda: attempt.texts("message"))
        base.cut()
        (tmp_path / "go").touch()
        end = await base.wait_end("t1")

    assert isinstance(end, TaskCompleted)
    assert "".join(attempt.texts("message")[:-1]) == "one\ntwo\n"


async def test_a_base_task_outlives_its_gateway(base, start, tmp_path):
    async with start():
        attempt = await base.offer("t1", prompt=f"say one\nawait {tmp_path}/go\nsay two")
        await base.wait(lambda: attempt.texts("message"))

    async with start():
        (tmp_path / "go").touch()
        end = await base.wait_end("t1")

    assert isinstance(end, TaskCompleted)
    assert "".join(attempt.texts("message")[:-1]) == "one\ntwo\n"


@pytest.mark.parametrize("wish", [{"agent": "nobody"}, {"cwd": "/etc"}])
async def test_what_is_refused_is_a_failure_to_a_base_manager(base, start, wish):
    async with start():
        await base.offer("t1", **wish)

        assert isinstance(await base.wait_end("t1"), TaskFailed)
