import fcntl
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from gateway.agents.base import ExitFacts, Record, StdinMode, Stream
from gateway.core import journal
from gateway.core.journal import decode, encode, exit_facts
from gateway.errors import CannotRun, KeeperLost, KeeperTooNew
from gateway.runtime import attempt, keeper
from gateway.runtime.cgroups import Cgroups
from gateway.runtime.process import Keeper, Stranger, prepare
from tests.fakes.attempts import House, is_running, notes, records, said, survivors, wait_heard, wait_until

MIB = 1024 * 1024


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(tmp_path) as house:
        yield house


@pytest.fixture(params=[False, True], ids=["no cgroup", "cgroup"])
def any_house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    """With and without cgroups."""
    with House(tmp_path, has_cgroups=request.param) as house:
        yield house


@pytest.fixture
def divided(tmp_path: Path) -> Iterator[House]:
    """A house where each agent has a cgroup."""
    with House(tmp_path, has_cgroups=True) as house:
        yield house


def facts_of(found: list[Record]) -> ExitFacts:
    assert found[-1].stream is Stream.EXIT
    return exit_facts(found[-1].data)


def status(pid: int, name: str) -> int:
    """A number of /proc/<pid>/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise AssertionError(name)


# --- nothing is left ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left_behind", [("forks-and-setsids",), ("double-forks",), ("double-forks", "--bare")])
@pytest.mark.parametrize("end", ["exit", "crash", "abort", "timeout"])
async def test_nothing_is_left_of_the_tree(house: House, left_behind: tuple[str, ...], end: str):
    then = "hang" if end in ("abort", "timeout") else end
    keeper = await house.start(*left_behind, "--then", then, run_s=0.5 if end == "timeout" else None)
    if end == "abort":
        await wait_heard(keeper, b"left")
        await keeper.stop("abort", 2000)

    found = await records(keeper)

    assert survivors(keeper.uid) == []
    assert said(found) == [b"left"]
    facts = await keeper.wait_gone()
    expected = {"exit": (0, None, None), "crash": (None, 11, None), "abort": (None, 15, "abort")}
    assert (facts.code, facts.signal, facts.stop) == expected.get(end, (None, 15, "run_timeout"))


@pytest.mark.parametrize("end", ["exit", "crash", "abort", "timeout"])
async def test_nothing_that_hides_is_left_ten_seconds_after_any_end(any_house: House, end: str):
    then = "hang" if end in ("abort", "timeout") else end
    keeper = await any_house.start("hides", "--then", then, run_s=1.0 if end == "timeout" else None, grace_s=0.5)
    await wait_heard(keeper, b"left")
    if end == "abort":
        await keeper.stop("abort", 500)
    with anyio.fail_after(10):
        facts = await keeper.wait_gone()

    assert survivors(keeper.uid) == []
    expected = {"exit": (0, None, None), "crash": (None, 11, None), "abort": (None, 9, "abort")}
    assert (facts.code, facts.signal, facts.stop) == expected.get(end, (None, 9, "run_timeout"))
    assert cgroup_of(any_house, keeper) is None


def cgroup_of(house: House, keeper: Keeper) -> Path | None:
    """None: there is none, or not any more."""
    path = house.cgroups.path(keeper.uid)
    return Path(path) if path is not None and Path(path).exists() else None


def members(cgroup: Path) -> set[int]:
    return {int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()}


async def test_an_agent_has_a_cgroup_of_its_own_in_which_its_keeper_is_not(divided: House):
    keeper = await divided.start("hides", "--then", "hang")
    await wait_heard(keeper, b"left")

    cgroup = cgroup_of(divided, keeper)
    assert cgroup is not None
    inside = members(cgroup)
    assert inside == set(survivors(keeper.uid))
    assert len(inside) == 4
    assert keeper.pid not in inside
    state = attempt.state(keeper.path)
    assert state is not None
    assert state.cgroup == str(cgroup)


def changed_keeper(change: str, path: Path) -> Path:
    """The keeper's program with some of it done over, otherwise."""
    source, is_main, rest = Path(keeper.__file__).read_text().partition('if __name__ == "__main__":')
    path.write_text(f"{source}\n{change}\n\n{is_main}{rest}")
    return path


CANNOT = """
def cannot(*_):
    raise OSError(errno.EPERM, "no")

"""


@pytest.mark.parametrize(
    ("what", "is_inside"),
    [
        ("Libc.fork_into = cannot", True),
        ("Libc.fork_into = Cgroup.enter = cannot", False),
        ("os.mkdir = cannot", False),
    ],
)
async def test_a_system_that_forbids_one_way_into_a_cgroup_is_served_another_way(
    divided: House, tmp_path: Path, what: str, is_inside: bool
):
    uid = divided.uid()
    spec = divided.spec(uid, "double-forks", "--bare", "--then", "hang").encoded(attempt.make(divided.home, uid), uid)
    program = changed_keeper(CANNOT + what, tmp_path / "keeper-that-cannot.py")
    subprocess.run([sys.executable, "-I", "-S", program], input=spec, stdout=subprocess.DEVNULL, check=True)
    keeper = await Keeper.adopt(divided.home, uid)
    await wait_heard(keeper, b"left")

    cgroup = cgroup_of(divided, keeper)
    assert (members(cgroup) if cgroup is not None else set()) == (set(survivors(uid)) if is_inside else set())
    await keeper.stop("abort", 0)
    await keeper.wait_gone()
    assert survivors(uid) == []
    assert cgroup_of(divided, keeper) is None


async def test_where_its_cgroup_cannot_be_made_the_agent_runs_without(house: House, tmp_path: Path):
    _, found = await house.run("double-forks", "--code", "3", cgroup=str(tmp_path / "no" / "such" / "place"))

    assert facts_of(found).code == 3


async def test_a_start_that_failed_leaves_no_cgroup(divided: House):
    with pytest.raises(CannotRun):
        await divided.start("echo", argv=("/nowhere/agent",))

    path = divided.cgroups.path(divided.uids[0])
    assert path is not None
    assert not Path(path).exists()


