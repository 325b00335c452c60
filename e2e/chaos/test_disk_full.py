"""The disk of a host is full: its agents do not notice, and what could not be kept is counted."""

import errno
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.chaos.world import a_world, figures, is_whole
from e2e.harness import until

pytestmark = pytest.mark.timeout(180)

MIB = 1024 * 1024
DISK_MIB = 300  # a gateway takes no task with less than 256 MiB


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own. Mounting wants root, as it is in CI."""
    disk = tmp_path / "h1"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path) -> Path:
    """To the last page."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        size = 0
        for step in (16 * MIB, MIB, 64 * 1024, 4096):
            while True:
                try:
                    os.posix_fallocate(file.fileno(), size, step)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break
                size += step
    return ballast


async def test_a_full_disk_disturbs_no_agent_and_what_was_lost_is_counted(tmp_path: Path, small_disk: Path):
    """Fault 16. The agent goes on and keeps its exit code; its log says how many lines are missing, and where; new
    offers are refused with `disk_full`; when there is room again they are taken, all without help. A gateway that is
    killed meanwhile finds its way on the full disk.
    """
    count = 4000
    async with a_world(tmp_path, hosts=0) as world:
        host = await world.add_host("h1")
        task = await world.submit(f"lines --count {count} --rate 200 --code 7")
        agent = await world.wait_signed(task["id"])
        await world.wait_lines(task["id"], 100)
        path = host.attempt_of(task["id"])
        assert path is not None
        ballast = fill(small_disk)
        sizes = [0]

        def is_stuck() -> bool:
            sizes.append((path / "journal").stat().st_size)
            return sizes[-1] == sizes[-2]

        await until(is_stuck, 20, "the journal does not grow any more", every_s=0.3)
        await world.kill_and_start(host)
        await world.api.wait_host("h1")
        other = await world.submit("exits")

        async def is_refused() -> bool:
            events = await world.api.events(other["id"])
            return any(event["data"].get("reason") == "disk_full" for event in events)

        await until(is_refused, 30, "the offer is refused with disk_full", every_s=0.1)
        ballast.unlink()
        after = await world.api.wait_final(other["id"])
        ended = await world.api.wait_final(task["id"])
        events = await world.api.events(task["id"])
        lines = await world.lines(task["id"])

    logged = [event["content"] for event in events if event["type"] == "log"]
    lost = [int(found[1]) for text in logged if (found := re.match(r"(\d+) records of the agent's output", text))]
    numbers = [int(line.removeprefix("line ")) for line in lines]
    assert sum(lost) + len(lines) == count
    assert lost
    assert numbers == sorted(set(numbers))
    assert is_whole([event["id"] for event in events])
    assert (ended["result"]["exitCode"], ended["reason"]) == (7, "exit_nonzero")
    assert [start.pid for start in world.signed(task["id"])] == [agent.pid]
    assert after["status"] == "completed"
    figures("disk full on the host", lines=count, kept=len(lines), counted_as_lost=sum(lost), gaps=len(lost))
