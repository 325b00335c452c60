"""How this host is: processor, memory, disk, load, journals. Read in a thread, because a disk may be a network's.

`latest` is what was read last; nobody waits for it. The reader is `Vitals.watch`, a loop of the gateway's group.
"""

import os
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import psutil
import structlog

from gateway.core.slots import FULL, Quota
from gateway.runtime import attempt
from shared_types.hosts import Vitals

EVERY_S: Final = 10.0

_log = structlog.get_logger(__name__)


def read(disk: Path, journals: float | None = None) -> Vitals:
    """Blocks for as long as the disk's file system does. Processor use is that since the last call."""
    return Vitals(
        journals=journals,
        cpu=round(psutil.cpu_percent(None) / 100, 3),
        memory=round(psutil.virtual_memory().percent / 100, 3),
        disk=round(psutil.disk_usage(os.fspath(disk)).percent / 100, 3),
        load=round(os.getloadavg()[0] / (os.cpu_count() or 1), 3),
    )


class VitalSigns:
    """`free_bytes` is of the disk that holds the journals, `journal_bytes` what they take of `quota_bytes`."""

    def __init__(self, disk: Path, quota: Quota = Quota()) -> None:  # noqa: B008 - nobody can change it
        self._disk = disk
        self._quota = quota
        self.latest: Vitals | None = None
        self.free_bytes: int | None = None
        self.journal_bytes: int | None = None
        self.quota_bytes = 0

    async def look(self) -> None:
        """Cancelling is safe: the thread is left to itself."""
        try:
            usage = await anyio.to_thread.run_sync(psutil.disk_usage, os.fspath(self._disk), abandon_on_cancel=True)
            taken = await anyio.to_thread.run_sync(attempt.bytes_taken, self._disk, abandon_on_cancel=True)
            quota = self._quota.of(usage.total)
            share = round(taken / quota, 3) if quota else 1.0
            self.latest = await anyio.to_thread.run_sync(read, self._disk, share, abandon_on_cancel=True)
        except (OSError, psutil.Error) as error:
            _log.warning("vitals.unreadable", error=str(error))
            self.latest = self.free_bytes = self.journal_bytes = None
            return
        was_full = self.journal_bytes is not None and self.journal_bytes > self.quota_bytes * FULL
        self.free_bytes, self.journal_bytes, self.quota_bytes = usage.free, taken, quota
        if taken > quota * FULL and not was_full:
            _log.warning("journals.full", bytes=taken, quota=quota, hint="no new tasks until the manager takes the old")

    async def watch(self) -> None:
        """For as long as the gateway lives."""
        while True:
            await self.look()
            await anyio.sleep(EVERY_S)
