import os
import signal
import subprocess
import sys

import pytest

from gateway.runtime.crash import planned

PASSES_TWICE = "from gateway.runtime import crash\nfor _ in range(2):\n crash.here('a'); print('on', flush=True)\n"


@pytest.mark.parametrize(
    ("variables", "lines", "code"),
    [
        ({}, 2, 0),
        ({"FLEETGATE_CRASH_AT": "a"}, 2, 0),
        ({"FLEETGATE_CRASH_AT": "a", "FLEETGATE_CRASH_HOME": "/another"}, 2, 0),
        ({"FLEETGATE_CRASH_AT": "b", "FLEETGATE_CRASH_HOME": "/home"}, 2, 0),
        ({"FLEETGATE_CRASH_AT": "a", "FLEETGATE_CRASH_HOME": "/home"}, 0, -signal.SIGKILL),
        ({"FLEETGATE_CRASH_AT": "a:2", "FLEETGATE_CRASH_HOME": "/home"}, 1, -signal.SIGKILL),
    ],
)
def test_a_process_dies_at_the_place_that_is_named_together_with_its_own_home_and_nowhere_else(variables, lines, code):
    env = {**os.environ, "FLEETGATE_HOME": "/home", **variables}

    done = subprocess.run([sys.executable, "-c", PASSES_TWICE], env=env, capture_output=True, text=True, check=False)

    assert (done.stdout.count("on"), done.returncode) == (lines, code)


def test_without_a_home_nothing_is_planned():
    assert planned({"FLEETGATE_CRASH_AT": "a"}) is None
