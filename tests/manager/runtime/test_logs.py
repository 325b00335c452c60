"""The log is for people; nothing of the manager may depend on it."""

import subprocess
import sys
from pathlib import Path

import pytest

SAYS_MUCH = """
import logging, structlog
from manager.runtime import logs
logs.configure("info", "{format}")
for _ in range(1_000):
    structlog.get_logger().info("x" * 1_000)
    logging.getLogger("library").error("y" * 1_000)
print("alive")
"""


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    for format in ("json", "text"):
        with Path("/dev/full").open("w") as full:
            program = subprocess.run(
                [sys.executable, "-c", SAYS_MUCH.format(format=format)], stdout=subprocess.PIPE, stderr=full
            )

        assert program.stdout == b"alive\n"


def test_a_reader_of_the_log_that_sleeps_stops_nobody() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SAYS_MUCH.format(format="json")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        said = program.stdout.read()  # of its log nothing is read meanwhile
        log = program.stderr.read()

    assert said == b"alive\n"
    assert log.startswith(b'{"event": "x')


BREAKS = """
import logging, structlog
from manager.runtime import logs
logs.configure("info", "{format}")

def work(secret):
    raise ValueError("it broke")

for log in (structlog.get_logger(), logging.getLogger("library")):
    try:
        work("hunter" + str(2))
    except ValueError:
        log.exception("a fault of ours")
"""


@pytest.mark.parametrize("format", ["json", "text"])
def test_a_traceback_says_where_and_why_and_not_what_was_in_variables(format: str) -> None:
    program = subprocess.run(
        [sys.executable, "-c", BREAKS.format(format=format)], stderr=subprocess.PIPE, text=True, check=True
    )

    assert program.stderr.count("it broke") == 2
    assert "work" in program.stderr
    assert "hunter2" not in program.stderr