async def test_cgroups_that_an_agent_makes_in_its_own_are_emptied_and_removed_too(divided: House):
    keeper = await divided.start("echo")
    await wait_heard(keeper, b"ready")
    cgroup = cgroup_of(divided, keeper)
    assert cgroup is not None
    (cgroup / "mine" / "deeper").mkdir(parents=True)
    stray = subprocess.Popen(["sleep", "1000"], env={})
    (cgroup / "mine" / "deeper" / "cgroup.procs").write_text(str(stray.pid))

    await keeper.write("end", b"", close=True)
    await keeper.wait_gone()

    assert stray.wait(5) == -signal.SIGKILL
    assert not cgroup.exists()


async def test_what_ignores_term_is_killed_after_a_normal_exit_too(house: House):
    keeper, found = await house.run("forks-and-setsids", "--stubborn")

    assert survivors(keeper.uid) == []
    assert facts_of(found).code == 0


async def test_what_is_left_is_asked_before_it_is_killed(house: House):
    _, found = await house.run("double-forks", "--tidies", str(house.cwd / "tidy"))

    assert (house.cwd / "tidy").exists()
    assert facts_of(found).code == 0


async def test_a_stray_that_left_the_tree_is_found_by_its_cookie(house: House):
    keeper = await house.start("echo")
    stray = subprocess.Popen(["sleep", "1000"], env={keeper_cookie(): keeper.uid})
    try:
        await keeper.write("end", b"", close=True)
        await keeper.wait_gone()

        assert stray.wait(5) == -signal.SIGKILL
    finally:
        stray.kill()
        stray.wait()


def keeper_cookie() -> str:
    return keeper.COOKIE


async def test_who_holds_stdout_may_finish_and_is_not_waited_for_for_ever(house: House):
    keeper, found = await house.run("leaks-stdout")

    assert survivors(keeper.uid) == []
    assert said(found) == [b"from the child"]
    assert facts_of(found).code == 0


async def test_an_agent_that_tidies_up_gets_the_time_for_it(house: House):
    keeper = await house.start("slow-to-stop", "--seconds", "0.3", "--code", "3")
    await wait_heard(keeper, b"ready")

    await keeper.stop("abort", 10_000)

    found = await records(keeper)
    assert said(found) == [b"ready", b"tidying up", b"tidy"]
    assert (facts_of(found).code, facts_of(found).stop) == (3, "abort")


async def test_an_agent_that_ignores_term_is_killed_after_the_grace(house: House):
    keeper = await house.start("ignores-term")
    await wait_heard(keeper, b"ready")

    await keeper.stop("abort", 200)

    found = await records(keeper)
    stopping = next(record for record in found if b"stopping" in record.data)
    assert facts_of(found).signal == signal.SIGKILL
    assert 200 <= found[-1].at - stopping.at < 2000


async def test_a_second_stop_can_only_make_it_quicker_and_the_first_reason_stays(house: House):
    keeper = await house.start("ignores-term")
    await wait_heard(keeper, b"ready")

    await keeper.stop("abort", 60_000)
    await keeper.stop("agent_done", 90_000)
    await keeper.stop("agent_done", 0)

    facts = await keeper.wait_gone()
    assert (facts.signal, facts.stop) == (9, "abort")


async def test_a_stopped_agent_is_continued_so_that_it_can_end(house: House):
    keeper = await house.start("stops-itself")
    await wait_heard(keeper, b"ready")

    await keeper.stop("abort", 30_000)

    facts = await keeper.wait_gone()
    assert (facts.signal, facts.stop) == (15, "abort")


async def test_without_grace_nothing_is_asked(house: House):
    keeper = await house.start("slow-to-stop", "--seconds", "30")
    await wait_heard(keeper, b"ready")

    await keeper.stop("abort", 0)

    found = await records(keeper)
    assert said(found) == [b"ready"]
    assert facts_of(found).signal == 9


async def test_orphans_are_reaped_while_the_agent_runs(house: House):
    keeper = await house.start("echo", argv=("/bin/sh", "-c", "for i in 1 2 3; do (/bin/true &); done; echo out; cat"))
    await wait_heard(keeper, b"out")

    children = Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children")
    await wait_until(lambda: len(children.read_text().split()) == 1)


# --- limits -------------------------------------------------------------------------------------------------------


async def test_a_run_has_an_end(house: House):
    keeper = await house.start("lines", "--rate", "50", "--count", "100000", run_s=0.4)

    facts = await keeper.wait_gone()

    assert facts.stop == "run_timeout"
    assert 400 <= facts.duration_ms < 5000


async def test_an_agent_that_says_nothing_is_stopped_early(house: House):
    _, found = await house.run("silent", first_output_s=0.2, idle_s=60)

    assert facts_of(found).stop == "start_timeout"
    assert {"note": "stopping", "reason": "start_timeout", "graceMs": 2000} in notes(found)


async def test_an_agent_that_falls_silent_is_stopped(house: House):
    _, found = await house.run("result-then-hangs", first_output_s=60, idle_s=0.3)

    assert facts_of(found).stop == "idle_timeout"


async def test_an_agent_that_goes_on_talking_is_not_idle(house: House):
    _, found = await house.run("lines", "--rate", "20", "--count", "20", idle_s=0.7)

    assert facts_of(found) == ExitFacts(0, None, None, facts_of(found).duration_ms)
    assert len(said(found)) == 20


async def test_a_keeper_that_is_told_to_end_ends_its_agent_in_order(house: House):
    keeper = await house.start("forks-and-setsids", "--then", "hang")
    await wait_heard(keeper, b"left")

    os.kill(keeper.pid, signal.SIGTERM)

    facts = await keeper.wait_gone()
    assert (facts.signal, facts.stop) == (15, "host_stopping")
    assert survivors(keeper.uid) == []


# --- what the agent says ------------------------------------------------------------------------------------------


async def test_every_line_is_a_record_and_both_streams_are_kept(house: House):
    _, out = await house.run("lines", "--count", "3000")
    _, err = await house.run("lines", "--count", "3", "--stderr", "--code", "7")

    assert said(out) == [b"line %d" % number for number in range(3000)]
    assert said(err, Stream.ERR) == [b"line 0", b"line 1", b"line 2"]
    assert facts_of(err).code == 7


