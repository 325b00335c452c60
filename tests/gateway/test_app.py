"""The gateway as a process: how it begins, how it ends, and what it leaves to the next."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import psutil
import pytest

from gateway.runtime import attempt as attempts
from gateway.runtime.process import Keeper
from shared_types.messages import Heartbeat, Registered, TaskCompleted
from tests.gateway.conftest import environment

ROOT = Path(__file__).parents[2]


class Program:
    def __init__(self, process):
        self.process, self.ready, self.said = process, None, b""

    @property
    def pid(self):
        return self.process.pid

    def signal(self, number):
        self.process.send_signal(number)

    async def wait(self):
        with anyio.fail_after(30):
            return await self.process.wait()

    async def _listen(self):
        if self.process.stderr is not None:
            async for chunk in self.process.stderr:
                self.said += chunk


@asynccontextmanager
async def gateway(home, manager, *argv, ready=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings):
    """A gateway process; killed at the end if it still runs."""
    env = {**environment(home, manager, **settings), "PYTHONPATH": str(ROOT)}
    process = await anyio.open_process(
        [sys.executable, "-P", "-m", "gateway", "--print-ready", *argv],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
    )
    program = Program(process)
    async with anyio.create_task_group() as group:
        group.start_soon(program._listen)
        try:
            if ready:
                with anyio.fail_after(30):
                    program.ready = json.loads(await process.stdout.receive())
            yield program
        finally:
            with anyio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                await process.wait()
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await process.aclose()


async def test_it_says_when_it_is_ready_and_who_it_is(home, manager):
    async with gateway(home, manager) as program:
        assert program.ready["hostId"] == "h1"
        assert program.ready["pid"] == program.pid
        assert program.ready["agents"] == ["fake", "quick", "talk"]
        assert manager.is_connected


async def test_told_to_end_it_leaves_its_agents_to_their_keepers_and_the_next_adopts_them(home, manager, tmp_path):
    async with gateway(home, manager) as program:
        attempt = await manager.offer("t1", prompt=f"say one\nawait {tmp_path}/go\nsay two")
        await manager.wait(lambda: attempt.texts("message"))
        program.signal(signal.SIGTERM)
        assert await program.wait() == 0
    assert attempts.is_kept(home / "attempts" / attempt.uid)

    async with gateway(home, manager):
        (tmp_path / "go").touch()
        end = await manager.wait_end("t1")

    assert isinstance(end, TaskCompleted)
    assert end.result.output == "one\ntwo\n"


async def test_killed_it_neither_kills_nor_doubles_its_agents(home, manager, tmp_path):
    async with gateway(home, manager) as program:
        attempt = await manager.offer("t1", prompt=f"touch {tmp_path}/runs\nsay one\nawait {tmp_path}/go\nexit 42")
        await manager.wait(lambda: attempt.texts("message"))
        program.signal(signal.SIGKILL)
        await program.wait()

    for _ in range(3):
        async with gateway(home, manager) as program:
            program.signal(signal.SIGKILL)
            await program.wait()

    async with gateway(home, manager):
        (tmp_path / "go").touch()
        end = await manager.wait_end("t1")

    assert (end.reason, end.result.exit_code) == ("exit_nonzero", 42)
    assert (tmp_path / "runs").read_text() == "x"
    assert len({started.pid for started in attempt.started}) == 1
    assert "".join(attempt.texts("message")[:-1]) == "one\n"


async def test_a_draining_gateway_lives_on_until_its_tasks_are_done(home, manager, tmp_path):
    async with gateway(home, manager, GATEWAY_DRAIN_TIMEOUT="30s") as program:
        running = await manager.offer("t1", prompt=f"say one\nawait {tmp_path}/go\nsay two")
        await manager.wait(lambda: running.texts("message"))
        program.signal(signal.SIGINT)
        await manager.wait(lambda: any(beat.config and beat.config.draining for beat in manager.said(Heartbeat)))
        late = await manager.offer("t2")
        await manager.wait(lambda: late.refused)
        assert late.refused.reason == "draining"
        (tmp_path / "go").touch()

        assert await program.wait() == 0
    assert isinstance(manager.attempts["t1"].end, TaskCompleted)
    assert attempts.found(home) == []


async def test_told_twice_it_stops_its_tasks_and_says_so_before_it_leaves(home, manager):
    async with gateway(home, manager, GATEWAY_DRAIN_TIMEOUT="1h") as program:
        attempt = await manager.offer("t1", prompt="say one\nwait")
        await manager.wait(lambda: attempt.texts("message"))
        program.signal(signal.SIGTERM)
        await manager.wait(lambda: any(beat.config and beat.config.draining for beat in manager.said(Heartbeat)))
        program.signal(signal.SIGTERM)

        assert await program.wait() == 0
    assert attempt.end.reason == "aborted_by_user"
    assert attempts.found(home) == []


async def test_quit_stops_its_tasks_at_once(home, manager):
    async with gateway(home, manager) as program:
        attempt = await manager.offer("t1", prompt="say one\nwait")
        await manager.wait(lambda: attempt.texts("message"))
        program.signal(signal.SIGQUIT)

        assert await program.wait() == 0
    assert attempt.end.reason == "aborted_by_user"


async def test_hup_makes_it_look_for_agents_again(home, manager, tmp_path):
    hidden, shown = tmp_path / "hidden", tmp_path / "late"
    hidden.write_text("#!/bin/sh\n")
    hidden.chmod(0o755)
    with (home / "gateway.toml").open("a") as file:
        file.write(f'[agents.late]\nargv = ["{shown}"]\n')
    async with gateway(home, manager, GATEWAY_ONLY_AGENTS="late") as program:
        assert program.ready["agents"] == []
        hidden.rename(shown)
        program.signal(signal.SIGHUP)
        await manager.wait_connected(2)

    assert manager.greetings[1].capabilities.agents == ("late",)


async def test_a_revoked_gateway_ends_with_77(home, manager):
    manager.refusal = Registered(ok=False, error="this host was revoked", code="REVOKED")
    async with gateway(home, manager, ready=False) as program:
        assert await program.wait() == 77


async def test_a_gateway_that_is_revoked_while_it_works_ends_with_77_and_leaves_its_agents_alone(home, manager):
    async with gateway(home, manager) as program:
        attempt = await manager.offer("t1", prompt="say one\nwait")
        await manager.wait(lambda: attempt.texts("message"))
        await manager.close(4401, "REVOKED: this host's token is revoked")

        assert await program.wait() == 77
    assert attempts.is_kept(home / "attempts" / attempt.uid)
    await (await Keeper.adopt(home, attempt.uid)).stop("abort", 0)


@pytest.mark.parametrize(
    ("argv", "settings", "named"),
    [
        ((), {"GATEWAY_MAX_CONCURRENT": "many"}, "GATEWAY_MAX_CONCURRENT"),
        (("--server-url", "nowhere"), {}, "--server-url"),
        ((), {"FLEETGATE_HOME": "/proc/nowhere", "GATEWAY_ONLY_AGENTS": "gemini"}, "FLEETGATE_HOME"),
    ],
)
async def test_wrong_settings_end_it_with_78_and_the_name(home, manager, argv, settings, named):
    async with gateway(home, manager, *argv, ready=False, **settings) as program:
        assert await program.wait() == 78
        await anyio.lowlevel.checkpoint()

    assert named in program.said.decode()


async def test_a_second_gateway_in_the_same_home_is_refused(home, manager):
    async with gateway(home, manager), gateway(home, manager, ready=False) as second:
        assert await second.wait() == 75

    assert b"another gateway" in second.said
    assert len(manager.greetings) == 1


@contextmanager
def service_manager(tmp_path):
    """Its socket, and what arrives there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hears:
        hears.bind(str(tmp_path / "notify"))
        hears.setblocking(False)
        yield hears, {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}


