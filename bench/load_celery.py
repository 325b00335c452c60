"""Tasks that do nothing, sent to Celery: from the call to the result in hand.

    python -m bench.load_celery TASKS IN_FLIGHT [PAUSE_MS]

Prints `{"rate": tasks/s, "median_ms": of one task}`. With PAUSE_MS everything rests about so long before each task.
One thread with a window of open results, oldest first: cheaper for Celery's client than threads.
"""

import json
import random
import statistics
import sys
import time
from collections import deque

from bench.celery_app import noop


def main(tasks: int, in_flight: int, pause_ms: float) -> None:
    noop.delay().get(timeout=30)  # connections are made once
    waits: list[float] = []
    window: deque[tuple[float, object]] = deque()
    began = time.perf_counter()
    for _ in range(tasks):
        if len(window) == in_flight:
            finish(window, waits)
        if pause_ms:
            time.sleep(random.uniform(0.5, 1.5) * pause_ms / 1000)
        window.append((time.perf_counter(), noop.delay()))
    while window:
        finish(window, waits)
    took = time.perf_counter() - began
    print(json.dumps({"rate": tasks / took, "median_ms": statistics.median(waits) * 1000}))


def finish(window: deque, waits: list[float]) -> None:
    began, result = window.popleft()
    assert result.get(timeout=30) == 1
    waits.append(time.perf_counter() - began)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float((*sys.argv, 0)[3]))
