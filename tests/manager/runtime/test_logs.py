"""The log is for people; nothing of the manager may depend on it."""

import subprocess
import sys
from pathlib import Path

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
