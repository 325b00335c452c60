"""Examples in the client's docstrings are run."""

import doctest
import importlib
from pathlib import Path

import pytest

import client

ROOM = Path(client.__file__).parent
NAMES = sorted(
    ".".join(("client", *path.relative_to(ROOM).with_suffix("").parts))
    for path in ROOM.rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py") and ">>>" in path.read_text()
)


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_true(name: str):
    done = doctest.testmod(importlib.import_module(name))

    assert done.attempted > 0
    assert done.failed == 0