async def test_the_last_line_counts_without_its_newline(house: House):
    _, found = await house.run("half-a-line")

    assert said(found) == [b"whole", b"half"]


async def test_bytes_are_kept_as_they_came(house: House):
    _, found = await house.run("not-utf8")
    _, coloured = await house.run("ansi")

    assert said(found) == [b"\xff\xfe caf\xe9", bytes(range(1, 10)) + b"\0", "line\u2028separator\r".encode()]
    assert said(coloured) == [b"\x1b[31mred\x1b[0m\a\x1b]0;title\a"]


@pytest.mark.parametrize("size", [keeper.SLICE - 1, keeper.SLICE, keeper.SLICE + 1, 10 * MIB + 5])
async def test_a_long_line_comes_in_slices(house: House, size: int):
    _, found = await house.run("long-line", "--count", str(size))

    out = [record for record in found if record.stream is Stream.OUT]
    *slices, short = out
    assert short.data == b"short"
    assert [record.partial for record in slices] == [True] * (len(slices) - 1) + [False]
    assert all(0 < len(record.data) <= keeper.SLICE for record in slices)
    whole = b"".join(record.data for record in slices)
    assert whole == (b"0123456789abcdef" * (size // 16 + 1))[:size]


@pytest.mark.parametrize("width", ["80", "0", "-1"])
async def test_memory_is_bounded_whatever_is_printed(house: House, width: str):
    count = "1" if width == "0" else "100"
    keeper = await house.start("floods", "--count", count, "--width", width, "--then", "hang")

    await wait_heard(keeper, b"done", Stream.ERR)

    assert status(keeper.pid, "VmHWM") < 40 * 1024
    await keeper.stop("abort", 0)
    await keeper.wait_gone()


async def test_output_to_a_file_is_kept_to_the_last_byte_and_given_back(house: House):
    keeper = await house.start("floods", "--count", "20", "--then", "crash", stdout_to_file=True)

    found = await records(keeper)

    assert said(found) == [b"x" * 80] * (20 * (MIB // 81))
    assert facts_of(found).signal == 11
    assert not (keeper.path / "stdout").exists()


async def test_the_file_of_an_endless_output_does_not_grow(house: House):
    keeper = await house.start("floods", "--count", "40", "--then", "hang", stdout_to_file=True)

    await wait_heard(keeper, b"done", Stream.ERR)

    def on_disk() -> int:
        sizes = []
        for fd in Path(f"/proc/{keeper.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # it opens and closes others meanwhile
                if os.readlink(fd).endswith("stdout (deleted)"):
                    sizes.append(fd.stat().st_blocks * 512)
        return max(sizes)

    await wait_until(lambda: on_disk() < 10 * MIB)


async def test_output_to_a_file_is_heard_while_it_is_written(house: House):
    keeper = await house.start("looks-around", "--then", "hang", stdout_to_file=True)

    seen = json.loads((await wait_heard(keeper, b"{")).data)

    assert seen["stdout"].startswith(str(keeper.path))
    await keeper.stop("abort", 0)


# --- what cannot be kept ------------------------------------------------------------------------------------------


async def test_beyond_the_cap_lines_are_counted_and_the_agent_goes_on(house: House):
    _, found = await house.run("lines", "--count", "20000", "--code", "5", cap_bytes=100_000)

    (gap,) = (json.loads(data) for data in said(found, Stream.GAP))
    kept = said(found)
    assert kept == [b"line %d" % number for number in range(len(kept))]
    assert len(kept) + gap["records"] == 20_000
    assert gap["bytes"] == sum(len(b"line %d" % number) for number in range(len(kept), 20_000))
    assert {"note": "capped", "bytes": 100_000} in notes(found)
    assert facts_of(found).code == 5


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.fail("a full disk is tested on a tmpfs, and mounting one needs root: run this test as root")
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


async def test_a_full_disk_loses_counted_lines_and_neither_agent_nor_exit_code(tmp_path: Path):
    with small_disk(tmp_path / "disk", "1m") as disk, House(disk) as house:
        await (await prepare(house.home)).aclose()  # the program is there before the disk is full
        _, found = await house.run("lines", "--count", "60000", "--code", "9")

        kept = said(found)
        lost = sum(json.loads(data)["records"] for data in said(found, Stream.GAP))
        assert kept == [b"line %d" % number for number in range(len(kept))]
        assert 0 < len(kept) < 60_000
        assert len(kept) + lost == 60_000
        assert facts_of(found).code == 9


async def test_when_there_is_room_again_the_gap_is_said_and_keeping_goes_on(tmp_path: Path):
    with small_disk(tmp_path / "disk", "2m") as disk, House(disk) as house:
        keeper = await house.start("echo")
        await wait_heard(keeper, b"ready")
        fill(disk / "filler")
        for number in range(100):
            await lose(keeper, number)
        (disk / "filler").unlink()

        assert await keeper.write("after", b"after\n")  # waits for the room
        await wait_heard(keeper, b"echo: after")
        await keeper.write("end", b"", close=True)

        assert facts_of(await records(keeper)).code == 0


async def lose(keeper: Keeper, number: int) -> None:
    """A write that the full disk may or may not take."""
    with anyio.move_on_after(0.02):
        await keeper.write(f"lost-{number}", b"x" * 4000 + b"\n")


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


async def test_the_exit_code_is_kept_when_nothing_else_fits(tmp_path: Path):
    with small_disk(tmp_path / "disk", "1m") as disk, House(disk) as house:
        keeper = await house.start("echo", "--code", "4")
        await wait_heard(keeper, b"ready")
        fill(disk / "filler")

        async with anyio.create_task_group() as group:
            group.start_soon(keep_full, disk / "filler", keeper)
            os.kill(next(pid for pid in survivors(keeper.uid) if pid != keeper.pid), signal.SIGUSR1)
            facts = await keeper.wait_gone()

        assert facts.signal == signal.SIGUSR1
        assert facts_of(await records(keeper)) == facts


async def keep_full(path: Path, keeper: Keeper) -> None:
    """Whatever becomes free is gone at once."""
    with path.open("ab", buffering=0) as file:
        while attempt.is_kept(keeper.path):
            try:
                file.write(b"x" * 4096)
            except OSError:
                await checkpoint()


async def test_nothing_is_started_where_nothing_can_be_kept(tmp_path: Path):
    with small_disk(tmp_path / "disk", "1m") as disk, House(disk) as house:
        await (await prepare(house.home)).aclose()
        fill(disk / "filler")

        with pytest.raises(CannotRun) as refusal:
            await house.start("echo")

        assert refusal.value.reason == "disk_full"
        assert survivors(house.uids[0]) == []


# --- what is said to the agent ------------------------------------------------------------------------------------


async def test_what_is_said_is_in_the_journal_before_it_is_answered(house: House):
    keeper = await house.start("echo")

    assert await keeper.write("one", b"first\nsecond\n")
    assert await keeper.write("two", b"", close=True)

    found = await records(keeper)
    order = [(record.stream, record.data) for record in found if record.stream in (Stream.IN, Stream.OUT)]
    assert [data for stream, data in order if stream is Stream.IN] == [b"one\0first\nsecond\n", b"two\0"]
    assert said(found)[-3:] == [b"echo: first", b"echo: second", b"end of input"]
    assert order.index((Stream.IN, b"one\0first\nsecond\n")) < order.index((Stream.OUT, b"echo: first"))
    assert {"note": "stdin_closed", "by": "us"} in notes(found)


async def test_once_is_written_and_closed(house: House):
    prompt = b"-p --version 'quoted' $(whoami)\n" * 10_000
    _, found = await house.run("counts", stdin_mode=StdinMode.ONCE, stdin=prompt)

    assert said(found) == [str(len(prompt)).encode()]
    assert said(found, Stream.IN) == [b"launch\0" + prompt]


async def test_without_stdin_there_is_nothing_to_read(house: House):
    keeper, found = await house.run("counts", stdin_mode=StdinMode.NULL)

    assert said(found) == [b"0"]
    assert not await keeper.write("late", b"x")


async def test_an_agent_that_closes_its_stdin_does_no_harm(house: House):
    keeper = await house.start("closes-stdin", "--then", "hang")
    await wait_heard(keeper, b"deaf")

    assert not await keeper.write("into the void", b"hello\n")
    assert not await keeper.write("again", b"hello\n")

    await keeper.stop("abort", 0)
    found = await records(keeper)
    assert notes(found).count({"note": "stdin_closed", "by": "agent"}) == 1
    assert said(found, Stream.IN) == []


async def test_what_a_gateway_notes_is_in_the_journal_once_and_never_beside_a_write_of_the_same_key(house: House):
    keeper = await house.start("echo")
    refused = {"note": "refused", "why": "\u00e9\u0000"}

    assert await keeper.write("said", b"hello\n")
    for key in ("said", "refused", "refused"):
        assert await keeper.note(key, refused)
    assert await keeper.write("refused", b"too late\n")
    await keeper.write("end", b"", close=True)

    found = await records(keeper)
    assert [note for note in notes(found) if note["note"] == "refused"] == [refused]
    assert said(found, Stream.IN) == [b"said\0hello\n", b"end\0"]
    assert not await keeper.note("late", refused)


async def test_an_agent_is_not_alive_because_something_is_noted(house: House):
    keeper = await house.start("silent", idle_s=0.3)
    with anyio.fail_after(10):
        number = 0
        while await keeper.note(str(number), {"note": "refused"}):
            number += 1

    assert facts_of(await records(keeper)).stop == "idle_timeout"


async def test_a_note_of_any_size_may_be_asked_for_and_only_a_short_one_is_kept(house: House):
    keeper = await house.start("silent")

    assert not await keeper.note("long", {"note": "x" * 5000})
    assert await keeper.note("short", {"note": "x" * 4000})

    await keeper.stop("abort", 0)
    assert [len(note["note"]) for note in notes(await records(keeper))].count(4000) == 1


async def test_an_agent_that_reads_nothing_holds_nobody_up(house: House):
    keeper = await house.start("reads-nothing")
    await wait_heard(keeper, b"ready")
    with anyio.move_on_after(2) as patience:
        for number in range(10):
            await keeper.write(str(number), b"x" * MIB)

    assert patience.cancelled_caught  # what waits for it is bounded
    assert status(keeper.pid, "VmRSS") < 60 * 1024
    await keeper.stop("abort", 2000)
    assert (await keeper.wait_gone()).signal == 15


# --- where and what it is -----------------------------------------------------------------------------------------


async def test_an_agent_gets_what_was_said_and_nothing_else(house: House):
    env = {"PATH": "/usr/bin:/bin", "TOKEN": "s3cret", "ODD": "caf\udce9"}
    keeper, found = await house.run("looks-around", env=env, stdin_mode=StdinMode.NULL, nice=3, oom_score_adj=200)

    seen = json.loads(said(found)[0])
    env_seen = {name: value for name, value in seen["env"].items() if name != "LC_CTYPE"}  # Python's own addition
    assert env_seen == {**env, "FLEETGATE_ATTEMPT": keeper.uid}
    assert seen["cwd"] == str(house.cwd)
    assert seen["fds"] == [0, 1, 2]
    assert seen["session"]
    assert (seen["nice"], seen["oom"]) == (3, 200)
    assert seen["stdin"] == "/dev/null"
    own = os.umask(0o22)
    os.umask(own)
    assert seen["umask"] == own
    assert b"s3cret" not in b"".join(path.read_bytes() for path in keeper.path.iterdir() if path.name != "journal"
                                     and path.is_file())  # fmt: skip


async def test_signals_are_as_a_new_program_expects_them(house: House):
    _, found = await house.run(argv=("/bin/cat", "/proc/self/status"), stdin_mode=StdinMode.NULL)

    of_signals = {line.split(b":")[0]: int(line.split()[1], 16) for line in said(found) if line.startswith(b"Sig")
                  and b"/" not in line}  # fmt: skip
    assert (of_signals[b"SigIgn"], of_signals[b"SigBlk"], of_signals[b"SigCgt"]) == (0, 0, 0)


Place = Callable[[House], Path]


def outside(house: House) -> Path:
    (house.home / "outside").mkdir()
    return house.home / "outside"


def twin(house: House) -> Path:
    """A name that begins like the root's."""
    (house.home / "work-evil").mkdir()
    return house.home / "work-evil"


def dotted(house: House) -> Path:
    return outside(house) and house.cwd / ".." / "outside"


def linked(house: House) -> Path:
    (house.cwd / "link").symlink_to(outside(house))
    return house.cwd / "link"


@pytest.mark.parametrize("place", [outside, twin, dotted, linked, lambda _: Path("/")])
async def test_a_directory_outside_the_roots_is_refused(house: House, place: Place):
    with pytest.raises(CannotRun) as refusal:
        await house.start("echo", cwd=str(place(house)))

    assert refusal.value.reason == "cwd_not_allowed"
    assert survivors(house.uids[0]) == []


async def test_a_directory_that_is_swapped_for_a_link_is_refused_at_the_moment_of_use(house: House):
    inside = house.cwd / "project"
    inside.mkdir()
    uid = house.uid()
    spec = house.spec(uid, "echo", cwd=str(inside))
    ready = await prepare(house.home)
    inside.rmdir()
    inside.symlink_to(outside(house))

    with pytest.raises(CannotRun) as refusal:
        await Keeper.start(house.home, uid, spec, lambda: ready)

    assert refusal.value.reason == "cwd_not_allowed"


SWAP = """
import os, sys
from gateway.runtime import keeper

spec = keeper.Spec(sys.stdin.buffer.read())
enter = keeper.enter

def enter_and_be_fooled(spec):
    judged = enter(spec)
    os.rename(spec.cwd, spec.cwd + "-moved")
    os.symlink("/", spec.cwd)
    return judged

keeper.enter = enter_and_be_fooled
child = keeper.spawn(spec, keeper.Libc(), 0o22, -1)
os.waitpid(child.pid, 0)
print(os.read(child.stdout, 1000).decode(), end="")
"""


def test_what_is_judged_is_what_is_used_though_it_is_swapped_in_between(house: House):
    inside = house.cwd / "project"
    inside.mkdir()
    uid = house.uid()
    spec = house.spec(uid, argv=("/bin/pwd", "-P"), cwd=str(inside), stdin_mode=StdinMode.NULL)

    done = subprocess.run(
        [sys.executable, "-c", SWAP],
        input=spec.encoded(attempt.make(house.home, uid), uid),
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        check=True,
    )

    assert done.stdout.decode().strip() == f"{inside}-moved"


async def test_links_that_stay_inside_are_followed_and_a_linked_root_is_a_root(house: House):
    (house.cwd / "real").mkdir()
    (house.cwd / "link").symlink_to("real")
    (house.home / "root").symlink_to(house.cwd)
    _, found = await house.run("looks-around", cwd=str(house.cwd / "link"), roots=(str(house.home / "root"),))

    assert json.loads(said(found)[0])["cwd"] == str(house.cwd / "real")


async def test_everything_is_allowed_where_the_owner_says_so(house: House):
    _, found = await house.run("looks-around", cwd="/", roots=("/",))

    assert json.loads(said(found)[0])["cwd"] == "/"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"argv": ("/nowhere/agent",)}, "missing_executable"),
        ({"argv": ("agent",)}, "missing_executable"),
        ({"argv": ("/etc/passwd",)}, "spawn_failed"),
        ({"argv": ("/etc/passwd/agent",)}, "missing_executable"),
        ({"argv": ("/bin/true", "x" * 3 * MIB)}, "spawn_failed"),
        ({"cwd": "/nowhere"}, "cwd_missing"),
        ({"cwd": "/etc/passwd", "roots": ("/",)}, "cwd_missing"),
        ({"roots": ()}, "cwd_not_allowed"),
        ({"argv": ("/bin/true", "a\0b")}, "spawn_failed"),
        ({"argv": ()}, "spawn_failed"),
        ({"env": {"A=B": "c"}}, "spawn_failed"),
    ],
)
async def test_why_it_was_not_started_is_said_exactly(house: House, changes: dict[str, Any], reason: str):
    with pytest.raises(CannotRun) as refusal:
        await house.start("echo", **changes)

    assert refusal.value.reason == reason
    assert survivors(house.uids[0]) == []


async def test_a_start_that_failed_is_written_down_for_a_gateway_that_did_not_hear_it(house: House):
    with pytest.raises(CannotRun):
        await house.start("echo", argv=("/nowhere/agent",))

    adopted = await Keeper.adopt(house.home, house.uids[0])

    found = await records(adopted)
    assert facts_of(found) == ExitFacts(None, None, "missing_executable", 0)
    assert notes(found)[0]["reason"] == "missing_executable"
    assert adopted.exit_facts == facts_of(found)


# --- one keeper, once ---------------------------------------------------------------------------------------------


def run_keeper(house: House, uid: str, **changes: Any) -> subprocess.CompletedProcess[bytes]:
    """The program itself, uncompiled, as its docstring says."""
    spec = house.spec(uid, "silent", **changes).encoded(attempt.make(house.home, uid), uid)
    program = [sys.executable, "-I", "-S", keeper.__file__]
    return subprocess.run(program, input=spec, capture_output=True, timeout=30, check=False)


def test_a_second_start_is_impossible_while_the_first_lives_and_ever_after(house: House):
    uid = house.uid()

    assert run_keeper(house, uid).returncode == keeper.STARTED
    assert run_keeper(house, uid).returncode == keeper.BUSY
    state = attempt.state(attempt.directory(house.home, uid))
    assert state is not None
    os.kill(state.pid, signal.SIGKILL)
    while attempt.is_kept(attempt.directory(house.home, uid)):
        pass
    assert run_keeper(house, uid).returncode == keeper.SPENT
    assert state == attempt.state(attempt.directory(house.home, uid))


def test_who_only_looks_at_the_lock_does_not_hinder_a_start(house: House):
    uid = house.uid()
    path = attempt.make(house.home, uid)
    with (path / "lock").open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        subprocess.Popen(["sh", "-c", "sleep 0.03"], pass_fds=[looking.fileno()]).wait()
        fcntl.flock(looking, fcntl.LOCK_UN)

    assert run_keeper(house, uid).returncode == keeper.STARTED


def test_a_spec_that_is_none_starts_nothing(house: House):
    program = [sys.executable, "-I", "-S", keeper.__file__]
    for spec in (b"", b"{}", b"[]", b"nonsense", b'{"v": 2}'):
        done = subprocess.run(program, input=spec, capture_output=True, timeout=30, check=False)

        assert done.returncode == keeper.BAD_SPEC
        assert json.loads(done.stdout)["detail"]


async def test_the_keeper_is_nobodys_child_and_small(house: House):
    keeper = await house.start("silent")

    assert status(keeper.pid, "PPid") != os.getpid()
    assert os.getsid(keeper.pid) != os.getsid(0)
    assert status(keeper.pid, "VmRSS") <= 14 * 1024
    assert status(keeper.pid, "Threads") == 1
    assert os.readlink(f"/proc/{keeper.pid}/cwd") == "/"


async def test_no_secret_is_in_the_keepers_command_line_or_environment(house: House):
    keeper = await house.start("silent", env={"TOKEN": "s3cret"}, stdin=b"s3cret")

    proc = Path(f"/proc/{keeper.pid}")
    assert b"s3cret" not in (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()


# --- when somebody is killed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("left_behind", ["forks-and-setsids", "double-forks"])
async def test_when_the_keeper_is_killed_nothing_of_the_agent_is_left(house: House, left_behind: str):
    keeper = await house.start(left_behind, "--then", "hang")
    await wait_heard(keeper, b"left")
    os.kill(keeper.pid, signal.SIGKILL)

    with pytest.raises(KeeperLost):
        await records(keeper)

    assert survivors(keeper.uid) == []
    with pytest.raises(KeeperLost):
        await Keeper.adopt(house.home, keeper.uid)
    assert keeper.exit_facts is None


async def test_when_the_keeper_is_killed_its_agents_cgroup_is_emptied_within_a_second(divided: House):
    keeper = await divided.start("hides", "--then", "hang")
    await wait_heard(keeper, b"left")
    assert len(survivors(keeper.uid)) == 4
    os.kill(keeper.pid, signal.SIGKILL)

    with anyio.fail_after(5), pytest.raises(KeeperLost):  # a second, and what a busy machine adds
        await records(keeper)

    await wait_until(lambda: survivors(keeper.uid) == [])
    assert cgroup_of(divided, keeper) is None


async def test_a_new_gateway_ends_what_a_dead_keeper_left_though_the_attempt_is_forgotten(divided: House):
    living, dead = [await divided.start("hides", "--then", "hang") for _ in range(2)]
    for one in (living, dead):
        await wait_heard(one, b"left")
    os.kill(dead.pid, signal.SIGKILL)
    await wait_until(lambda: not attempt.is_kept(dead.path))
    attempt.forget(divided.home, dead.uid)

    Cgroups(divided.home, is_wanted=True).find()

    await wait_until(lambda: survivors(dead.uid) == [])
    assert cgroup_of(divided, dead) is None
    assert len(survivors(living.uid)) == 4
    await living.stop("abort", 0)
    await living.wait_gone()


async def test_a_cgroup_that_is_not_the_attempts_is_not_touched(divided: House):
    other = await divided.start("silent")
    state = attempt.state(other.path)
    assert state is not None
    forged = attempt.make(divided.home, divided.uid())
    (forged / "state.json").write_bytes(msgspec.json.encode(state))

    await attempt.sweep(forged)

    assert len(survivors(other.uid)) == 1
    await other.stop("abort", 0)
    await other.wait_gone()


async def test_an_agent_dies_with_its_keeper_though_nobody_looks(house: House):
    keeper = await house.start("ignores-term")
    await wait_heard(keeper, b"ready")
    agent = json.loads(ask(keeper, b'{"op":"hello"}\n'))["child"]

    os.kill(keeper.pid, signal.SIGKILL)

    await wait_until(lambda: not is_running(agent))


# What keepers knew before there were notes, leases, cgroups and masks.
OF_OLD = """
VERSION = 0

def answer(self, peer, asked, answer_of_today=Keeper.answer):
    if asked["op"] not in ("hello", "write", "stop"):
        raise ValueError("op")
    said = answer_of_today(self, peer, asked)
    return {name: said[name] for name in said if name in ("ok", "v", "pid", "startTime", "lastSeq", "error")}

def claim(directory, spec, me, claim_of_today=claim):
    is_first = claim_of_today(directory, spec, me)
    with open(spec.directory + "/state.json", "r+") as file:
        said = json.load(file)
        file.seek(0)
        file.truncate()
        json.dump({name: said[name] for name in ("v", "uid", "pid", "startTime", "bootId")}, file)
    return is_first

Keeper.answer = answer
"""


async def test_a_keeper_of_an_earlier_release_is_adopted_read_written_to_and_stopped(house: House, tmp_path: Path):
    uid = house.uid()
    spec = json.loads(house.spec(uid, "echo").encoded(attempt.make(house.home, uid), uid))
    program = changed_keeper(OF_OLD, tmp_path / "keeper-of-old.py")
    subprocess.run(
        [sys.executable, "-I", "-S", program],
        input=json.dumps({**spec, "v": 0}).encode(),
        stdout=subprocess.DEVNULL,
        check=True,
    )

    adopted = await Keeper.adopt(house.home, uid)
    await wait_heard(adopted, b"ready")
    assert json.loads(ask(adopted, b'{"op":"hello"}\n'))["v"] == 0
    assert await adopted.write("one", b"hello\n")
    assert not await adopted.note("two", {"note": "refused"})
    assert not await adopted.lease(1)
    await wait_heard(adopted, b"echo: hello")
    await adopted.stop("abort", 2000)

    found = await records(adopted)
    assert facts_of(found).stop == "abort"
    assert (await adopted.wait_gone()) == facts_of(found)
    assert json.loads((adopted.path / "exit.json").read_text())["v"] == 0
    assert survivors(uid) == []


async def test_a_keeper_of_a_newer_contract_is_not_adopted_and_goes_on(house: House, tmp_path: Path):
    uid = house.uid()
    spec = json.loads(house.spec(uid, "silent").encoded(attempt.make(house.home, uid), uid))
    program = changed_keeper("VERSION = 77", tmp_path / "keeper-to-be.py")
    told = json.dumps({**spec, "v": 77}).encode()
    subprocess.run([sys.executable, "-I", "-S", program], input=told, stdout=subprocess.DEVNULL, check=True)

    with pytest.raises(KeeperTooNew, match="contract 77"):
        await Keeper.adopt(house.home, uid)

    assert len(survivors(uid)) == 1
    stranger = Stranger.of(house.home, uid)
    assert repr(stranger).endswith("kept>")
    stranger.end()
    await stranger.wait_gone()
    stranger.end()
    assert survivors(uid) == []
    with pytest.raises(KeeperTooNew):
        await Keeper.adopt(house.home, uid)


# Writes down, for the whole life of a keeper, what is loaded from the disk after its first fork.
LOADS = """
is_late = False

def audit(event, args):
    global is_late
    if event == "os.fork":
        is_late = True
    elif event in ("import", "compile") and is_late:
        with open(LOADED, "a") as file:
            file.write(f"{event} {args[0]}\\n")

import sys
sys.addaudithook(audit)
LOADED = %r
"""


@pytest.mark.parametrize("end", ["exit", "abort", "timeout", "killed", "not started"])
async def test_a_keeper_loads_nothing_once_it_lives_so_that_an_upgrade_does_not_touch_it(
    divided: House, tmp_path: Path, end: str
):
    uid, loaded = divided.uid(), tmp_path / "loaded"
    spec = divided.spec(
        uid,
        *("double-forks", "--bare", "--stubborn", "--then", "exit" if end == "exit" else "hang"),
        run_s=0.5 if end == "timeout" else None,
        secrets=("left-and-right", "f\u00fcr niemand"),
        stdout_to_file=end == "abort",
        cwd="/nowhere" if end == "not started" else str(divided.cwd),
        until_ms=2**50,
    )
    program = changed_keeper(LOADS % str(loaded), tmp_path / "keeper-that-tells.py")
    done = subprocess.run(
        [sys.executable, "-I", "-S", program],
        input=spec.encoded(attempt.make(divided.home, uid), uid),
        stdout=subprocess.PIPE,
        check=False,
    )
    adopted = await Keeper.adopt(divided.home, uid)
    if end == "abort":
        await wait_heard(adopted, b"left")
        assert await adopted.write("one", b"left-and-right\n")
        assert await adopted.note("two", {"note": "x", "text": "left-and-right"})
        assert await adopted.lease(2**51)
        ask(adopted, b"[\n")
        ask(adopted, b'{"op":"hello","follow":true}\n')
        await adopted.stop("abort", 300)
    elif end == "killed":
        os.kill(adopted.pid, signal.SIGTERM)

    await records(adopted)
    await adopted.wait_gone()
    assert done.returncode == (keeper.NOT_SPAWNED if end == "not started" else keeper.STARTED)
    assert not loaded.exists(), loaded.read_text()


GATEWAY = """
import anyio, msgspec, sys
from pathlib import Path
from gateway.runtime.process import Keeper, KeeperSpec

async def main():
    home, uid, *argv = sys.argv[1:]
    spec = KeeperSpec(argv=tuple(argv), env={}, cwd=home + "/work", roots=(home,), run_s=%s, grace_s=0.3)
    keeper = await Keeper.start(Path(home), uid, spec)
    await keeper.write("first", b"from the first gateway\\n")
    print(keeper.pid, flush=True)
    await anyio.sleep_forever()

anyio.run(main)
"""


@contextmanager
def gateway(house: House, uid: str, *words: str, run_s: float | None = None) -> Iterator[int]:
    """A gateway that has started an attempt, and what becomes of the attempt when it is killed."""
    argv = [sys.executable, "-c", GATEWAY % run_s, str(house.home), uid, *house.spec(uid, *words).argv]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    yield pid


async def test_an_agent_outlives_its_gateway_and_the_next_one_adopts_it(house: House):
    uid = house.uid()
    with gateway(house, uid, "echo", "--code", "6") as pid:
        adopted = await Keeper.adopt(house.home, uid)

        assert adopted.pid == pid
        assert is_running(pid)
        assert await adopted.write("first", b"from the first gateway\n")
        assert await adopted.write("second", b"from the second\n", close=True)
        found = await records(adopted)
        assert said(found) == [b"ready", b"echo: from the first gateway", b"echo: from the second", b"end of input"]
        assert facts_of(found).code == 6
        assert (await adopted.wait_gone()).code == 6


async def test_limits_hold_with_no_gateway_there(house: House):
    uid = house.uid()
    with gateway(house, uid, "ignores-term", run_s=0.3):
        path = attempt.directory(house.home, uid)
        await wait_until(lambda: not attempt.is_kept(path))

        adopted = await Keeper.adopt(house.home, uid)

        assert adopted.exit_facts is not None
        assert adopted.exit_facts.stop == "run_timeout"
        assert survivors(uid) == []


# --- who asks -----------------------------------------------------------------------------------------------------


def ask(keeper: Keeper, request: bytes) -> bytes:
    with attempt.dial(keeper.path) as line:
        line.setblocking(True)
        line.settimeout(10)
        line.sendall(request)
        return line.recv(65536)


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\n",
        b"[]\n",
        b"{}\n",
        b'{"op":"dance"}\n',
        b'{"op":"write"}\n',
        b'{"op":"write","key":"","data":""}\n',
        b'{"op":"write","key":"a\\u0000b","data":""}\n',
        b'{"op":"write","key":"a","data":"%"}\n'.replace(b"%", b"x"),
        b'{"op":"stop","reason":"","graceMs":1}\n',
        b'{"op":"stop","reason":"abort","graceMs":-1}\n',
        b'{"op":"stop","reason":"abort","graceMs":1' + b"0" * 400 + b"}\n",
        b"[" * 50_000 + b"\n",
        b'{"op":["hello"]}\n',
    ],
)
async def test_a_bad_request_is_refused_and_changes_nothing(house: House, request_: bytes):
    keeper = await house.start("echo")

    answer = json.loads(ask(keeper, request_))

    assert answer["ok"] is False
    assert answer["error"] == "bad_request"
    assert await keeper.write("good", b"still here\n")
    await wait_heard(keeper, b"echo: still here")


