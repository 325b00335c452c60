"""One more machine, as the README says: `invite` here, `join` and `gateway` there, and a task runs on it."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from e2e.harness import Gateway, Manager, environment, start, wait_nothing_left

Person = Callable[..., Awaitable[str]]

DENIED = 4  # an exit code
COUNT = '[agents.count]\nargv = ["/usr/bin/wc", "-w"]\n'


async def fleetgate(home: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """One command of a person, with that person's home."""
    home.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-P", "-m", "client", *arguments]
    return await anyio.run_process(argv, cwd=home, env=environment(home, env), check=False)


@pytest.fixture
def person(manager: Manager, tmp_path: Path) -> Person:
    """Runs a command that must go well; what it prints."""

    async def command(*arguments: str) -> str:
        access = {"FLEETGATE_URL": manager.url, "FLEETGATE_TOKEN": manager.token}
        done = await fleetgate(tmp_path / "person", *arguments, **access)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    return command


@asynccontextmanager
async def gateway_of(machine: Path) -> AsyncIterator[Gateway]:
    """`fleetgate gateway` with nothing but what `join` left in this home."""
    argv = ["client", "gateway", "--print-ready"]
    program = await start("gateway", argv, home=machine, env={}, log=machine / "log")
    gateway = Gateway(program, program.ready["hostId"], "", machine)
    try:
        yield gateway
    finally:
        with anyio.CancelScope(shield=True):
            await program.stop()
            left = await wait_nothing_left(gateway)
    assert not left


async def test_a_machine_that_was_invited_joins_and_runs_a_task(manager: Manager, person: Person, tmp_path: Path):
    machine = tmp_path / "machine"
    code = await person("invite", "-q", "-l", "place=attic")

    joined = await fleetgate(machine, "join", manager.url, code, "--name", "old laptop")
    assert joined.stdout.decode() == "now run: fleetgate gateway\n", joined.stderr
    with (machine / "gateway.toml").open("a") as file:
        file.write(COUNT)
    async with gateway_of(machine) as gateway:
        words = await person("run", "-a", "count", "-l", "place=attic", "one two three")
        (task,) = json.loads(await person("ls", "--json"))

    assert words == "3"
    assert (task["status"], task["hostId"]) == ("completed", gateway.host_id)
    assert gateway.host_id == "old-laptop"


async def test_a_code_is_good_for_one_machine(manager: Manager, person: Person, tmp_path: Path):
    code = await person("invite", "-q")
    assert (await fleetgate(tmp_path / "first", "join", manager.url, code)).returncode == 0

    second = await fleetgate(tmp_path / "second", "join", manager.url, code, "--name", "other")

    assert second.returncode == DENIED
    assert second.stderr.decode().splitlines() == [
        "error: this join code is unknown, used or expired",
        "hint: make a new one with `fleetgate invite`",
    ]
    assert not (tmp_path / "second" / "gateway.toml").exists()
    refused = await manager.api.json("POST", "/api/auth/join", {"code": code, "name": "other"}, status=403)
    assert refused["code"] == "BAD_JOIN_CODE"
