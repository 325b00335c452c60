"""Programs that are kept running, with real processes that misbehave."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

import client.supervisor
from client.supervisor import Child, ChildEnded, Program, kept_running, shorten

ROOT = Path(__file__).parents[2]
FAKES = "tests.client.fake_programs"


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    return tmp_path / "diary"


@pytest.fixture
def program(diary: Path, tmp_path: Path) -> Callable[..., Program]:
    def make(*what: str, **more: object) -> Program:
        env = {"FAKE_DIARY": str(diary), "PYTHONPATH": str(ROOT)}
        return Program(what[0], (FAKES, *what), env, log=tmp_path / f"{what[0]}.log", **more)  # type: ignore[arg-type]

    return make


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - another process makes it true
            await anyio.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_program_is_ready_when_it_says_so_and_ends_when_we_leave(program, diary: Path):
    async with kept_running(program("good", "it"), print) as child:
        assert child.ready["ready"] is True
        pid = child.pid
        assert pid == child.ready["pid"], "the tether became the program"

    assert diary.read_text() == "it heard SIGTERM\n"
    assert not is_alive(pid)


async def test_nested_programs_end_from_the_inside_out(program, diary: Path):
    async with kept_running(program("good", "outer"), print), kept_running(program("good", "inner"), print):
        pass

    assert diary.read_text() == "inner heard SIGTERM\nouter heard SIGTERM\n"


async def test_a_program_may_be_told_with_another_signal(program, diary: Path):
    async with kept_running(program("good", "it", end_with=signal.SIGQUIT), print):
        pass

    assert diary.read_text() == "it heard SIGQUIT\n"


async def test_being_cancelled_ends_them_in_the_same_order(program, diary: Path):
    with anyio.CancelScope() as scope:
        async with kept_running(program("good", "outer"), print), kept_running(program("good", "inner"), print):
            scope.cancel()
            await anyio.sleep_forever()

    assert diary.read_text() == "inner heard SIGTERM\nouter heard SIGTERM\n"


async def test_being_cancelled_before_it_is_ready_ends_it(program, diary: Path):
    with anyio.move_on_after(0.0):
        async with kept_running(program("good", "it"), print):
            raise AssertionError("it was not waited for")

    assert not diary.exists() or diary.read_text() == "it heard SIGTERM\n"


async def test_a_crash_is_told_and_the_program_started_again(program, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client.supervisor, "restart_delay", lambda crashes: 0.01)
    said: list[str] = []
    async with kept_running(program("crashes-once"), said.append) as child:
        assert child.ready["life"] == 1
        await until(lambda: child.starts == 2 and len(said) == 2)

    assert said == [
        "the crashes-once ended with exit code 3; starting it again in 0.01 s",
        "the crashes-once is up again",
    ]


async def ended(program: Program) -> ChildEnded:
    """How a program that is not started again came to its end."""
    with pytest.RaisesGroup(ChildEnded) as group:
        async with kept_running(program, print):
            await anyio.sleep_forever()
    (error,) = group.value.exceptions
    assert isinstance(error, ChildEnded)
    return error


async def test_a_program_that_was_never_ready_is_not_started_again(program):
    error = await ended(program("never-ready"))

    assert str(error) == "the never-ready ended with exit code 9:\none reason\nthe last reason"
    assert error.exit_code == 1
    assert error.hint is not None


async def test_only_what_it_said_in_this_life_is_quoted(program, tmp_path: Path):
    (tmp_path / "never-ready.log").write_text("an older trouble\n")

    assert "older" not in str(await ended(program("never-ready")))


async def test_a_program_that_says_do_not_restart_is_not(program):
    error = await ended(program("ready-then-78"))

    assert (error.code, error.exit_code) == (78, 78)
    assert "a setting is wrong" in str(error)


async def test_who_keeps_its_stdout_open_does_not_keep_us(program, diary: Path):
    error = await ended(program("leaves-a-child"))
    left = int(diary.read_text().split()[1])

    assert error.code == 78
    assert is_alive(left)
    os.kill(left, signal.SIGKILL)


async def test_a_program_that_does_not_end_is_killed(program, diary: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client.supervisor, "GRACE_S", 0.3)
    said: list[str] = []
    async with kept_running(program("stubborn"), said.append) as child:
        pid = child.pid

    assert said == ["the stubborn does not end; killing it"]
    assert pid is not None
    assert not is_alive(pid)


async def test_hurrying_tells_it_again_and_then_kills_it(program, diary: Path):
    async def hurry(child: Child) -> None:
        for times in (1, 2):
            await until(lambda times=times: diary.exists() and diary.read_text().count("heard") == times)
            child.hurry()

    async with anyio.create_task_group() as group, kept_running(program("stubborn"), print) as child:
        group.start_soon(hurry, child)

    assert diary.read_text().count("heard") == 2
    assert child.pid is not None
    assert not is_alive(child.pid)


async def test_when_the_supervisor_is_killed_its_programs_end(program, diary: Path):
    code = (
        "import anyio, sys\n"
        "from client.supervisor import Program, kept_running\n"
        "async def main():\n"
        f"    async with kept_running(Program('it', ({FAKES!r}, 'good', 'it')), print) as child:\n"
        "        print(child.pid, flush=True)\n"
        "        await anyio.sleep_forever()\n"
        "anyio.run(main)\n"
    )
    env = {**os.environ, "FAKE_DIARY": str(diary), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        supervisor.kill()
    await until(lambda: not is_alive(pid))

    assert diary.read_text() == "it heard SIGTERM\n"


def test_a_long_log_becomes_the_one_before_and_who_writes_to_it_goes_on(tmp_path: Path):
    log = tmp_path / "x.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old " * 100)

        assert shorten(log, most=100) is True
        writer.write(b"new")

    assert log.read_bytes() == b"new"
    assert (tmp_path / "x.log.1").read_bytes() == b"old " * 100
    assert shorten(log, most=100) is False
