"""The place on this machine where each agent gets a cgroup of its own (v2), if there is one.

What it is for: whatever an agent did to hide (its own session, two forks, an empty environment), all of it can be
killed at once, also when its keeper was killed. Where there is no place the process tree and the cookie in the
environment must do.
"""

import os
import time
from pathlib import Path
from typing import Final

import structlog

from gateway.core import cgroup
from gateway.runtime import attempt, keeper

_LOOKS: Final = 200
NEEDED: Final = "cgroup.kill"  # Linux 5.14

_log = structlog.get_logger(__name__)


class Cgroups:
    """`place` is known after `find`; None: agents get none."""

    def __init__(self, home: Path, *, is_wanted: bool, proc: Path = Path("/proc/self")) -> None:
        self.place: Path | None = None
        self._home = home
        self._key = os.path.realpath(home)
        self._is_wanted = is_wanted
        self._proc = proc

    def __repr__(self) -> str:
        return f"<Cgroups {self.place}>"

    def find(self) -> None:
        """Blocks. Ends what an earlier gateway's dead keepers left here."""
        if not self._is_wanted:
            return
        try:
            own = cgroup.place((self._proc / "cgroup").read_text(), (self._proc / "mountinfo").read_text())
            if own is not None and _can_be_divided(Path(own), cgroup.prefix(self._key) + str(os.getpid())):
                self.place = Path(own)
        except OSError as error:
            _log.info("cgroups.none", why=str(error))
        else:
            _log.info("cgroups.none" if self.place is None else "cgroups.found", place=str(own))
        self._tidy()

    def path(self, uid: str) -> str | None:
        """Of this attempt's cgroup, which its keeper makes."""
        return None if self.place is None else str(self.place / cgroup.name(self._key, uid))

    def _tidy(self) -> None:
        """A keeper makes it when it has the attempt's lock: without one it is dead."""
        if self.place is None:
            return
        for path in self.place.glob(cgroup.prefix(self._key) + "*"):
            uid = path.name.removeprefix(cgroup.prefix(self._key))
            try:
                if not attempt.is_kept(attempt.directory(self._home, uid)):
                    end(str(path))
            except (OSError, ValueError) as error:
                _log.warning("cgroups.not_removed", path=str(path), error=str(error))


def end(path: str) -> None:
    """Kill all that is in it, and remove it. Blocks, a second at most. Raises OSError."""
    for _ in range(_LOOKS):
        if not keeper.kill_cgroup(path):
            break
        time.sleep(0.005)  # dying takes a moment
    keeper.remove_cgroup(path)


def _can_be_divided(place: Path, name: str) -> bool:
    """Raises OSError where it is another's."""
    os.close(os.open(place / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))  # to move a process is to leave this one
    probe = place / name
    probe.mkdir()
    try:
        return (probe / NEEDED).exists() and (probe / "cgroup.type").read_text().strip() == "domain"
    finally:
        probe.rmdir()
