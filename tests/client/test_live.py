"""A task on a terminal: Ctrl-C asks, a queued task says why, a lost connection is told. With a real pty."""

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

import client.live
from client.console import Console
from client.live import Live
from client.sdk import AsyncFleetgate
from shared_types.api import EventRecord
from tests.client.fake_api import FakeApi, Held, a_host
from tests.client.fake_manager import FakeManager, a_task, an_event

TASK = a_task()["id"]
WITHIN_S = 20.0


def held(status: str, *, first: str = "begun ", then: str = "ended") -> Held:
    """A stream that says something, waits, and ends in this state."""
    manager = FakeManager(
        events=[an_event(1, content=first, data={"delta": True}), an_event(2, content=then, data={"delta": True})],
        task=a_task(),
    )
    body = manager.body(0).replace(b'"status": "completed"', b'"status": "%b"' % status.encode())
    at = body.index(b"id: 2\n")
    return Held(body[:at], body[at:])


@dataclass
class OnTerminal:
    """A program with a terminal of its own."""

    process: subprocess.Popen[bytes]
    master: int
    shown: str = ""

    def until(self, text: str, times: int = 1) -> None:
        """Until the terminal shows it."""
        end = time.monotonic() + WITHIN_S
        while self.shown.count(text) < times:
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, f"{text!r} is not shown:\n{self.shown}"
            try:
                data = os.read(self.master, 65536)
            except OSError as error:  # the other end is closed
                raise AssertionError(f"{text!r} was not shown:\n{self.shown}") from error
            self.shown += data.decode()

    def rest(self) -> None:
        """All that is left to be read of a program that has ended."""
        while select.select([self.master], [], [], 0)[0]:
            try:
                self.shown += os.read(self.master, 65536).decode()
            except OSError:  # the other end is closed
                return

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def press_ctrl_c(self) -> None:
        self.process.send_signal(signal.SIGINT)


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def on_terminal(api: FakeApi, *arguments: str) -> Iterator[OnTerminal]:
    master, slave = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", "FLEETGATE_URL": api.url, "FLEETGATE_TOKEN": "t"}
    argv = [sys.executable, "-m", "client", *arguments]
    with subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True) as process:
        os.close(slave)
        try:
            yield OnTerminal(process, master)
        finally:
            process.kill()
            os.close(master)


@pytest.fixture
def running(api: FakeApi) -> FakeApi:
    api.answer("GET", "/api/hosts/h1", a_host())
    api.answer("GET", f"/api/tasks/{TASK}", a_task())
    api.answer("POST", f"/api/tasks/{TASK}/abort", a_task(status="stopping"), status=202)
    api.answer("GET", f"/api/tasks/{TASK}/events", held("completed"))
    return api


QUESTION = "[d]etach, [a]bort, [c]ontinue?"


def test_ctrl_c_asks_and_detaching_leaves_the_task_alone(running: FakeApi):
    with on_terminal(running, "attach", TASK) as terminal:
        terminal.until("begun")
        terminal.press_ctrl_c()
        terminal.until(QUESTION)
        terminal.type("d\n")
        terminal.until(f"detached; it goes on: fleetgate attach {TASK}")

        assert terminal.process.wait(WITHIN_S) == 130
    assert running.sent("POST", f"/api/tasks/{TASK}/abort") == []


def test_aborting_waits_for_the_end(running: FakeApi):
    running.answer("GET", f"/api/tasks/{TASK}/events", held("aborted"))
    with on_terminal(running, "attach", TASK) as terminal:
        terminal.until("begun")
        terminal.press_ctrl_c()
        terminal.until(QUESTION)
        terminal.type("a\n")
        terminal.until("stopping it")
        running.go.set()
        terminal.until("■ aborted")

        assert terminal.process.wait(WITHIN_S) == 130
    assert running.sent("POST", f"/api/tasks/{TASK}/abort") == [{"kill": False, "reason": "Ctrl-C"}]


def test_a_task_that_ends_while_it_asks_is_told_as_it_ended(running: FakeApi):
    ended = {"type": "x", "title": "Conflict", "status": 409, "code": "TASK_ENDED", "detail": "it has ended already"}
    running.answer("POST", f"/api/tasks/{TASK}/abort", ended, status=409)
    with on_terminal(running, "attach", TASK) as terminal:
        terminal.until("begun")
        terminal.press_ctrl_c()
        terminal.until(QUESTION)
        terminal.type("a\n")
        wait_for(lambda: running.sent("POST", f"/api/tasks/{TASK}/abort"))
        running.go.set()
        terminal.until("✓ completed")

        assert terminal.process.wait(WITHIN_S) == 0
    assert "stopping it" not in terminal.shown


def test_nothing_is_told_behind_the_last_word_of_who_left(running: FakeApi):
    with on_terminal(running, "attach", TASK) as terminal:
        terminal.until("begun")
        terminal.press_ctrl_c()
        terminal.until(QUESTION)
        running.go.set()
        terminal.type("d\n")
        terminal.until("detached")
        assert terminal.process.wait(WITHIN_S) == 130
        terminal.rest()

    assert terminal.shown.rstrip().endswith(f"fleetgate attach {TASK}")


