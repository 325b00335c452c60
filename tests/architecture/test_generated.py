"""What is made from the code is current, and is what it says it is."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from docs import generate
from gateway.agents.command import CommandAgent
from gateway.settings import load
from tests.architecture.test_rules import modules

ROOT = Path(__file__).parents[2]


def test_generated_documents_are_current():
    stale = [str(path.relative_to(ROOT)) for path, text in generate.files().items() if path.read_text() != text]

    assert stale == [], "run ./dev schema"


def test_nothing_else_lies_beside_the_generated_schemas():
    assert set((ROOT / "docs" / "schema").iterdir()) <= set(generate.files())


@pytest.mark.parametrize("package", ["manager", "gateway"])
def test_the_settings_page_has_a_row_for_every_setting(package: str):
    rows = generate.settings_table(package).splitlines()[2:]

    assert len(rows) > 5
    for row in rows:
        _, name, *_, text, _ = row.split("|")
        assert name.strip(" `").isupper()
        assert len(text.split()) > 2, f"{name} needs a sentence"


# --- nothing can be set that the page does not name ---------------------------------------------------


def constants(name: str) -> Iterator[ast.Constant]:
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node


def asked_of_the_environment(name: str) -> set[str]:
    """`environ.get("X")`, `environ["X"]` and `"X" in environ`, whatever the mapping is a part of."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        match node:
            case ast.Call(func=ast.Attribute(value=asked, attr="get" | "pop" | "getenv"), args=[ast.Constant(key), *_]):
                pass
            case ast.Subscript(value=asked, slice=ast.Constant(key)):
                pass
            case ast.Compare(left=ast.Constant(key), ops=[ast.In() | ast.NotIn()], comparators=[asked]):
                pass
            case _:
                continue
        if re.search(r"environ$|^os$", ast.unparse(asked)):
            found.add(key)
    return found


def test_the_settings_page_names_everything_that_is_asked_of_the_environment():
    page = (ROOT / "docs" / "settings.md").read_text()
    asked = {name for module in modules("client", "gateway", "manager") for name in asked_of_the_environment(module)}

    assert {"FLEETGATE_URL", "FLEETGATE_TOKEN_FILE", "NO_COLOR", "NOTIFY_SOCKET"} <= asked
    assert {name for name in asked if not re.search(rf"`{name}(=\w+)?`", page)} == set()


def test_the_settings_page_names_every_file_of_settings_and_tokens():
    page = (ROOT / "docs" / "settings.md").read_text()
    files = {
        node.value
        for module in modules("client", "gateway", "manager")
        for node in constants(module)
        if re.fullmatch(r"[\w-]+\.(toml|token)", node.value)
    }

    assert {"client.toml", "gateway.toml"} <= files
    assert {name for name in files if f"`{name}`" not in page} == set()


# --- programs of their own ----------------------------------------------------------------------------


def test_the_settings_page_explains_every_key_of_a_declared_agent():
    page = (ROOT / "docs" / "settings.md").read_text()
    _, _, section = page.partition("### Programs of your own as agents")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", section, re.MULTILINE))
    declared = {field.name: field for field in msgspec.structs.fields(CommandAgent) if field.name != "name"}

    assert set(rows) >= set(declared)
    for name, field in declared.items():
        match field.default:
            case tuple() as several:
                assert rows[name] == (", ".join(several) or "none")
            case msgspec.NODEFAULT:
                assert rows[name] == "needed"
            case one:
                assert rows[name] == (f"{one:g}" if isinstance(one, float) else one)


def test_the_declared_agents_of_the_settings_page_are_what_a_gateway_takes(tmp_path: Path):
    (example,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "settings.md").read_text(), re.DOTALL)
    (tmp_path / "gateway.toml").write_text(example)

    found = load([], {"FLEETGATE_HOME": str(tmp_path), "GATEWAY_AUTH_TOKEN": "t"}).command_agents

    assert [agent.name for agent in found] == ["count", "nightly"]
    used = {name for table in tomllib.loads(example)["agents"].values() for name in table}
    assert used == {field.name for field in msgspec.structs.fields(CommandAgent)} - {"name"}


# --- the types ----------------------------------------------------------------------------------------


def typescript_compiler() -> Path:
    named = os.environ.get("FLEETGATE_TYPESCRIPT_DIR")
    if not named:
        asked = subprocess.run([sys.executable, ROOT / "dev", "where"], capture_output=True, text=True, check=True)
        named = json.loads(asked.stdout)["typescript"]
    compiler = Path(named) / "node_modules" / "typescript" / "bin" / "tsc"
    assert compiler.exists(), "run ./dev install"
    return compiler


USE = """
import type {{ {names} }} from "./fleetgate";
const heard = (message: FromGateway): string => {{
  switch (message.type) {{
    case "task:event":
      return message.event.type;
    case "task:events":
      return `${{message.from}}..${{message.to}}`;
    default:
      return message.type;
  }}
}};
const running = (task: Task): boolean => task.status === "running";
{wrong}
export {{ heard, running }};
"""


@pytest.mark.parametrize(
    ("wrong", "compiles"),
    [("", True), ('const bad: TaskState = "resting";\nvoid bad;', False)],
    ids=["rightly", "wrongly"],
)
def test_the_types_can_be_used_rightly_and_not_wrongly(tmp_path: Path, wrong: str, compiles: bool):
    (tmp_path / "fleetgate.d.ts").write_text((ROOT / "docs" / "schema" / "fleetgate.d.ts").read_text())
    (tmp_path / "use.ts").write_text(USE.format(names="FromGateway, Task, TaskState", wrong=wrong))

    options = ["--noEmit", "--strict", "--target", "es2022", "--module", "es2022"]
    argv = ["node", typescript_compiler(), *options, tmp_path / "use.ts"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert (done.returncode == 0) == compiles, done.stdout
    assert compiles or "TaskState" in done.stdout