async def test_a_request_without_end_is_hung_up_on(house: House):
    keeper = await house.start("echo")

    with attempt.dial(keeper.path) as line:
        line.setblocking(True)
        with pytest.raises(ConnectionError):
            line.sendall(b"x" * 12 * MIB)

    assert await keeper.write("good", b"still here\n")
    assert status(keeper.pid, "VmHWM") < 40 * 1024


async def test_hello_says_who_is_there(house: House):
    keeper = await house.start("echo")
    await wait_heard(keeper, b"ready")

    hello = json.loads(ask(keeper, b'{"op":"hello"}\n'))

    assert hello["pid"] == keeper.pid
    assert hello["state"] == "running"
    assert hello["lastSeq"] == 2
    assert is_running(hello["child"])


async def test_a_follower_that_does_not_listen_costs_nothing(house: House):
    keeper = await house.start("floods", "--count", "3", "--then", "hang")
    deaf = [attempt.dial(keeper.path) for _ in range(5)]
    for line in deaf:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        line.send(b'{"op":"hello","follow":true}\n' * 50)

    await wait_heard(keeper, b"done", Stream.ERR)

    assert status(keeper.pid, "VmHWM") < 40 * 1024
    for line in deaf:
        line.close()
    await keeper.stop("abort", 0)
    await keeper.wait_gone()


