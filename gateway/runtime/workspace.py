"""Where a task works: its directory, checked against the roots of this host after symlinks are resolved, and what
the repository there tells an agent.

The check is made when a task is offered and once more right before it is started; the keeper makes it a third time,
of the directory that it has opened.

Everything here asks file systems that may be a network's, and blocks for as long as they do: it is for threads.
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gateway.errors import CannotRun
from shared_types.tasks import Reason

MAX_INSTRUCTIONS: Final = 128 * 1024
MAX_NAMED: Final = 3  # allowed roots in a refusal


def enter(wanted: str, default: Path, roots: Sequence[Path], names: Sequence[str]) -> tuple[Path, str]:
    """`working_directory`, and the `instructions` in it."""
    real = working_directory(wanted, default, roots)
    return real, instructions(real, names)


def nearest_first(roots: Sequence[Path], path: Path) -> list[Path]:
    """Those that `path` is in by its name alone go first: no other need be looked at, which may be one that hangs."""
    return sorted(roots, key=lambda root: not path.is_relative_to(root))


def working_directory(wanted: str, default: Path, roots: Sequence[Path]) -> Path:
    """The real directory that `wanted` names; `default` when it names none. Raises CannotRun."""
    path = Path(wanted) if wanted else default
    if not path.is_absolute() or "\0" in wanted:
        raise CannotRun(Reason.CWD_NOT_ALLOWED, f"{wanted!r} is not an absolute path")
    # Whether something is there is told only inside the roots: outside, everything is equally not allowed.
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(os.path.realpath(root)) for root in nearest_first(roots, real)):
        allowed = ", ".join(map(str, roots[:MAX_NAMED])) + (", ..." if len(roots) > MAX_NAMED else "")
        raise CannotRun(Reason.CWD_NOT_ALLOWED, f"{wanted} is not inside what this host allows: {allowed or 'nothing'}")
    if not os.path.isdir(real):  # unlike a Path's own, it knows no error: too long a name is no directory either
        raise CannotRun(Reason.CWD_MISSING, f"{wanted} is not a directory on this host")
    if not os.access(real, os.R_OK | os.X_OK):
        raise CannotRun(Reason.CWD_MISSING, f"{wanted} cannot be entered by this gateway's user")
    return real


def instructions(cwd: Path, names: Sequence[str]) -> str:
    """The text of the first of these files that is a plain file inside `cwd`; "" when there is none.

    A link is not followed: it could show an agent any file of this user as if the repository said it.
    """
    for name in names:
        if (text := _read_plain(cwd, name)) is not None:
            return text
    return ""


def _read_plain(cwd: Path, name: str) -> str | None:
    path = cwd / name
    if Path(os.path.realpath(path)) != Path(os.path.realpath(cwd)) / name:
        return None
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None  # not there, or not for us
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        return file.read(MAX_INSTRUCTIONS).decode("utf-8", "replace")
