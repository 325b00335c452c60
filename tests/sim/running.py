"""The simulation as a process of its own, for the tests: its doubles take the place of clocks, threads and chance."""

import os
import subprocess
import sys


def simulate(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.sim", *args],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def seconds() -> str:
    """How long fresh seeds are run (`SIM_SECONDS`)."""
    return os.environ.get("SIM_SECONDS", "60")
