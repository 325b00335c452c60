"""Inside the roots, and nowhere else."""

import os

import pytest

from gateway.errors import CannotRun
from gateway.runtime.workspace import instructions, nearest_first, working_directory


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "project").mkdir(parents=True)
    (tmp_path / "rootless").mkdir()
    return tmp_path / "root"


def refusal(wanted, root):
    with pytest.raises(CannotRun) as refused:
        working_directory(str(wanted), root, [root])
    return refused.value.reason


def test_a_directory_inside_a_root_is_allowed(root):
    assert working_directory(str(root / "project"), root, [root]) == root / "project"


def test_a_task_without_one_gets_the_hosts(root):
    assert working_directory("", root, [root]) == root


def test_a_second_root_counts_too(root, tmp_path):
    assert working_directory(str(tmp_path / "rootless"), root, [root, tmp_path / "rootless"]) == tmp_path / "rootless"


def test_a_root_may_itself_be_a_link(root, tmp_path):
    (tmp_path / "alias").symlink_to(root)

    assert working_directory(str(tmp_path / "alias" / "project"), root, [tmp_path / "alias"]) == root / "project"


def test_a_root_that_hangs_is_not_asked_about_a_directory_in_another(root, tmp_path, monkeypatch):
    asked, realpath = [], os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: asked.append(str(path)) or realpath(path))

    working_directory(str(root / "project"), root, [tmp_path / "hangs", root])

    assert str(tmp_path / "hangs") not in asked
    assert nearest_first([tmp_path / "hangs", root], root / "project") == [root, tmp_path / "hangs"]


@pytest.mark.parametrize(
    "wanted", ["relative", "../root", "/etc", "/", "{root}/../rootless", "{root}less", "{root}\0x"]
)
def test_what_is_not_inside_is_not_allowed(root, wanted):
    assert refusal(wanted.format(root=root), root) == "cwd_not_allowed"


def test_a_refusal_names_the_first_directories_that_are_allowed(root):
    roots = [root, *(root / f"r{n}" for n in range(9))]
    with pytest.raises(
        CannotRun, match=f"/etc is not inside what this host allows: {root}, {root}/r0, {root}/r1, \\.\\.\\.$"
    ):
        working_directory("/etc", root, roots)


def test_a_link_that_leads_out_is_not_allowed(root):
    (root / "out").symlink_to("/etc")

    assert refusal(root / "out", root) == "cwd_not_allowed"


def test_a_link_that_leads_out_through_another_is_not_allowed(root, tmp_path):
    (tmp_path / "rootless" / "deep").mkdir()
    (root / "a").symlink_to(tmp_path / "rootless")

    assert refusal(root / "a" / "deep", root) == "cwd_not_allowed"


def test_nothing_is_told_about_what_is_outside(root):
    assert refusal("/nowhere/at/all", root) == "cwd_not_allowed"


def test_a_directory_that_is_not_there_is_missing(root):
    (root / "file").write_text("")

    assert refusal(root / "none", root) == "cwd_missing"
    assert refusal(root / "file", root) == "cwd_missing"


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000])
def test_a_name_that_is_too_long_for_a_directory_is_missing(root, name):
    assert refusal(root / name, root) == "cwd_missing"


def test_the_first_instruction_file_is_read(root):
    (root / "B.md").write_text("be brief")
    (root / "C.md").write_text("be long")

    assert instructions(root, ["A.md", "B.md", "C.md"]) == "be brief"
    assert instructions(root, []) == ""


@pytest.mark.parametrize("target", ["/etc/passwd", "B.md"])
def test_a_link_instead_of_instructions_is_not_followed(root, target):
    (root / "B.md").write_text("inside")
    (root / "A.md").symlink_to(target)

    assert instructions(root, ["A.md"]) == ""


def test_a_pipe_instead_of_instructions_does_not_block(root):
    os.mkfifo(root / "A.md")

    assert instructions(root, ["A.md"]) == ""


def test_a_directory_on_the_way_that_leads_out_is_not_followed(root, tmp_path):
    (tmp_path / "rootless" / "A.md").write_text("outside")
    (root / ".x").symlink_to(tmp_path / "rootless")

    assert instructions(root, [".x/A.md"]) == ""


def test_instructions_without_end_are_cut(root):
    (root / "A.md").write_text("x" * 10_000_000)

    assert len(instructions(root, ["A.md"])) == 128 * 1024