async def told(hears, wanted, times=1):
    """All that is said until `wanted` was."""
    said = []
    with anyio.fail_after(20):
        while sum(wanted in lines for lines in said) < times:
            await anyio.wait_readable(hears)
            said.append(hears.recv(1000).decode().split("\n"))
    return said


async def test_a_service_manager_is_told_that_it_is_ready_alive_and_stopping(home, manager, tmp_path):
    with service_manager(tmp_path) as (hears, env):
        async with gateway(home, manager, GATEWAY_DRAIN_TIMEOUT="1h", **env) as program:
            said = await told(hears, "WATCHDOG=1", 3)
            running = await manager.offer("t1", prompt=f"say one\nnames\nawait {tmp_path}/go")
            await manager.wait(lambda: "HOME" in "".join(running.texts("message")))
            program.signal(signal.SIGTERM)
            stopping = (await told(hears, "STOPPING=1"))[-1]
            await told(hears, "WATCHDOG=1")
            (tmp_path / "go").touch()

            assert await program.wait() == 0
    assert sum("READY=1" in lines for lines in said) == 1
    assert "EXTEND_TIMEOUT_USEC=3610000000" in stopping
    assert "NOTIFY_SOCKET" not in "".join(running.texts("message"))


async def test_it_is_ready_though_its_manager_is_away(home, manager, tmp_path):
    with service_manager(tmp_path) as (hears, env):
        settings = {**env, "GATEWAY_SERVER_URL": "ws://127.0.0.1:1"}
        async with gateway(home, manager, ready=False, **settings) as program:
            await told(hears, "READY=1")
            program.signal(signal.SIGTERM)

            await told(hears, "STOPPING=1")
            assert await program.wait() == 0


