"""A whole gateway in the test's own process: real sockets, real keepers, real little agents, a fake manager."""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from gateway.app import Gateway, put_together
from gateway.settings import load
from tests.fakes.manager import FakeManager

# An agent that does what its prompt says, line by line; then, with `listen`, what it is told later.
SCRIPT = r"""
import os, signal, subprocess, sys, time
def do(line):
    word, _, rest = line.partition(" ")
    if word == "say": print(rest, flush=True)
    elif word == "grumble": print(rest, file=sys.stderr, flush=True)
    elif word == "exit": sys.exit(int(rest))
    elif word == "die": os.kill(os.getpid(), signal.SIGKILL)
    elif word == "wait": signal.pause()
    elif word == "stubborn": signal.signal(signal.SIGTERM, signal.SIG_IGN); print("no", flush=True)
    elif word == "leave": subprocess.Popen(["sleep", "1000"], start_new_session=True)
    elif word == "backwards": print(rest[::-1], flush=True)
    elif word == "vanish":
        me = [sys.executable, "-Ic", "import signal; signal.pause()", os.environ["FLEETGATE_ATTEMPT"]]
        subprocess.Popen(me, start_new_session=True, env={})
    elif word == "flood":
        for n in range(int(rest)): print(f"{n:08d} " + "x" * 90)
        sys.stdout.flush()
    elif word == "await":
        while not os.path.exists(rest): time.sleep(0.005)
    elif word == "env": print(os.environ.get(rest, "-"), flush=True)
    elif word == "names": print(" ".join(sorted(os.environ)), flush=True)
    elif word == "cwd": print(os.getcwd(), flush=True)
    elif word == "touch": open(rest, "a").write("x")
    elif word == "deaf": os.close(0); print("deaf", flush=True)
    elif word == "listen":
        for heard in sys.stdin: do(heard.rstrip("\n"))
lines = sys.stdin if sys.argv[1:] == ["talk"] else sys.stdin.read().split("\n")
for line in lines: do(line.rstrip("\n"))
"""


@pytest.fixture
async def manager() -> AsyncIterator[FakeManager]:
    async with FakeManager().serving() as manager:
        yield manager


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A gateway's home that declares two agents: `fake` reads its prompt, `talk` reads on while it runs."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir(mode=0o700)
    work.mkdir()
    script = tmp_path / "agent.py"
    script.write_text(SCRIPT)
    words = f'"{sys.executable}", "-I", "{script}"'
    (home / "gateway.toml").write_text(
        f'cwd = "{work}"\nhost_id = "h1"\n'
        f'[agents.fake]\nargv = [{words}]\nenv = ["ALLOWED"]\n'
        f'[agents.talk]\nargv = [{words}, "talk"]\ninput = "lines"\n'
        f"[agents.quick]\nargv = [{words}]\nfirst_output_s = 0.3\nidle_s = 0.5\n"
    )
    return home


def environment(home: Path, manager: FakeManager, **more: str) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "FLEETGATE_HOME": str(home),
        "GATEWAY_SERVER_URL": manager.url,
        "GATEWAY_AUTH_TOKEN": manager.token,
        "GATEWAY_ONLY_AGENTS": "fake,talk,quick",
        **more,
    }


class Hasty(Random):
    """Knocks again at once."""

    def uniform(self, a: float, b: float) -> float:
        return 0.01


Start = Callable[..., AbstractAsyncContextManager[Gateway]]


@pytest.fixture
def start(home: Path, manager: FakeManager) -> Start:
    """Starts a gateway of this home that is connected; leaving it is as sudden as a crash, agents go on."""

    @asynccontextmanager
    async def started(**settings: Any) -> AsyncIterator[Gateway]:
        environ = environment(home, manager, **settings)
        gateway = put_together(load([], environ), environ, Hasty())
        before = len(manager.greetings)
        async with anyio.create_task_group() as group:
            await group.start(gateway.live)
            await manager.wait_connected(before + 1)
            yield gateway
            group.cancel_scope.cancel()

    return started
