"""Places where a test has this process die at once, as by `kill -9`.

    FLEETGATE_CRASH_AT=NAME[:N]     at the N-th time (default: the first) that it comes by the place called NAME
    FLEETGATE_CRASH_HOME=HOME       and only a process with this FLEETGATE_HOME: a variable that somebody forgot to
                                    unset kills nobody

Read once, when this module is loaded. Without both it does nothing.

    execute_received     a task was offered, nothing was looked at
    directory_written    the attempt's directory is on disk, no keeper has heard of it
    keeper_started       the agent runs; nobody was told
    started_said         the manager was told that it runs
    before_forget        the manager has the end; the attempt's directory is still there
"""

import os
import signal
from collections.abc import Mapping

_Point = tuple[str, int]


def planned(environ: Mapping[str, str]) -> _Point | None:
    """Where and at which time.

    >>> planned({"FLEETGATE_CRASH_AT": "here:2", "FLEETGATE_CRASH_HOME": "/a", "FLEETGATE_HOME": "/a"})
    ('here', 2)
    >>> planned({"FLEETGATE_CRASH_AT": "here", "FLEETGATE_HOME": "/a"})
    """
    name, _, count = environ.get("FLEETGATE_CRASH_AT", "").partition(":")
    home = environ.get("FLEETGATE_CRASH_HOME")
    if not name or home is None or home != environ.get("FLEETGATE_HOME"):
        return None
    return name, int(count or 1)


_planned = planned(os.environ)
_left = _planned[1] if _planned else 0


def here(name: str) -> None:
    """One of the places."""
    global _left
    if _planned is None or _planned[0] != name:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
