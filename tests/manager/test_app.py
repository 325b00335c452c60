"""The manager as a process: how it starts, how it ends, and what it says about it."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from manager import app
from manager.settings import Settings
from tests.manager.routes.world import Frame, frames


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextmanager
def process(home: Path, *flags: str, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-m", "manager", "--port", "0", "--home", str(home), "--print-ready", *flags]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
    ) as running:
        try:
            yield running
        finally:
            if running.poll() is None:
                running.kill()


def ready(running: subprocess.Popen[str]) -> dict[str, Any]:
    assert running.stdout is not None
    line = running.stdout.readline()
    assert line, running.communicate(timeout=10)[1]
    facts: dict[str, Any] = json.loads(line)
    return facts


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(tmp_path: Path, number: signal.Signals):
    with process(tmp_path) as running:
        facts = ready(running)
        assert httpx.get(facts["url"] + "/readyz").status_code == 200
        running.send_signal(number)
        _, said = running.communicate(timeout=20)

    assert running.returncode == 0, said
    assert '"event": "stopped"' in said


def test_the_first_token_is_written_for_its_owner_alone_and_not_logged(tmp_path: Path):
    token_file = tmp_path / "token"
    with process(tmp_path, "--bootstrap-token-file", str(token_file)) as running:
        facts = ready(running)
        token = token_file.read_text().strip()
        answer = httpx.get(facts["url"] + "/api/tasks", headers={"Authorization": f"Bearer {token}"})
        running.terminate()
        _, said = running.communicate(timeout=20)
    with process(tmp_path, "--bootstrap-token-file", str(token_file)) as again:
        ready(again)

    assert answer.status_code == 200
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    assert token not in said
    assert token_file.read_text().strip() == token


def test_a_wrong_setting_ends_it_with_78_and_names_it(tmp_path: Path):
    with process(tmp_path, env={"MANAGER_HOST": "0.0.0.0"}) as running:
        _, said = running.communicate(timeout=20)

    assert running.returncode == 78
    assert "MANAGER_HOST" in said
    assert "--insecure-listen" in said


def test_a_port_that_is_taken_is_named(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with process(tmp_path, "--port", str(port)) as running:
            _, said = running.communicate(timeout=20)

    assert running.returncode == 1
    assert f"127.0.0.1:{port}" in said


def test_two_managers_do_not_share_a_home(tmp_path: Path):
    with process(tmp_path) as first:
        ready(first)
        with process(tmp_path) as second:
            _, said = second.communicate(timeout=20)

    assert second.returncode == 1
    assert "another manager" in said


def test_a_service_manager_is_told_that_it_is_ready_alive_and_stopping(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hears:
        hears.bind(str(tmp_path / "notify"))
        hears.settimeout(20)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with process(tmp_path / "home", env=env) as running:
            said = b""
            while b"READY=1" not in said or said.count(b"WATCHDOG=1") < 3:
                said += hears.recv(1000)
            running.terminate()
            while b"STOPPING=1" not in said:
                said += hears.recv(1000)
            running.communicate(timeout=20)

    assert running.returncode == 0


def test_a_descriptor_is_told_that_it_is_ready(tmp_path: Path):
    reader, writer = os.pipe()
    argv = [sys.executable, "-m", "manager", "--port", "0", "--home", str(tmp_path), "--ready-fd", str(writer)]
    with subprocess.Popen(argv, pass_fds=[writer], stderr=subprocess.DEVNULL) as running, os.fdopen(reader) as line:
        os.close(writer)
        facts = json.loads(line.readline())
        running.terminate()

    assert facts["url"].startswith("http://127.0.0.1:")


async def test_a_reader_is_told_of_the_stop_and_a_new_manager_goes_on_where_it_was(tmp_path: Path):
    seen: list[Frame] = []
    token_file = tmp_path / "token"
    with process(tmp_path, "--bootstrap-token-file", str(token_file)) as running:
        facts = await anyio.to_thread.run_sync(ready, running)
        headers = {"Authorization": f"Bearer {token_file.read_text().strip()}"}
        async with httpx.AsyncClient(base_url=facts["url"], headers=headers, timeout=10) as client:
            task = (await client.post("/api/tasks", json={"prompt": "p", "agentType": "claude"})).json()
            path = f"/api/tasks/{task['id']}/events"
            async with client.stream("GET", path, headers={"Accept": "text/event-stream"}) as response:
                running.terminate()
                seen = [frame async for frame in frames(response)]
    with process(tmp_path) as running:
        facts = await anyio.to_thread.run_sync(ready, running)
        async with httpx.AsyncClient(base_url=facts["url"], headers=headers, timeout=10) as client:
            page = (await client.get(path, params={"after": 1})).json()
            kept = (await client.get(f"/api/tasks/{task['id']}")).json()

    assert seen[-1].event == "drain"
    assert (page["verdict"], page["latestId"], kept["status"]) == ("ok", 1, "queued")


async def test_a_loop_that_fails_ends_the_whole_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def broken(self: object) -> None:
        raise RuntimeError("the dispatcher is broken")

    monkeypatch.setattr("manager.runtime.dispatcher.Dispatcher.run", broken)
    with pytest.raises(ExceptionGroup) as caught, anyio.fail_after(10):
        await app.run(Settings(home=str(tmp_path), port=0), lambda facts: None)

    assert caught.group_contains(RuntimeError, match="the dispatcher is broken")


@pytest.mark.parametrize(
    ("chosen", "own"),
    [
        (Settings(), {"http://127.0.0.1:5", "http://localhost:5", "http://[::1]:5"}),
        (Settings(host="10.0.0.1", insecure_listen=True), {"http://10.0.0.1:5"}),
        (
            Settings(
                host="10.0.0.1", insecure_listen=True, public_url="https://f.example/", origins=("https://g.example",)
            ),
            {"http://10.0.0.1:5", "https://f.example", "https://g.example"},
        ),
    ],
)
def test_only_our_own_origins_and_those_named_may_write(chosen: Settings, own: set[str]):
    assert app.origins(chosen, 5) == own
