"""`up` with fake programs: what it keeps, what it prints, in which order it ends; and once for real."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from client.cli import run
from client.errors import BadConfig
from client.house import check_port, far
from client.survey import walk
from client.terminal.words import program_words

ROOT = Path(__file__).parents[2]
WITHIN_S = 40.0
UP = """
import sys, client.house as house
house.MANAGER = ("tests.client.fake_programs", "manager")
house.GATEWAY = ("tests.client.fake_programs", "gateway")
from client.cli import main
main()
"""


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    return tmp_path / "diary"


@contextmanager
def up(home: Path, diary: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`fleetgate up --json` with fake programs, and what it said when it was up."""
    env = {**os.environ, "FLEETGATE_HOME": str(home), "FAKE_DIARY": str(diary), "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", UP, "up", "--json", "--port", "0", *arguments]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line, process.stderr.read()
        try:
            yield process, json.loads(line)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(WITHIN_S)


def test_up_keeps_what_is_needed_for_its_owner_alone(home: Path, diary: Path):
    with up(home, diary) as (_, said):
        kept = tomllib.loads((home / "client.toml").read_text())

        assert kept == {"url": said["url"], "token": "fgp_bootstrap"}
        assert said["join"] == f"fleetgate join {said['url']} fgj_x"
        for path in (home, *(file for file in home.iterdir() if not file.name.startswith(("fake", "manager.token")))):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_the_gateway_ends_before_the_manager(home: Path, diary: Path):
    with up(home, diary) as (process, _):
        process.send_signal(signal.SIGTERM)

        assert process.wait(WITHIN_S) == 0
    lines = diary.read_text().splitlines()
    assert lines[-3:] == ["gateway heard SIGTERM", "gateway ended", "manager ended"]


@pytest.mark.parametrize("flags", [[], ["--verbose"]])
def test_up_says_where_the_logs_are_when_there_are_any(home: Path, diary: Path, flags: list[str]):
    with up(home, diary, *flags) as (_, said):
        assert said["logs"] == (None if flags else str(home / "logs"))
        assert (home / "logs").exists() is not bool(flags)


def test_ctrl_c_is_as_good_as_term(home: Path, diary: Path):
    with up(home, diary) as (process, _):
        process.send_signal(signal.SIGINT)

        assert process.wait(WITHIN_S) == 0
    assert "manager ended" in diary.read_text()


def test_the_second_start_finds_what_the_first_one_made(home: Path, diary: Path):
    with up(home, diary) as (_, first):
        pass
    with up(home, diary) as (_, second):
        pass

    dials = [line for line in diary.read_text().splitlines() if "dials" in line]
    assert first["hostId"] == second["hostId"]
    assert dials == [f"gateway {first['hostId']} dials ws:// with fgh_1"] * 2


def test_a_manager_that_crashes_comes_back_where_it_was(home: Path, diary: Path):
    with up(home, diary) as (process, said):
        (manager,) = children(process.pid, "manager")
        os.kill(manager, signal.SIGKILL)
        assert process.stderr is not None
        while "is up again" not in (line := process.stderr.readline()):
            assert line
            if "starting it again" in line:
                assert "the manager was killed by SIGKILL" in line
        wait_for_line(diary, "manager on the same port")

    assert tomllib.loads((home / "client.toml").read_text())["url"] == said["url"]


def children(pid: int, word: str) -> list[int]:
    return [
        int(child)
        for thread in Path(f"/proc/{pid}/task").iterdir()
        for child in (thread / "children").read_text().split()
        if word in Path(f"/proc/{child}/cmdline").read_text().split("\0")
    ]


def wait_for_line(diary: Path, line: str) -> None:
    end = time.monotonic() + WITHIN_S
    while line not in diary.read_text():
        assert time.monotonic() < end, diary.read_text()
        time.sleep(0.02)


def test_a_port_in_use_is_one_sentence_and_one_hint(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        assert run(["up", "--port", str(port)]) == 78
    assert capsys.readouterr().err == (
        f"error: port {port} on 127.0.0.1 is in use\n"
        "hint: If that is a Fleetgate, use it: fleetgate ls. "
        "To start another: FLEETGATE_HOME=~/other fleetgate up --port 0\n"
    )


def test_others_find_a_manager_that_listens_on_every_address():
    assert far("http://127.0.0.1:3001", "127.0.0.1") == "http://127.0.0.1:3001"
    assert re.fullmatch(r"http://[0-9.]+:3001", far("http://127.0.0.1:3001", "0.0.0.0"))


def test_the_program_is_called_by_its_path_where_its_name_is_not_found(monkeypatch: pytest.MonkeyPatch):
    ours = Path(sys.executable).with_name("fleetgate")
    monkeypatch.setenv("PATH", str(ours.parent))
    assert program_words() == "fleetgate"
    monkeypatch.setenv("PATH", "/nowhere")
    assert program_words() == str(ours)


def test_an_address_that_is_not_ours_is_said():
    with pytest.raises(BadConfig, match=r"cannot listen on 192\.0\.2\.1"):
        check_port("192.0.2.1", 3001)


def demo(tmp_path: Path, *places: Path) -> subprocess.CompletedProcess[str]:
    """`fleetgate demo --once`, with nothing faked: a manager, a gateway, a keeper and what it finds in `places`."""
    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    (work / "a.py").write_text("x = 1\n")
    path = os.pathsep.join([*map(str, places), "/usr/bin", "/bin"])
    env = {"PATH": path, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "client", "demo", "--once", "--home", str(home)]
    done = subprocess.run(argv, cwd=work, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{work} holds 1 files with 6 bytes: 1 .py." in done.stdout
    assert not [path for path in Path("/proc").glob("[0-9]*/environ") if mentions(path, home)]
    return done


@pytest.mark.timeout(120)
def test_demo_runs_a_real_task_with_real_programs(tmp_path: Path):
    done = demo(tmp_path)

    assert "URL       http://127.0.0.1:" in done.stdout
    assert "Token     fgp_" in done.stdout
    assert "no coding agent is installed here" in done.stderr
    assert "→ walk  " in done.stderr
    assert "✓ completed" in done.stderr


@pytest.mark.timeout(120)
def test_demo_tries_an_agent_that_may_be_logged_in_and_says_so(tmp_path: Path):
    program = tmp_path / "bin" / "opencode"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n[ $1 = --version ] && echo 1.18.33 && exit\necho no model >&2; exit 1\n")
    program.chmod(0o755)

    done = demo(tmp_path, program.parent)

    assert "whether opencode is logged in cannot be told from outside: trying it" in done.stderr
    assert "✗ failed" in done.stderr
    assert "no coding agent here could do it: the sample task runs with `survey`" in done.stderr


def mentions(environ: Path, home: Path) -> bool:
    try:
        return os.fsencode(home) in environ.read_bytes()
    except OSError:
        return False  # gone, or not ours


def test_the_survey_counts_and_does_not_look_into_what_is_not_the_project(tmp_path: Path):
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "x.js").write_text("x")
    (tmp_path / "a.py").write_text("12345")
    (tmp_path / "Makefile").write_text("1")
    kinds, total, largest = walk(tmp_path)

    assert dict(kinds) == {".py": 1, "Makefile": 1}
    assert total == 6
    assert largest[0] == (5, "a.py")