async def test_another_user_is_not_answered(house: House):
    if os.geteuid() != 0:
        pytest.fail("becoming another user needs root: run this test as root")
    keeper = await house.start("echo")
    for path, mode in ((keeper.path, 0o711), (keeper.path / "ctl.sock", 0o666)):
        path.chmod(mode)  # as open as a careless owner could make it
    for parent in keeper.path.parents[: len(keeper.path.parents) - 2]:
        if parent.stat().st_mode & 0o011 != 0o011:
            parent.chmod(0o711)

    code = (
        "import os, socket, sys; os.chdir(sys.argv[1]); os.setuid(65534); line = socket.socket(socket.AF_UNIX);"
        "line.connect('ctl.sock'); line.settimeout(10)\n"
        "try:\n line.sendall(b'{\"op\":\"hello\"}\\n'); print(line.recv(100))\nexcept ConnectionError: print(b'')"
    )
    said = subprocess.run([sys.executable, "-c", code, str(keeper.path)], capture_output=True, check=True).stdout

    assert said.strip() == b"b''"


# --- the format and the slicing, without a process ----------------------------------------------------------------


class Kept(keeper.Journal):
    """Keeps lines in memory."""

    def __init__(self) -> None:
        self.kept: list[tuple[bytes, int]] = []

    def output(self, stream: int, lines: list[bytes], flags: int) -> None:
        self.kept += [(line, flags) for line in lines]


