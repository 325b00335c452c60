"""Following the journal of one attempt, as its keeper writes it.

The keeper's hints only say "look again"; all truth is in the file. Nothing is kept back between two looks but the
place behind the last whole record, because what comes behind it may still be taken back.
"""

import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, NamedTuple

import anyio
from anyio.lowlevel import checkpoint

from gateway.core.journal import HEADER, MAX_DATA, MAX_SLICE, Record, Stream, decode
from gateway.errors import KeeperLost
from gateway.runtime import attempt

WINDOW: Final = MAX_SLICE + 16 * 1024  # holds any record but a long write; a look takes no more
_LONGEST: Final = HEADER.size + MAX_DATA
_LOOK_S: Final = 5.0  # look again, hint or not
_BLIND_S: Final = 0.1  # the same without a connection for hints
_FOLLOW: Final = b'{"op":"hello","follow":true}\n'


class Spool:
    """`path` is the attempt's directory. Any number of readers may follow at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"<Spool {self.path.name}>"

    async def records(self, after: int) -> AsyncIterator[list[Record]]:
        """Batches of all records behind `after`, in order, as they come; ends behind the EXIT record. Raises
        KeeperLost behind the last whole record when the keeper is gone and there will be no EXIT; by then
        nothing of the agent's tree is left. Cancelling is safe: ask again behind the last record you had.
        """
        reader = _Reader(self.path)
        try:
            while True:
                is_kept = attempt.is_kept(self.path)  # asked before the look: what was written before is seen
                while batch := reader.look(after):
                    if batch.records:
                        yield batch.records
                    if batch.is_end:
                        return
                    await checkpoint()
                if is_kept:
                    await reader.wait()
                elif (last := attempt.last_record(self.path)) is not None and last.seq - 1 <= reader.last:
                    if last.seq > max(reader.last, after):  # the disk had no room for it
                        yield [last]
                    return
                else:
                    await attempt.sweep(self.path)
                    raise KeeperLost(f"attempt {self.path.name} has no keeper and no end after record {reader.last}")
        finally:
            reader.close()


class _Batch(NamedTuple):
    records: list[Record]
    is_end: bool


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = 0  # number of the last whole record that was seen
        self._offset = 0  # where the next begins
        self._file: int | None = None
        self._hints: socket.socket | None = None

    def look(self, after: int) -> _Batch | None:
        """The next records; None when there is nothing new."""
        if self._file is None:
            try:
                self._file = os.open(self.path / "journal", os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
        buffer = os.pread(self._file, WINDOW, self._offset)
        records, last, used = decode(buffer, self.last, after)
        if not used and len(buffer) == WINDOW:
            records, last, used = decode(os.pread(self._file, _LONGEST, self._offset), self.last, after)
        if not used:
            return None
        self.last = last
        self._offset += used
        return _Batch(records, bool(records) and records[-1].stream is Stream.EXIT)

    async def wait(self) -> None:
        """Until it is worth another look."""
        if self._hints is None:
            self._hints = self._dial()
            if self._hints is None:
                await anyio.sleep(_BLIND_S)
            return  # look once more: from now on nothing is missed
        with anyio.move_on_after(_LOOK_S):
            await anyio.wait_readable(self._hints)
            try:
                is_over = not self._hints.recv(65536)
            except BlockingIOError:
                return
            except ConnectionError:
                is_over = True
            if is_over:
                self._hang_up()

    def _dial(self) -> socket.socket | None:
        """None when the keeper is not there yet, or not any more: then looking must do."""
        try:
            line = attempt.dial(self.path)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            return None
        try:
            line.send(_FOLLOW)
        except ConnectionError:
            line.close()
            return None
        return line

    def _hang_up(self) -> None:
        if self._hints is not None:
            self._hints.close()
            self._hints = None

    def close(self) -> None:
        self._hang_up()
        if self._file is not None:
            os.close(self._file)
            self._file = None
