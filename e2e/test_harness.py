"""The harness can fail: what it promises to notice, it notices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.harness import COOKIE, Gateway, Program, left_behind, start, until, wait_nothing_left

IDLE = [sys.executable, "-S", "-c", "import signal; print('x', flush=True); signal.pause()"]


@pytest.mark.parametrize("bears", ["the cookie", "the home"])
async def test_a_process_left_behind_is_found_told_and_killed(tmp_path: Path, bears: str, monkeypatch):
    monkeypatch.setattr("e2e.harness.GONE_WITHIN_S", 0.2)
    home = tmp_path / "home"
    (home / "attempts" / "u1").mkdir(parents=True)
    mark = {"FLEETGATE_ATTEMPT": "u1"} if bears == "the cookie" else {"TMPDIR": str(home / "attempts" / "u1")}
    with subprocess.Popen(IDLE, env=mark, stdout=subprocess.PIPE) as left:
        assert left.stdout is not None
        left.stdout.readline()
        gateway = Gateway(Program("g", left, tmp_path / "log"), "h1", "t", home)

        told = await wait_nothing_left(gateway)

        assert set(told) == {left.pid}
        assert left.wait(10) == -9


def test_processes_of_others_are_not_blamed(tmp_path: Path):
    with subprocess.Popen(IDLE, env={"FLEETGATE_ATTEMPT": "u2"}, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()

        assert other.pid in left_behind(tmp_path / "nowhere", ["u2"])
        assert left_behind(tmp_path / "nowhere", ["u1"]) == {}
        other.terminate()


async def test_a_program_that_ends_before_it_is_ready_is_quoted(tmp_path: Path):
    with pytest.raises(AssertionError, match="No module named"):
        await start("nothing", ["fleetgate_no_such_module"], home=tmp_path, env={}, log=tmp_path / "log")


async def test_waiting_has_an_end():
    with pytest.raises(AssertionError, match="the moon is green"):
        await until(lambda: False, 0.05, "the moon is green")


def test_the_cookie_is_how_an_attempt_is_known():
    assert COOKIE not in Path(f"/proc/{os.getpid()}/environ").read_bytes()
