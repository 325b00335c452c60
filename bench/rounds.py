"""Interleaved rounds (A B A B ...) and what is said of them: median and spread. A machine's mood hits both sides."""

import statistics
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Side:
    """All the rounds of one side."""

    name: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """(highest - lowest) / median."""
        return (max(self.values) - min(self.values)) / self.median


@dataclass(frozen=True)
class Measured:
    """One thing measured, ours against a neighbour's. `target` is the ratio ours/theirs to reach; None: no promise.
    `limit` is what ours may not pass, in its unit.
    """

    title: str
    unit: str
    ours: Side
    theirs: tuple[Side, ...]
    target: float | None
    bigger_is_better: bool = True
    limit: float | None = None
    note: str = ""

    @property
    def rival(self) -> Side:
        """The best of the neighbours."""
        best = max if self.bigger_is_better else min
        return best(self.theirs, key=lambda side: side.median)

    @property
    def ratio(self) -> float:
        return self.ours.median / self.rival.median

    @property
    def reached(self) -> bool:
        if self.limit is not None and self.ours.median > self.limit:
            return False
        if self.target is None:
            return True
        return self.ratio >= self.target if self.bigger_is_better else self.ratio <= self.target

    def row(self) -> str:
        sides = "; ".join(f"{s.name} {s.median:,.4g} (±{s.spread / 2:.0%})" for s in (self.ours, *self.theirs))
        sign = "≥" if self.bigger_is_better else "≤"
        promises = [f"{sign} {self.target:g}"] if self.target is not None else []
        if self.limit is not None:
            promises.append(f"≤ {self.limit:,.4g} {self.unit.partition(',')[0]}")
        promise = [", ".join(promises), ("reached" if self.reached else "**missed**") if promises else ""]
        cells = [self.title, self.unit, sides, f"{self.ratio:.2f}", *promise, self.note]
        return f"| {' | '.join(cells)} |"


COLUMNS = ["measured", "unit", "medians (half of the spread)", "ours / best of theirs", "target", "", ""]
HEADER = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


async def interleave(
    sides: Mapping[str, Callable[[], Awaitable[float]]], rounds: int, *, warm_up: bool = True
) -> dict[str, Side]:
    """Each side once to warm up, then all of them in turn, `rounds` times."""
    if warm_up:
        for measure in sides.values():
            await measure()
    values: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, measure in sides.items():
            values[name].append(await measure())
    return {name: Side(name, tuple(found)) for name, found in values.items()}
