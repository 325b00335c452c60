"""Which agents are here: real little programs on a PATH of the test's own."""

import os

import anyio
import pytest

from gateway.runtime import inventory as module
from gateway.runtime.inventory import Inventory
from tests.fakes.attempts import is_running, wait_until


class Kind:
    """An agent kind like any other, named after its program."""

    env_names = ("FAKE_KEY",)
    login_files = (".fake/login",)
    version_argv = ("--version",)
    first_argv = ()

    def __init__(self, name):
        self.name, self.executables = name, (name,)

    def parse_version(self, output):
        return output.strip() if output[:1].isdigit() else None

    def logged_in(self, env, existing):
        if "FAKE_KEY" in env or existing:
            return True
        return None if self.name == "unsure" else False


@pytest.fixture
def machine(tmp_path):
    """Makes programs; gives the environment of this host."""
    (tmp_path / "bin").mkdir()

    class Machine:
        def __init__(self):
            path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
            self.env = {"PATH": path, "HOME": str(tmp_path), "GATEWAY_AUTH_TOKEN": "secret"}

        def install(self, name, script):
            program = tmp_path / "bin" / name
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)
            return str(program)

        def log_in(self):
            (tmp_path / ".fake").mkdir()
            (tmp_path / ".fake" / "login").touch()

    return Machine()


async def look(machine, *names, **env):
    inventory = Inventory({name: Kind(name) for name in names}, {**machine.env, **env})
    await inventory.look()
    return inventory


async def test_an_agent_is_found_with_its_path_and_version(machine):
    path = machine.install("fake", "echo 1.2.3")
    machine.log_in()
    inventory = await look(machine, "fake", "absent")

    (info,) = inventory.infos
    assert (info.agent, info.version, info.path, info.auth_ok) == ("fake", "1.2.3", path, True)
    assert os.path.isabs(info.path)
    assert inventory.offered == ("fake",)


async def test_one_that_nobody_logged_in_to_is_listed_with_a_hint_and_not_offered(machine):
    machine.install("fake", "echo 1.2.3")
    inventory = await look(machine, "fake")

    assert inventory.found["fake"].auth_ok is False
    assert "not logged in" in inventory.found["fake"].hint
    assert inventory.offered == ()


async def test_a_key_in_the_hosts_environment_counts_as_login(machine):
    machine.install("fake", "echo 1.2.3")

    assert (await look(machine, "fake", FAKE_KEY="k")).offered == ("fake",)


async def test_one_whose_login_cannot_be_told_is_offered(machine):
    machine.install("unsure", "echo 1")

    assert (await look(machine, "unsure")).offered == ("unsure",)


async def test_a_program_that_fails_is_listed_and_not_offered(machine):
    machine.install("fake", "echo broken >&2; exit 3")
    inventory = await look(machine, "fake", FAKE_KEY="k")

    assert "exit code 3" in inventory.found["fake"].hint
    assert inventory.offered == ()


async def test_a_program_that_cannot_be_run_is_listed_and_not_offered(machine, tmp_path):
    (tmp_path / "bin" / "fake").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "bin" / "fake").chmod(0o755)
    inventory = await look(machine, "fake", FAKE_KEY="k")

    assert "cannot be run" in inventory.found["fake"].hint
    assert inventory.offered == ()


async def test_a_program_that_hangs_does_not_hang_us(machine, monkeypatch):
    machine.install("fake", "exec sleep 60")
    monkeypatch.setattr(module, "VERSION_S", 0.2)
    inventory = await look(machine, "fake", FAKE_KEY="k")

    assert "did not tell its version" in inventory.found["fake"].hint


async def test_a_program_that_hangs_is_ended_with_all_it_started(machine, monkeypatch, tmp_path):
    machine.install("fake", f"sleep 60 & echo $! > {tmp_path}/pid; sleep 60")
    monkeypatch.setattr(module, "VERSION_S", 0.5)
    await look(machine, "fake", FAKE_KEY="k")

    with anyio.fail_after(10):
        await wait_until(lambda: not is_running(int((tmp_path / "pid").read_text())))


@pytest.mark.parametrize("name", ["TMPDIR", "HOME"])
async def test_a_directory_that_cannot_be_used_does_not_end_us(machine, monkeypatch, tmp_path, name):
    machine.install("unsure", "echo 1.0")
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path / "none") if name == "TMPDIR" else None)
    inventory = await look(machine, "unsure", **{name: "/" + "x" * 300})

    assert inventory.found["unsure"].version == ("1.0" if name == "HOME" else None)


async def test_a_version_is_asked_in_a_clean_environment(machine, tmp_path):
    machine.install("fake", f"env > {tmp_path}/seen; echo 1")
    await look(machine, "fake", FAKE_KEY="k", OTHER="o")

    seen = dict(line.split("=", 1) for line in (tmp_path / "seen").read_text().splitlines())
    assert seen["FAKE_KEY"] == "k"
    assert seen["CI"] == "1"
    assert "GATEWAY_AUTH_TOKEN" not in seen
    assert "OTHER" not in seen
    assert not os.path.exists(seen["TMPDIR"]), "what it left there is gone"


async def test_looking_again_tells_of_changes_only(machine):
    machine.install("unsure", "echo 1")
    inventory = await look(machine, "unsure")
    changes = []
    inventory.changed = lambda: changes.append(inventory.offered)
    await inventory.look()
    assert changes == []

    machine.install("unsure", "echo 2")
    async with anyio.create_task_group() as group:
        group.start_soon(inventory.watch)
        await anyio.lowlevel.checkpoint()
        inventory.look_again()
        while not changes:
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()

    assert inventory.found["unsure"].version == "2"


async def test_a_run_that_must_come_first_is_made_once_and_alone(machine, tmp_path):
    machine.install("fake", f'[ "$1" = first ] && echo x >> {tmp_path}/first; echo 1.2.3')
    kind = Kind("fake")
    kind.first_argv = ("first",)
    inventory = Inventory({"fake": kind}, machine.env)

    await inventory.look()
    await inventory.look()

    assert (tmp_path / "first").read_text() == "x\n"


async def test_a_first_run_that_fails_is_made_again_and_hides_nothing(machine, tmp_path):
    machine.install("fake", f'[ "$1" = first ] && {{ echo x >> {tmp_path}/first; exit 1; }}; echo 1.2.3')
    kind = Kind("fake")
    kind.first_argv = ("first",)
    inventory = Inventory({"fake": kind}, machine.env)

    await inventory.look()
    await inventory.look()

    assert (tmp_path / "first").read_text() == "x\nx\n"
    assert inventory.found["fake"].version == "1.2.3"
