"""Looking where there may be no answer."""

import subprocess
import sys
from pathlib import Path
from threading import Event

import anyio
import pytest

from gateway.errors import NoAnswer
from gateway.runtime.scouts import Scouts


@pytest.fixture
def dead():
    """A file system that answers when the test is over."""
    answers = Event()
    yield answers.wait
    answers.set()


async def test_what_is_found_comes_back():
    assert await Scouts().look(lambda: "found", 10) == "found"


async def test_what_goes_wrong_comes_back_too():
    with pytest.raises(FileNotFoundError):
        await Scouts().look(Path("/nowhere").stat, 10)


async def test_no_answer_is_said_in_time_and_the_loop_goes_on_meanwhile(dead):
    went_on = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.lowlevel.checkpoint)
        group.start_soon(lambda: _set(went_on))
        with pytest.raises(NoAnswer):
            await Scouts().look(dead, 0.05)

    assert went_on.is_set()


async def _set(event):
    event.set()


async def test_only_so_many_wait_for_what_is_dead_and_more_come_when_one_is_back():
    scouts, answers = Scouts(2), [Event(), Event()]
    for answer in answers:
        with pytest.raises(NoAnswer):
            await scouts.look(answer.wait, 0.02)

    with pytest.raises(NoAnswer):
        await scouts.look(lambda: "fine", 0.02)
    answers[0].set()

    assert await scouts.look(lambda: "fine", 10) == "fine"
    answers[1].set()


async def test_many_looks_at_once_wait_for_each_other():
    scouts, found = Scouts(2), []

    async def look(number):
        found.append(await scouts.look(lambda: number, 10))

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(look, number)

    assert sorted(found) == list(range(50))


async def test_who_is_cancelled_leaves_its_scout_and_takes_no_place_for_ever():
    scouts, answer = Scouts(1), Event()
    with anyio.move_on_after(0.02):
        await scouts.look(answer.wait, 10)
    with anyio.move_on_after(0.02):
        await scouts.look(answer.wait, 10)
    answer.set()

    assert await scouts.look(lambda: "free", 10) == "free"


FORLORN = """
import anyio, threading
from gateway.errors import NoAnswer
from gateway.runtime.scouts import Scouts

async def main():
    try:
        await Scouts().look(threading.Event().wait, 0.01)
    except NoAnswer:
        print("left")

anyio.run(main)
"""


def test_a_scout_that_never_returns_keeps_no_process_from_ending():
    root = Path(__file__).parents[3]

    done = subprocess.run([sys.executable, "-c", FORLORN], cwd=root, capture_output=True, timeout=30, check=True)

    assert done.stdout == b"left\n"
