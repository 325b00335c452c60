"""The other half of the seeds that are kept, and fresh ones for a minute; and that broken rules are noticed."""

import pytest

from tests.sim.running import seconds, simulate


@pytest.mark.timeout(600)
def test_whatever_happens_nothing_runs_twice_and_nothing_is_lost() -> None:
    done = simulate("sim", "--seconds", seconds(), "--part", "1/2")

    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(600)
def test_rules_that_are_broken_are_noticed() -> None:
    """Those that one seed shows; `./dev chaos mutants` looks at all."""
    done = simulate("mutants", "--fast")

    assert done.returncode == 0, done.stdout + done.stderr
