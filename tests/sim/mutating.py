"""A plugin of pytest: run tests against a broken rule (`SIM_MUTANT` names it)."""

import os
from contextlib import ExitStack

import pytest

from tests.sim import mutants


def pytest_configure(config: pytest.Config) -> None:
    name = os.environ.get(mutants.ENV)
    for mutant in mutants.MUTANTS:
        if mutant.name == name:
            stack = ExitStack()
            stack.enter_context(mutants.applied(mutants.broken(mutant)))
            config.add_cleanup(stack.close)
