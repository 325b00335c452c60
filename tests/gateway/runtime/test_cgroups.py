import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.runtime import keeper
from gateway.runtime.cgroups import Cgroups, end
from tests.fakes.attempts import House


def proc(tmp_path: Path, membership: str, mounts: str) -> Path:
    """/proc/self with these two files."""
    (tmp_path / "cgroup").write_text(membership)
    (tmp_path / "mountinfo").write_text(mounts)
    return tmp_path


def mount(point: Path) -> str:
    return f"31 23 0:28 / {point} rw,nosuid - cgroup2 cgroup2 rw\n"


def test_agents_get_none_where_there_is_no_place(tmp_path: Path):
    cgroups = Cgroups(tmp_path, is_wanted=True, proc=proc(tmp_path, "4:memory:/x\n", ""))

    cgroups.find()

    assert (cgroups.place, cgroups.path("t1")) == (None, None)


def test_agents_get_none_where_nothing_can_be_read(tmp_path: Path):
    cgroups = Cgroups(tmp_path, is_wanted=True, proc=tmp_path / "no-proc")

    cgroups.find()

    assert cgroups.place is None


def test_agents_get_none_where_the_kernel_is_too_old_to_kill_one(tmp_path: Path):
    """A directory stands for the file system: it has no `cgroup.kill` either."""
    (tmp_path / "cgroup.procs").touch()
    cgroups = Cgroups(tmp_path, is_wanted=True, proc=proc(tmp_path, "0::/\n", mount(tmp_path)))

    cgroups.find()

    assert cgroups.place is None
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("fleetgate")] == []


def test_agents_get_none_in_a_place_that_is_not_ours(tmp_path: Path):
    (tmp_path / "cgroup.procs").mkdir()  # no more to be opened than another user's
    cgroups = Cgroups(tmp_path, is_wanted=True, proc=proc(tmp_path, "0::/\n", mount(tmp_path)))

    cgroups.find()

    assert cgroups.place is None


def test_agents_get_none_when_the_owner_wants_none(tmp_path: Path):
    cgroups = Cgroups(tmp_path, is_wanted=False)

    cgroups.find()

    assert cgroups.path("t1") is None


def test_looking_for_a_place_leaves_nothing_there_and_touches_no_other_gateways(tmp_path: Path):
    with House(tmp_path / "a", has_cgroups=True) as house:
        mine = house.cgroups.path(house.uid())
        assert mine is not None
        own = keeper.Cgroup(mine)

        Cgroups(tmp_path / "b", is_wanted=True).find()
        assert Path(own.path).exists()
        house.cgroups.find()
        assert not Path(own.path).exists()


@pytest.mark.parametrize("missing", ["", "/cgroup.kill"])
def test_a_cgroup_that_is_gone_is_empty(tmp_path: Path, missing: str):
    path = str(tmp_path / "none") + missing

    assert not keeper.kill_cgroup(path)
    keeper.remove_cgroup(path)


OF_A_USER = """
import sys
from pathlib import Path

import anyio

from tests.fakes.attempts import House, survivors, wait_heard

async def main():
    with House(Path(sys.argv[1]) / "house", has_cgroups=True) as house:
        keeper = await house.start("hides", "--then", "hang")
        await wait_heard(keeper, b"left")
        cgroup = Path(house.cgroups.path(keeper.uid))
        inside = {int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()}
        assert inside == set(survivors(keeper.uid)), inside
        await keeper.stop("abort", 0)
        await keeper.wait_gone()
        assert not cgroup.exists()
        print("all of it", len(inside))

anyio.run(main)
"""


def test_a_user_divides_the_cgroup_that_a_service_manager_gave_him(tmp_path: Path):
    """As systemd does it for a user's units: the directory and three files of it are his."""
    own = Cgroups(tmp_path, is_wanted=True)
    own.find()
    assert own.place is not None, "run this test as root, on Linux 5.14 or newer"
    given, home = own.place / f"given-{os.getpid()}", tmp_path / "home"
    given.mkdir()
    home.mkdir()
    try:
        for path in (home, given, *(given / f"cgroup.{name}" for name in ("procs", "threads", "subtree_control"))):
            os.chown(path, 65534, 65534)
        # He may read what root may, for the interpreter may be anywhere, and write what is his.
        rights = [f"--{kind}-caps=-all,+dac_read_search" for kind in ("inh", "ambient")]
        user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *rights]
        enter = f'echo 0 > {given}/cgroup.procs && exec "$@"'
        done = subprocess.run(
            ["sh", "-c", enter, "sh", *user, sys.executable, "-B", "-c", OF_A_USER, str(home)],
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
        )
        assert done.stdout.endswith("all of it 4\n"), done.stderr
    finally:
        end(str(given))
