"""docs/running.md lists everything that lives, and nothing that does not."""

import ast
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from tests.architecture.test_rules import ROOT, modules

RUNNING = (ROOT / "docs" / "running.md").read_text()
Scope = tuple[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, ...]


def section(package: str) -> str:
    """The part of docs/running.md about one of the three programs."""
    _, begin, rest = RUNNING.partition(f"\n## {package.capitalize()}\n")
    assert begin
    return rest.partition("\n## ")[0]


def scopes(node: ast.AST, outer: Scope = ()) -> Iterator[tuple[ast.AST, Scope]]:
    """Every node, with the classes and functions it stands in."""
    for child in ast.iter_child_nodes(node):
        yield child, outer
        is_scope = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield from scopes(child, (*outer, child) if is_scope else outer)


def trees(package: str) -> Iterator[tuple[str, ast.AST]]:
    for name in modules(package):
        yield str(Path(name).with_suffix("")).replace("/", "."), ast.parse((ROOT / name).read_text())


def definitions(package: str) -> dict[str, ast.AST]:
    """Classes, their methods and functions, but not what stands inside a function, by their whole names."""
    return {
        ".".join((module, *(scope.name for scope in outer), node.name)): node
        for module, tree in trees(package)
        for node, outer in scopes(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and all(isinstance(scope, ast.ClassDef) for scope in outer)
    }


def owns_a_loop(node: ast.AST) -> bool:
    """A class with an async `run` or `serve`; shapes (Protocols) live nowhere."""
    if not isinstance(node, ast.ClassDef):
        return False
    methods = {method.name for method in node.body if isinstance(method, ast.AsyncFunctionDef)}
    return bool(methods & {"run", "serve"}) and "Protocol" not in {ast.unparse(base) for base in node.bases}


def started(package: str) -> Iterator[tuple[str, ast.expr, str, Scope]]:
    """(place, what is started, module, where) for each `start_soon`, `start` of a task group, and thread."""
    for module, tree in trees(package):
        for node, outer in scopes(tree):
            match node:
                case ast.Call(func=ast.Attribute(attr="start_soon"), args=[what, *_]):
                    pass
                case ast.Call(func=ast.Attribute(value=ast.Name("group"), attr="start"), args=[what, *_]):
                    pass
                case ast.Call(func=ast.Attribute(attr="Thread") | ast.Name("Thread"), keywords=keywords):
                    what = next(keyword.value for keyword in keywords if keyword.arg == "target")
                case _:
                    continue
            yield f"{module}:{node.lineno} {ast.unparse(what)}", what, module, outer


def full_name(what: ast.expr, module: str, outer: Scope, known: Collection[str]) -> str | None:
    """The definition that is started. What is defined inside a function lives in that function."""
    names = [scope.name for scope in outer]
    match what:
        case ast.Name(name):
            inside = (node for scope in outer for node, _ in scopes(scope))
            if name in {node.name for node in inside if isinstance(node, ast.AsyncFunctionDef)}:
                return ".".join((module, *names))
            here = f"{module}.{name}"
            return here if here in known else next((one for one in known if one.endswith(f".{name}")), None)
        case ast.Attribute(value=ast.Name("self"), attr=method):
            return ".".join((module, names[0], method))
        case ast.Attribute(value=owner, attr=method):
            called = ast.unparse(owner).rpartition(".")[2].lower()
            ending = re.compile(rf"[\w.]*\b({called}|\w+\.{called}\.\w+|{called}\.\w+)\.{method}", re.IGNORECASE)
            return next((one for one in known if ending.fullmatch(one)), None)
    return None


def is_named(name: str, on: set[str]) -> bool:
    """By an end of its name that has its class or module; `X.run` also as X."""
    whole, _, last = name.rpartition(".")
    ends = {one for one in on if f".{name}".endswith(f".{one}") and "." in one}
    return bool(ends) or (last in {"run", "serve"} and whole in on)


@pytest.mark.parametrize("package", ["manager", "gateway", "client"])
def test_docs_running_lists_everything_that_lives(package: str):
    known = definitions(package)
    listed = set(re.findall(r"`([\w.]+\.\w+)`", section(package)))
    alive = {name for name, node in known.items() if owns_a_loop(node)}
    unnamed = [
        place
        for place, what, module, outer in started(package)
        if (name := full_name(what, module, outer, known)) is None or not is_named(name, listed)
    ]

    assert alive
    assert alive <= listed, f"docs/running.md lacks {alive - listed}"
    assert unnamed == [], "docs/running.md does not say what is started there"


@pytest.mark.parametrize("package", ["manager", "gateway", "client"])
def test_docs_running_lists_nothing_that_is_gone(package: str):
    rows = [line.split("|")[1] for line in section(package).splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`([\w.]+\.\w+)`", row)}
    known = definitions(package)

    assert {name for name in listed if not any(f".{one}".endswith(f".{name}") for one in known)} == set()
