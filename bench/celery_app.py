"""The neighbour: Celery with Redis as broker and result backend, one task that does nothing."""

import os

from celery import Celery

URL = os.environ.get("BENCH_REDIS_URL", "")
app = Celery("bench", broker=URL, backend=URL)
app.conf.update(ignore_result=False, worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)


@app.task
def noop() -> int:
    return 1
