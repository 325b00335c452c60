from pathlib import PurePosixPath

import pytest

from gateway.core.cgroup import is_name, name, place, prefix

V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate"
HYBRID = """\
31 23 0:28 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V1 = "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd"
READ_ONLY = "31 23 0:28 / /sys/fs/cgroup ro,nosuid,nodev - cgroup2 cgroup rw"
READ_ONLY_ALTOGETHER = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup ro"
OF_A_PART = "31 23 0:28 /docker/4711 /sys/fs/cgroup rw - cgroup2 cgroup rw"
OF_ABOVE = "31 23 0:28 /../.. /sys/fs/cgroup rw - cgroup2 cgroup rw"
SPACED = r"31 23 0:28 / /mnt/my\040groups rw - cgroup2 cgroup2 rw"
USER_UNIT = "/user.slice/user-1000.slice/user@1000.service/app.slice/fleetgate-gateway.service"


@pytest.mark.parametrize(
    ("membership", "mounts", "expected"),
    [
        (f"0::{USER_UNIT}\n", V2, f"/sys/fs/cgroup{USER_UNIT}"),
        ("0::/\n", V2, "/sys/fs/cgroup"),
        ("9:name=systemd:/\n4:memory:/x\n0::/\n", HYBRID, "/sys/fs/cgroup/unified"),
        ("0::/docker/4711/mine\n", OF_A_PART, "/sys/fs/cgroup/mine"),
        ("0::/docker/4711\n", f"{OF_A_PART}\n{V2}", "/sys/fs/cgroup"),
        ("0::/elsewhere\n", f"{OF_A_PART}\n{V2}", "/sys/fs/cgroup/elsewhere"),
        ("0::/a b:c\n", SPACED, "/mnt/my groups/a b:c"),
        ("0::/x\n", f"{READ_ONLY}\n{HYBRID}", "/sys/fs/cgroup/unified/x"),
    ],
)
def test_our_own_cgroup_is_found_where_it_is_mounted(membership: str, mounts: str, expected: str):
    assert place(membership, mounts) == PurePosixPath(expected)


@pytest.mark.parametrize(
    ("membership", "mounts"),
    [
        ("", V2),
        ("4:memory:/x\n", V2),
        ("0::/\n", ""),
        ("0::/\n", V1),
        ("0::/\n", READ_ONLY),
        ("0::/\n", READ_ONLY_ALTOGETHER),
        ("0::/elsewhere\n", OF_A_PART),
        ("0::/docker/47110\n", OF_A_PART),
        ("0::/\n", OF_ABOVE),
        ("0::/../sibling\n", V2),
        ("0::/gone (deleted)\n", V2),
        ("0::/\n", "nonsense\n31 - cgroup2\n"),
    ],
)
def test_where_there_is_none_that_could_be_written_to_there_is_none(membership: str, mounts: str):
    assert place(membership, mounts) is None


def test_two_gateways_in_one_place_have_names_of_their_own():
    assert name("/home/a", "t1").startswith(prefix("/home/a"))
    assert prefix("/home/a") != prefix("/home/b")
    assert len(name("/home/a", "x" * 128)) < 255


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (name("/home/a", "t.1"), True),
        (name("/home/a", "t.1") + "0", False),
        (name("/home/a", "tx1"), False),
        (name("/home/a", "other.t.1"), False),
        ("system.slice", False),
        ("", False),
    ],
)
def test_only_what_has_the_attempts_name_is_its_cgroup(text: str, is_one: bool):
    assert is_name(text, "t.1") is is_one
