"""The neighbour of the relay: Redis Streams, a producer process and a consumer process (this one).

    python -m bench.load_streams PORT EVENTS PER_BATCH BYTES     the consumer; starts the producer itself

Prints `{"rate": events/s}`, counted from the first event read to the last: the producer's start costs it nothing.
"""

import json
import subprocess
import sys
import time

import redis


def produce(port: int, stream: str, events: int, per_batch: int, size: int) -> None:
    client = redis.Redis(port=port)
    event = json.dumps({"type": "log", "timestamp": 1_700_000_000_000, "content": "x" * (size - 50)}).encode()
    for begin in range(0, events, per_batch):
        batch = client.pipeline(transaction=False)
        for _ in range(min(per_batch, events - begin)):
            batch.xadd(stream, {"e": event})
        batch.execute()


def consume(port: int, stream: str, events: int) -> float:
    client = redis.Redis(port=port)
    after, seen, first = b"0", 0, 0.0
    while seen < events:
        answer = client.xread({stream: after}, count=500, block=10_000)
        assert answer, "nothing came for 10 s"
        entries = answer[stream.encode()][0] if isinstance(answer, dict) else answer[0][1]
        if not seen:
            first = time.perf_counter()
        seen += len(entries)
        after = entries[-1][0]
    return time.perf_counter() - first


def main(role: str, port: int, events: int, per_batch: int, size: int) -> None:
    stream = f"bench-{time.monotonic_ns()}" if role == "consume" else role
    if role != "consume":
        produce(port, stream, events, per_batch, size)
        return
    argv = [sys.executable, "-m", "bench.load_streams", stream, str(port), str(events), str(per_batch), str(size)]
    with subprocess.Popen(argv) as producer:
        took = consume(port, stream, events)
        assert producer.wait(30) == 0
    redis.Redis(port=port).delete(stream)
    print(json.dumps({"rate": events / took}))


if __name__ == "__main__":
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:6]))