@given(st.lists(st.binary(max_size=40).map(lambda data: data.replace(b"a", b"\n")), max_size=20))
def test_however_output_is_cut_the_lines_are_the_same(chunks: list[bytes]):
    kept = Kept()
    lines = keeper.Lines(kept, keeper.OUT)

    for chunk in chunks:
        lines.feed(chunk)
    lines.end()

    expected = b"".join(chunks).split(b"\n")
    assert [line for line, _ in kept.kept] == (expected[:-1] if not expected[-1] else expected)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, keeper.CHUNK // 4)), max_size=60), st.integers(1, 4))
def test_slices_put_together_are_the_lines(shape: list[tuple[int, int]], scale: int):
    output = b"\n".join(bytes([97 + letter]) * size * 4 * scale for letter, size in shape)
    kept = Kept()
    lines = keeper.Lines(kept, keeper.OUT)

    for start in range(0, len(output), keeper.CHUNK):
        lines.feed(output[start : start + keeper.CHUNK])
    lines.end()

    whole, parts = [], b""
    for line, flags in kept.kept:
        assert len(line) <= keeper.SLICE
        parts += line
        if not flags:
            whole.append(parts)
            parts = b""
    expected = output.split(b"\n")
    assert parts == b""
    assert whole == (expected[:-1] if not expected[-1] else expected)


