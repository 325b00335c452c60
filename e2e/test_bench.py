"""The bench runs: every measure, in its smallest form. Nothing is said about speed here."""

from pathlib import Path

import pytest

from bench import measures
from bench.__main__ import SHORT, machine
from bench.rounds import HEADER, Measured, Side, interleave


@pytest.mark.redis
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", measures.ALL)
async def test_every_measure_measures_both_sides(name: str, tmp_path: Path):
    found = await measures.ALL[name](tmp_path, SHORT)

    assert found
    for measured in found:
        assert measured.ours.median > 0
        assert measured.rival.median > 0
        assert measured.row().count("|") == HEADER.splitlines()[0].count("|")


async def test_rounds_are_interleaved_and_the_warm_up_is_not_counted():
    order: list[str] = []

    async def a() -> float:
        order.append("a")
        return float(len(order))

    async def b() -> float:
        order.append("b")
        return float(len(order))

    sides = await interleave({"a": a, "b": b}, 2)

    assert order == ["a", "b", "a", "b", "a", "b"]
    assert sides["a"].values == (3.0, 5.0)


@pytest.mark.parametrize(
    ("ours", "theirs", "bigger", "target", "ratio", "reached"),
    [
        ((90, 100, 500), [(10, 20, 30), (5, 40, 99)], True, 2, 2.5, True),  # the better neighbour counts
        ((90, 100, 500), [(10, 20, 30), (5, 40, 99)], True, 3, 2.5, False),
        ((1, 1, 1), [(2, 2, 2), (4, 4, 4)], False, 0.8, 0.5, True),
        ((2, 2, 2), [(2, 2, 2), (4, 4, 4)], False, 0.8, 1.0, False),
    ],
)
def test_the_ratio_is_ours_to_the_best_of_theirs(ours, theirs, bigger, target, ratio, reached):
    sides = tuple(Side(str(number), values) for number, values in enumerate(theirs))

    measured = Measured("m", "u", Side("fleetgate", ours), sides, target, bigger_is_better=bigger)

    assert measured.ratio == ratio
    assert measured.reached == reached
    assert ("reached" if reached else "missed") in measured.row()


@pytest.mark.parametrize(("limit", "said"), [(10, "reached"), (9.9, "missed")])
def test_a_limit_is_not_to_be_passed_whatever_others_need(limit, said):
    measured = Measured("m", "ms, median", Side("a", (10.0,)), (Side("b", (99.0,)),), None, False, limit)

    assert measured.reached == (said == "reached")
    assert f"| ≤ {limit:g} ms |" in measured.row()
    assert said in measured.row()


def test_results_say_on_which_machine():
    assert "redis-server" in machine()
