"""Whether this host still remembers what it started, told to the manager as one name (`bootId`).

A manager that hears nothing of an attempt, from a host that came back under the same name and does not know it,
concludes that it was never started. So the name is that of the machine's boot and of a file beside the attempts: it
is another one after a boot, in another home, on a fresh disk, and when something was left that we cannot name.

Invariant: under one name, everything that was started and whose end the manager does not have is in `running`.
"""

from pathlib import Path
from secrets import token_hex
from typing import Final

import structlog

FILE: Final = "memory"

_log = structlog.get_logger(__name__)


class Memory:
    """Of one home, which no other gateway uses. `boot_id` is the machine's; without one there is no name."""

    def __init__(self, home: Path, boot_id: str | None) -> None:
        self._file = home / FILE
        self._boot_id = boot_id
        self._id: str | None = None
        self._is_looked_for = False

    def __repr__(self) -> str:
        return f"<Memory {self.name}>"

    @property
    def name(self) -> str | None:
        """None: nobody can tell what was forgotten."""
        if not self._is_looked_for:
            self._is_looked_for = True
            self._id = self._found() or self._new()
        return f"{self._boot_id}.{self._id}" if self._boot_id and self._id else None

    def lost(self) -> None:
        """Something was started here that the manager will not hear of: from now on we are somebody else."""
        self._is_looked_for = True
        self._id = None
        try:
            self._file.unlink(missing_ok=True)  # first: there may be no room for another one
        except OSError as error:
            _log.error("memory.not_forgotten", file=str(self._file), error=str(error))
            return
        self._id = self._new()

    def _found(self) -> str | None:
        try:
            return self._file.read_text(encoding="ascii").strip() or None
        except (OSError, UnicodeDecodeError):
            return None

    def _new(self) -> str | None:
        """Not made durable: after a power cut the boot is another one."""
        id = token_hex(8)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file.write_text(id, encoding="ascii")
        except OSError as error:
            _log.warning("memory.not_written", file=str(self._file), error=str(error))
            return None
        return id
