"""Attempts of the fake agent under real keepers, and a look at what is left of them."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import aclosing
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import msgspec
import pytest

from gateway.agents.base import Record, Stream
from gateway.runtime import attempt
from gateway.runtime.cgroups import Cgroups, end
from gateway.runtime.process import Keeper, KeeperSpec

AGENT = Path(__file__).with_name("agent.py")
_numbers = count(1)


class House:
    """One host's attempts. Leaving it ends whatever is left."""

    def __init__(self, home: Path, *, has_cgroups: bool = False) -> None:
        self.home = home
        self.cgroups = Cgroups(home, is_wanted=has_cgroups)
        self.cgroups.find()
        if has_cgroups and self.cgroups.place is None:
            pytest.fail("there is no cgroup v2 that may be divided here: run this test as root, on Linux 5.14 or newer")
        self.cwd = home / "work"
        self.cwd.mkdir(parents=True)
        self.uids: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for uid in self.uids:
            path = attempt.directory(self.home, uid)
            if attempt.is_kept(path) and (state := attempt.state(path)) is not None:
                os.kill(state.pid, signal.SIGKILL)
            for pid in survivors(uid):
                os.kill(pid, signal.SIGKILL)
            if (cgroup := self.cgroups.path(uid)) is not None:
                end(cgroup)

    def uid(self) -> str:
        uid = f"t{os.getpid()}-{next(_numbers)}-{os.urandom(3).hex()}"
        self.uids.append(uid)
        return uid

    def spec(self, uid: str, *words: str, **changes: Any) -> KeeperSpec:
        """The fake agent with these words; `changes` are fields of the spec."""
        fields: dict[str, Any] = {
            "argv": (sys.executable, "-I", "-S", str(AGENT), "--tag", uid, *words),
            "env": {"PATH": "/usr/bin:/bin"},
            "cwd": str(self.cwd),
            "roots": (str(self.cwd),),
            "grace_s": 2.0,
            "cgroup": self.cgroups.path(uid),
        }
        return KeeperSpec(**fields | changes)

    async def start(self, *words: str, **changes: Any) -> Keeper:
        uid = self.uid()
        return await Keeper.start(self.home, uid, self.spec(uid, *words, **changes))

    async def run(self, *words: str, **changes: Any) -> tuple[Keeper, list[Record]]:
        """Start it and follow it to its end."""
        keeper = await self.start(*words, **changes)
        return keeper, await records(keeper)


async def records(keeper: Keeper, after: int = 0) -> list[Record]:
    """All of them, to the end. They must have no gap."""
    found: list[Record] = []
    async for batch in keeper.spool.records(after):
        found += batch
    assert [record.seq for record in found] == list(range(after + 1, after + 1 + len(found)))
    return found


async def wait_heard(keeper: Keeper, wanted: bytes, stream: Stream = Stream.OUT) -> Record:
    """Until the agent has said it."""
    async with aclosing(keeper.spool.records(0)) as batches:
        async for batch in batches:
            for record in batch:
                if record.stream is stream and wanted in record.data:
                    return record
    raise AssertionError(f"the agent ended without {wanted!r}")


async def wait_until(condition: Callable[[], bool]) -> None:
    """For what nobody announces. The test's own timeout ends it."""
    while not condition():  # noqa: ASYNC110 - there is no event to wait for
        await anyio.sleep(0.005)


def said(found: Sequence[Record], stream: Stream = Stream.OUT) -> list[bytes]:
    return [record.data for record in found if record.stream is stream]


def notes(found: Sequence[Record]) -> list[dict[str, Any]]:
    return [msgspec.json.decode(data) for data in said(found, Stream.NOTE)]


def survivors(uid: str) -> list[int]:
    """Processes that carry the attempt's name in their environment or their command line."""
    name = uid.encode()
    left = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            if name in (entry / "environ").read_bytes() or name in (entry / "cmdline").read_bytes():
                left.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return left


def is_running(pid: int) -> bool:
    """There, and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