def test_the_second_time_it_offers_to_kill(running: FakeApi):
    with on_terminal(running, "attach", TASK) as terminal:
        terminal.until("begun")
        terminal.press_ctrl_c()
        terminal.until(QUESTION)
        terminal.type("a\n")
        terminal.until("stopping it")
        terminal.press_ctrl_c()
        terminal.until("[k]ill")
        terminal.type("k\n")
        terminal.until("killing it")
    assert [body["kill"] for body in running.sent("POST", f"/api/tasks/{TASK}/abort")] == [False, True]


def test_going_on_shows_the_rest(running: FakeApi):
    with on_terminal(running, "attach", TASK) as terminal:
        terminal.until("begun")
        terminal.press_ctrl_c()
        terminal.until(QUESTION)
        terminal.type("what?\n")
        terminal.until(QUESTION, times=2)
        terminal.type("c\n")
        running.go.set()
        terminal.until("✓ completed")

        assert terminal.process.wait(WITHIN_S) == 0
    assert terminal.shown.count("begun") == 1
    assert terminal.shown.count("ended") == 1


def test_ctrl_c_at_the_question_detaches(running: FakeApi):
    with on_terminal(running, "attach", TASK) as terminal:
        terminal.until("begun")
        terminal.press_ctrl_c()
        terminal.until(QUESTION)
        terminal.press_ctrl_c()

        assert terminal.process.wait(WITHIN_S) == 130


def test_without_a_terminal_ctrl_c_detaches_at_once(running: FakeApi):
    env = {**os.environ, "FLEETGATE_URL": running.url, "FLEETGATE_TOKEN": "t"}
    running.answer("GET", f"/api/tasks/{TASK}/events", held("completed", first="begun\n"))
    argv = [sys.executable, "-m", "client", "attach", TASK]
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WITHIN_S)

    assert (process.returncode, out) == (130, b"")
    assert b"detached; it goes on" in err


# --- without a terminal -----------------------------------------------------------------------------


async def test_a_queued_task_says_why_until_it_runs(api: FakeApi, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client.live, "WHY_AFTER_S", 0.0)
    monkeypatch.setattr(client.live, "WHY_AGAIN_S", 0.01)
    why = {"taskId": TASK, "status": "queued", "summary": "No host has gemini."}
    api.answer("GET", f"/api/tasks/{TASK}/why", why, why, {**why, "wouldRunIf": "laptop had it"})
    queued = FakeManager(task=a_task(status="queued"), events=[an_event(1)]).body(0)
    at = queued.index(b"id: 1\n")
    api.answer("GET", f"/api/tasks/{TASK}/events", Held(queued[:at], queued[at:]))

    class Watched(io.StringIO):
        def write(self, text: str) -> int:
            if "It would run" in text:
                api.go.set()
            return super().write(text)

    err = Watched()
    async with AsyncFleetgate(api.url, "t") as fleet:
        task = await fleet_task(fleet, api, status="queued")
        await Live(fleet, Console(out=io.StringIO(), err=err), task, hears_ctrl_c=False).run()

    assert [line for line in err.getvalue().splitlines() if "queued" in line] == [
        "· still queued: No host has gemini.",
        "· still queued: No host has gemini. It would run if laptop had it.",
    ]


async def fleet_task(fleet: AsyncFleetgate, api: FakeApi, **fields: object):
    api.answer("GET", f"/api/tasks/{TASK}", a_task(**fields))
    return await fleet.task(TASK)


async def test_a_lost_connection_is_told_once_and_so_is_its_return(api: FakeApi):
    manager = FakeManager(events=[an_event(n, content=f"{n}") for n in (1, 2)], task=a_task())
    body = manager.body(0)
    cut = body[: body.index(b"id: 2\n")]
    api.answer("GET", f"/api/tasks/{TASK}/events", cut, b"retry: 1\n\n", b"retry: 1\n\n", manager.body(1))
    out, err = io.StringIO(), io.StringIO()
    async with AsyncFleetgate(api.url, "t") as fleet:
        live = Live(fleet, Console(out=out, err=err), await fleet_task(fleet, api), hears_ctrl_c=False)
        task = await live.run()

    assert task.status == "completed"
    assert out.getvalue() == "1\n2\n"
    assert err.getvalue().splitlines() == ["connection to the manager lost; trying again", "connected again"]


def test_an_event_as_json_is_what_the_manager_sent():
    event = EventRecord(type="x", timestamp=1, id=2, task_id="t", attempt=1, content="c", data={"a": 1})

    assert client.live.shown(event) == {
        "id": 2,
        "type": "x",
        "timestamp": 1,
        "taskId": "t",
        "attempt": 1,
        "content": "c",
        "data": {"a": 1},
    }
