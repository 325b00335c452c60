"""Half of the seeds that are kept, and fresh ones for a minute. The other half: test_more_seeds.py, another worker."""

import pytest

from tests.sim.running import seconds, simulate


@pytest.mark.timeout(600)
def test_whatever_happens_nothing_runs_twice_and_nothing_is_lost() -> None:
    done = simulate("sim", "--seconds", seconds(), "--part", "0/2")

    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [12, 99])
def test_a_seed_always_leads_to_the_same(seed: int) -> None:
    digests = {simulate("sim", "--seed", str(seed), PYTHONHASHSEED=salt).stdout.splitlines()[-1] for salt in "123"}

    assert len(digests) == 1
    assert digests.pop().startswith(f"seed {seed} digest ")
