"""Examples in the docstrings of the pure rooms are run."""

import doctest
import importlib
from pathlib import Path

import pytest

from tests.architecture.test_rules import PURE, modules

NAMES = [str(Path(module).with_suffix("")).replace("/", ".") for module in modules(*PURE)]


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_true(name: str):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples():
    assert sum(doctest.testmod(importlib.import_module(name)).attempted for name in NAMES) > 2
