"""What is counted while requests are answered: plain numbers, made into series when somebody asks for them.

Label values come from closed sets, so there is an end to them.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_UPPER: Final = (*map(str, BUCKETS), "+Inf")

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, that nobody asks for


class Meters(Collector):
    """What is counted while it happens."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._answers: dict[tuple[str, str, int], int] = {}
        self._times: dict[tuple[str, str], tuple[list[int], list[float]]] = {}  # how many by bucket; their sum

    def answered(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """`seconds` None: a stream, whose length says nothing."""
        key = (method, route, status)
        self._answers[key] = self._answers.get(key, 0) + 1
        if seconds is None:
            return
        times = self._times.get(key[:2])
        if times is None:
            times = self._times[key[:2]] = ([0] * len(_UPPER), [0.0])
        times[0][bisect_left(BUCKETS, seconds)] += 1
        times[1][0] += seconds

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "fleetgate_http_requests", "Requests answered.", labels=["method", "route", "status"]
        )
        for (method, route, status), count in self._answers.items():
            requests.add_metric([method, route, str(status)], count)
        yield requests
        seconds = HistogramMetricFamily(
            "fleetgate_http_seconds", "Time to answer; streams are left out.", labels=["method", "route"]
        )
        for (method, route), (counts, total) in self._times.items():
            below = accumulate(counts)
            seconds.add_metric([method, route], list(zip(_UPPER, below, strict=True)), total[0])
        yield seconds
