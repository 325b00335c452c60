"""`python -m manager`: the manager as a process.

Exit codes: 0 it was told to stop, 1 something of it failed (start it again), 78 it cannot start like this (mend the
settings or the database first).
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Final

import anyio
import structlog

from manager import app, settings
from manager.errors import StoreUnavailable
from manager.runtime import logs

FAILED: Final = 1
HOPELESS: Final = frozenset({"NEWER", "CORRUPT", "READ_ONLY"})  # starting again does not help


def _announce(descriptors: list[int]) -> Callable[[Mapping[str, object]], None]:
    def ready(facts: Mapping[str, object]) -> None:
        line = json.dumps(dict(facts)).encode() + b"\n"
        for descriptor in descriptors:
            os.write(descriptor, line)

    return ready


def _say(problem: object) -> None:
    sys.stderr.write(f"fleetgate manager: {problem}\n")


def main(arguments: list[str]) -> int:
    try:
        chosen = settings.from_process(arguments)
    except settings.BadSettings as error:
        _say(error)
        return settings.EXIT_CODE
    logs.configure(chosen.settings.log_level, chosen.settings.log_format)
    try:
        anyio.run(app.run, chosen.settings, _announce(chosen.ready_descriptors), backend_options={"use_uvloop": True})
    except StoreUnavailable as error:
        _say(error.detail)
        return settings.EXIT_CODE if error.code in HOPELESS else FAILED
    except app.CannotListen as error:
        _say(error)
        return FAILED
    except BaseExceptionGroup as error:
        structlog.get_logger("manager").critical("a part of the manager failed", exc_info=error)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
