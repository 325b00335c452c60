"""What of an attempt must be known to adopt it: a small file in its directory, 0600, written before it is started.

No secrets: neither the task's environment nor the host's; the agent has them already. The prompt is there, because
a driver's fold begins with it.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from shared_types.tasks import PermissionMode

NAME: Final = "task.json"
SAID: Final = "said"


class Kept(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`attempt` None: a base manager gave it, which numbers nothing."""

    uid: str
    task_id: str
    attempt: int | None
    agent: str
    prompt: str
    cwd: str
    executable: str
    session_uuid: str
    model: str | None = None
    mode: PermissionMode = PermissionMode.DEFAULT
    version: str | None = None
    boot_id: str | None = None  # of the machine when this was written, which is before the attempt is started
    grace: int | None = None  # ms after the host's lease; None: for ever


def write(directory: Path, kept: Kept) -> None:
    """Durable when it returns."""
    _replace(directory / NAME, msgspec.json.encode(kept))


def read(directory: Path) -> Kept | None:
    """None when there is none, or none that can be read."""
    try:
        return msgspec.json.decode((directory / NAME).read_bytes(), type=Kept)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def is_there(directory: Path) -> bool:
    """Whether something may have been started here."""
    try:
        os.stat(directory / NAME)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # it cannot be read, but there it is
    return True


def note_said(directory: Path, seq: int) -> None:
    """How far it was said to a manager that confirms nothing. Not durable: a little may be said twice."""
    (directory / SAID).write_text(str(seq))


def said(directory: Path) -> int:
    try:
        return int((directory / SAID).read_text() or 0)
    except (OSError, ValueError):
        return 0


def _replace(path: Path, data: bytes) -> None:
    new = path.with_suffix(".new")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(handle)
    new.rename(path)
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