def test_keeper_and_gateway_mean_the_same_by_a_journal(tmp_path: Path):
    directory = os.open(tmp_path, os.O_RDONLY)
    book = keeper.Journal(directory, MIB)
    book.output(keeper.OUT, [b"one", b""], 0)
    book.output(keeper.ERR, [b"part"], keeper.PARTIAL)
    assert book.take(keeper.IN, b"key\0data")
    assert book.say(keeper.NOTE, {"note": "spawned"})
    raw = (tmp_path / "journal").read_bytes()
    os.close(book.fd)
    os.close(directory)

    found, last, used = decode(raw, 0)

    assert (last, used) == (5, len(raw)) == (book.seq, book.size)
    assert b"".join(map(encode, found)) == raw
    assert [(record.stream, record.data, record.partial) for record in found] == [
        (Stream.OUT, b"one", False),
        (Stream.OUT, b"", False),
        (Stream.ERR, b"part", True),
        (Stream.IN, b"key\0data", False),
        (Stream.NOTE, b'{"note":"spawned"}', False),
    ]
    assert (keeper.SLICE, keeper.MAX_KEY, keeper.MAX_WRITE) == (journal.MAX_SLICE, journal.MAX_KEY, journal.MAX_WRITE)
    assert keeper.MAX_NOTE == journal.MAX_NOTE
    assert keeper.HEADER_SIZE == journal.HEADER.size == struct.calcsize("<IIQQBB")


def test_a_journal_that_may_not_grow_keeps_whole_records_and_says_how_many_are_missing(tmp_path: Path):
    directory = os.open(tmp_path, os.O_RDONLY)
    book = keeper.Journal(directory, MIB)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        book.output(keeper.OUT, [b"x" * 100] * 20, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    book.finish({"code": 1, "signal": None, "stop": None, "durationMs": 0})
    raw = (tmp_path / "journal").read_bytes()
    os.close(book.fd)
    os.close(directory)

    found, _, used = decode(raw, 0)
    assert used == len(raw)
    assert [record.stream for record in found] == [Stream.OUT] * 7 + [Stream.GAP, Stream.EXIT]
    assert json.loads(found[7].data) == {"records": 13, "bytes": 1300}