async def test_a_service_manager_that_does_not_listen_does_not_matter(home, manager, tmp_path):
    async with gateway(home, manager, NOTIFY_SOCKET=str(tmp_path / "nobody"), WATCHDOG_USEC="2000") as program:
        await manager.offer("t1", prompt="say x")
        assert isinstance(await manager.wait_end("t1"), TaskCompleted)
        program.signal(signal.SIGTERM)
        assert await program.wait() == 0


async def test_at_rest_it_is_small(home, manager):
    async with gateway(home, manager) as program:
        memory = psutil.Process(program.pid).memory_info().rss / 1024 / 1024

    assert memory < 45


async def test_neither_token_nor_prompt_is_in_its_log(home, manager):
    async with gateway(home, manager, LOG_LEVEL="debug") as program:
        await manager.offer("t1", prompt="say a-secret-prompt", env={"KEY": "a-secret-value"})
        await manager.wait_end("t1")
        program.signal(signal.SIGTERM)
        await program.wait()

    log = program.said.decode()
    assert "attempt.ended" in log
    assert manager.token not in log
    assert "a-secret" not in log


async def test_its_home_is_its_owners_alone(home, manager, tmp_path):
    fresh = tmp_path / "fresh"
    settings = {"FLEETGATE_HOME": str(fresh), "GATEWAY_CWD": str(tmp_path), "GATEWAY_ONLY_AGENTS": "gemini"}
    async with gateway(home, manager, **settings):
        assert os.stat(fresh).st_mode & 0o777 == 0o700
        assert os.stat(fresh / "attempts").st_mode & 0o777 == 0o700


def nobody_reads():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def nobody_takes():
    """A pipe that is full: somebody could read, and does not."""
    _, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    return writer


def no_space_left():
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("make", [nobody_reads, nobody_takes, no_space_left])
async def test_nobody_who_reads_what_it_says_does_not_matter(home, manager, make):
    deaf = make()
    async with gateway(home, manager, ready=False, stdout=deaf, stderr=deaf):
        await manager.wait_connected()
        await manager.offer("t1", prompt="say x")

        assert isinstance(await manager.wait_end("t1"), TaskCompleted)
    os.close(deaf)
