from pathlib import Path

import pytest

from gateway.runtime import keeper
from gateway.runtime.cgroups import Cgroups
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
