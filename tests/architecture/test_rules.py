"""Rules that no tool of ours checks by itself. Each is one sentence of docs/architecture.md or of the house style."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PURE = ["shared_types", "manager/core", "gateway/core", "gateway/agents"]
PACKAGES = ["shared_types", "manager", "gateway", "client"]
ONLY_SHAPES = {"gateway/agents/base.py", "gateway/core/orders.py"}  # protocols and values without behaviour


def tracked() -> list[Path]:
    """Files that are in the project, or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def texts() -> Iterator[tuple[str, str]]:
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data:
            yield str(path.relative_to(ROOT)), data.decode()


def modules(*rooms: str) -> list[str]:
    return sorted(
        str(path.relative_to(ROOT))
        for room in rooms
        for path in (ROOT / room).rglob("*.py")
        if path.name != "__init__.py"
    )


def places(pattern: str, *, among: tuple[str, ...] = (), but_not: tuple[str, ...] = ()) -> list[str]:
    """Where a pattern stands: file:line."""
    wanted = re.compile(pattern)
    return [
        f"{name}:{number}"
        for name, text in texts()
        if (not among or name.startswith(among)) and not name.startswith(but_not or ("\0",))
        for number, line in enumerate(text.splitlines(), 1)
        if wanted.search(line)
    ]


THIS_FILE = str(Path(__file__).relative_to(ROOT))
OURS = tuple(f"{package}/" for package in PACKAGES)


@pytest.mark.parametrize("module", modules(*PURE))
def test_every_module_of_a_pure_room_has_its_test(module: str):
    path = Path(module)

    assert module in ONLY_SHAPES or (ROOT / "tests" / path.parent / f"test_{path.name}").exists()


@pytest.mark.parametrize("module", modules(*PACKAGES))
def test_every_module_says_what_it_is_for(module: str):
    tree = ast.parse((ROOT / module).read_text())

    assert not tree.body or ast.get_docstring(tree), f"{module} has no docstring"


def test_nothing_is_left_to_do_later():
    assert places(r"\b(TODO|FIXME|XXX|HACK)\b", but_not=(THIS_FILE,)) == []


def test_there_is_no_shell_anywhere():
    assert places(r"shell\s*=\s*True|os\.system\(|create_subprocess_shell", but_not=(THIS_FILE,)) == []


def test_whatever_is_started_is_started_in_a_group_that_somebody_owns():
    assert places(r"\.(create_task|ensure_future)\(", among=OURS) == []


def test_no_path_of_a_machine_and_no_address_of_a_registry_is_written_down():
    home = r"(?<![\w./-])/(root|home/\w+|work|farm|Users/\w+)/[A-Za-z]"
    registry = r"https?://[^\s\"']*(pypi\.org/simple|registry\.npmjs\.org|files\.pythonhosted\.org)"
    assert places(f"{home}|{registry}", but_not=(THIS_FILE,)) == []


def test_no_lock_file_that_names_a_registry_is_kept():
    names = {path.name for path in tracked()}

    assert names.isdisjoint({"uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock"})


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_requirements_are_pinned_with_hashes_and_name_no_index(path: Path):
    text = path.read_text()
    pinned = re.findall(
        r"^[A-Za-z0-9][\w.\[\]-]*==\S+(?: ; [^\\\n]+)? \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\\n|\n|$))+",
        text,
        re.MULTILINE,
    )

    assert "://" not in text
    assert not re.search(r"^\s*(-i|--index|--extra-index|--find-links|-f)\b", text, re.MULTILINE)
    assert len(pinned) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE)) > 0


def test_requirements_hold_everything_that_the_project_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {
        "fleetgate": project["project"]["dependencies"],
        "dev": [
            one
            for group in ("test", "lint", "build")
            for one in project["dependency-groups"][group]
            if isinstance(one, str)
        ],
        "bench": project["dependency-groups"]["bench"],
    }
    for name, requirements in wanted.items():
        locked = (ROOT / "requirements" / f"{name}.txt").read_text()
        for requirement in requirements:
            package = re.split(r"[\[<>=~!; ]", requirement, maxsplit=1)[0].lower()
            assert re.search(rf"^{re.escape(package)}==", locked, re.MULTILINE), f"{package} in {name}.txt: ./dev lock"


def test_a_light_gateway_install_is_light():
    locked = (ROOT / "requirements" / "gateway.txt").read_text()

    heavy = ["litestar", "uvicorn", "uvloop", "redis", "cryptography", "pydantic", "prometheus-client"]
    assert [package for package in heavy if f"\n{package}==" in locked] == []


@pytest.mark.parametrize("kind", ["pragma: no cover", "type: ignore", "noqa"])
def test_every_exception_from_a_check_says_why(kind: str):
    """`# noqa: S608 - our own names`: the code, then the reason; a reason in a comment above is as good."""
    bare = []
    for name, text in texts():
        if not name.endswith(".py") or not name.startswith(OURS):
            continue
        lines = text.splitlines()
        for number, line in enumerate(lines):
            found = re.search(rf"#\s*{kind}(.*)", line)
            above = lines[number - 1].lstrip().startswith("#") if number else False
            if found and len(re.findall(r"[a-z]{2,}", re.sub(r"\[[^\]]*\]|[A-Z]+\d+", "", found[1]))) < 1 and not above:
                bare.append(f"{name}:{number + 1}")
    assert bare == []


def test_import_contracts_leave_no_room_out():
    """`exhaustive`: a new package in manager or gateway must be given its place."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    inside = {contract["containers"][0]: contract for contract in contracts if "containers" in contract}

    assert set(inside) == {"manager", "gateway"}
    assert all(contract["exhaustive"] for contract in inside.values())
