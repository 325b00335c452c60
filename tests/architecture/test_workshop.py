"""The workshop itself: ./dev, and a CI that cannot pass by leaving something out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SKIPS = "import pytest\ndef test_one(): pass\ndef test_two(): pytest.skip('not here')\n"


@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_a_skipped_test_fails_the_run_on_ci(tmp_path: Path, ci: str, code: int):
    (tmp_path / "test_it.py").write_text(SKIPS)
    argv = [sys.executable, "-m", "pytest", "-q", "--rootdir", tmp_path, "-c", os.devnull, "-p", "conftest", tmp_path]

    done = subprocess.run(
        [*argv, "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == code, done.stdout + done.stderr


def test_no_test_is_written_to_be_skipped():
    skipping = ("pytest.mark" + ".skip", "pytest" + ".skip(", "import" + "orskip")
    files = [path for room in ("tests", "e2e") for path in (ROOT / room).rglob("*.py") if path != Path(__file__)]

    assert [str(path) for path in files if any(word in path.read_text() for word in skipping)] == []


def test_dev_runs_with_nothing_but_the_standard_library():
    done = subprocess.run(
        [sys.executable, "-I", "-S", ROOT / "dev", "help"], capture_output=True, text=True, check=False, cwd="/"
    )

    assert done.returncode == 0
    assert "./dev test" in done.stderr


def test_dev_says_what_it_can_do_when_it_is_asked_for_something_else():
    done = subprocess.run([sys.executable, ROOT / "dev", "fly"], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "./dev demo" in done.stderr


@pytest.mark.parametrize(
    ("version", "complaint"),
    [("v18.19.0", "is v18.19.0: the tests need node 20 or newer"), (None, "install node (at least 20) and npm first")],
)
def test_dev_says_which_node_it_needs_before_it_installs_anything(tmp_path: Path, version: str | None, complaint: str):
    if version is not None:
        (tmp_path / "node").write_text(f"#!/bin/sh\necho {version}\n")
        (tmp_path / "node").chmod(0o755)

    argv = [sys.executable, ROOT / "dev", "install"]
    done = subprocess.run(argv, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr.strip().endswith(complaint)
    assert len(done.stderr.splitlines()) == 1


def test_ci_runs_what_people_run():
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("exec ./dev test")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert os.access(ROOT / "dev", os.X_OK)
