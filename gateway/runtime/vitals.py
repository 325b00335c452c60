"""How this host is: processor, memory, disk, load. Read in a thread, because a disk may be a network's.

`latest` is what was read last; nobody waits for it. The reader is `Vitals.watch`, a loop of the gateway's group.
"""

import os
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import psutil
import structlog

from shared_types.hosts import Vitals

EVERY_S: Final = 10.0

_log = structlog.get_logger(__name__)


def read(disk: Path) -> Vitals:
    """Blocks for as long as the disk's file system does. Processor use is that since the last call."""
    return Vitals(
        cpu=round(psutil.cpu_percent(None) / 100, 3),
        memory=round(psutil.virtual_memory().percent / 100, 3),
        disk=round(psutil.disk_usage(os.fspath(disk)).percent / 100, 3),
        load=round(os.getloadavg()[0] / (os.cpu_count() or 1), 3),
    )


class VitalSigns:
    """`free_bytes` is of the disk that holds the journals."""

    def __init__(self, disk: Path) -> None:
        self._disk = disk
        self.latest: Vitals | None = None
        self.free_bytes: int | None = None

    async def look(self) -> None:
        """Cancelling is safe: the thread is left to itself."""
        try:
            self.latest = await anyio.to_thread.run_sync(read, self._disk, abandon_on_cancel=True)
            usage = await anyio.to_thread.run_sync(psutil.disk_usage, os.fspath(self._disk), abandon_on_cancel=True)
            self.free_bytes = usage.free
        except (OSError, psutil.Error) as error:
            _log.warning("vitals.unreadable", error=str(error))
            self.latest = self.free_bytes = None

    async def watch(self) -> None:
        """For as long as the gateway lives."""
        while True:
            await self.look()
            await anyio.sleep(EVERY_S)
