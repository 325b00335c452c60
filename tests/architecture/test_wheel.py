"""`pip install .`: what it brings, and that it works without this directory.

The real pip installs into a fresh environment. Nothing is fetched: what builds the wheel and what the program needs
come from the environment of this test, by a .pth file.
"""

import csv
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from shared_types import __version__
from tests.architecture.test_rules import PACKAGES, ROOT, tracked

TYPED = ("client", "shared_types")  # what programs of others import


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with Fleetgate in it, installed as people do."""
    home = tmp_path_factory.mktemp("fresh")
    venv.create(home, with_pip=True)
    # A .pth file of a directory that stands in one is not read: our own editable install stays out of sight.
    (packages(home) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    run(home, "python", "-m", "pip", "install", *offline, str(ROOT))
    return home


def packages(home: Path) -> Path:
    (found,) = home.glob("lib/python*/site-packages")
    return found


def run(home: Path, program: str, *arguments: str) -> str:
    """What it prints. Only PATH and a home of its own are set, and it does not stand in our directory."""
    env = {"PATH": os.defpath, "HOME": str(home), "FLEETGATE_URL": "http://127.0.0.1:9"}  # RFC 863: nobody answers
    done = subprocess.run(
        [home / "bin" / program, *arguments], cwd=home, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(home: Path) -> set[str]:
    """The files of the wheel."""
    (record,) = packages(home).glob("fleetgate-*.dist-info/RECORD")
    with record.open(newline="") as rows:
        names = {row[0] for row in csv.reader(rows)}
    return {name for name in names if name.partition("/")[0] in PACKAGES and not name.endswith(".pyc")}


def test_what_is_installed_runs_without_our_directory(fresh: Path):
    assert run(fresh, "fleetgate", "version").strip() == f"fleetgate {__version__}"
    assert "--bootstrap-token-file" in run(fresh, "fleetgate", "manager", "--help")
    assert "--server-url" in run(fresh, "fleetgate", "gateway", "--help")
    came_from = run(fresh, "python", "-c", "import client, manager; print(client.__file__, manager.__file__)").split()
    assert all(Path(file).is_relative_to(packages(fresh)) for file in came_from)


def test_what_is_installed_is_our_packages_whole(fresh: Path):
    ours = {str(path.relative_to(ROOT)) for path in tracked()}

    assert installed(fresh) == {name for name in ours if name.partition("/")[0] in PACKAGES}
    assert any(name.endswith(".sql") for name in installed(fresh))
    assert {f"{package}/py.typed" for package in TYPED} <= installed(fresh)


def test_nothing_else_is_installed(fresh: Path):
    before = {"pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence.pth", "borrowed.pth"}
    there = {path.name for path in packages(fresh).iterdir() if not path.name.endswith(".dist-info")}

    assert there - before == set(PACKAGES)


def test_a_type_checker_believes_the_sdk(fresh: Path):
    program = fresh / "program.py"
    program.write_text("from client.sdk import Fleetgate\nreveal_type(Fleetgate().task('task_1').status)\n")
    checker = [sys.executable, "-m", "mypy", "--python-executable", str(fresh / "bin" / "python"), "--strict"]

    done = subprocess.run([*checker, str(program)], cwd=fresh, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "shared_types.tasks.TaskState" in done.stdout
