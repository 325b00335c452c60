"""One reader of one task's SSE stream while its host sends events: from the POST to the last event read.

    python -m bench.load_relay URL TOKEN EVENTS PER_FRAME BYTES

Prints `{"rate": events/s}`, counted from the POST to the last event read.
"""

import asyncio
import json
import sys
import time
from urllib.parse import urlsplit

import uvloop

from bench.load_fleetgate import CREATED
from bench.raw import Connection, Stream, post


async def main(url: str, token: str, events: int, per_frame: int, size: int) -> None:
    address = urlsplit(url)
    host, port = address.hostname or "127.0.0.1", address.port or 80
    connection = await Connection.open(host, port)
    began = time.perf_counter()
    prompt = f"relay {events} {per_frame} {size}"
    body = json.dumps({"prompt": prompt, "agentType": "noop"}).encode()
    task = CREATED.decode(await connection.send(post("/api/tasks", host, token, body)))
    done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    seen = 0

    def heard(data: bytes) -> None:
        nonlocal seen
        if b'"type":"log"' not in data[:40]:
            return
        seen += 1
        if seen == events:
            done.set_result(time.perf_counter())

    stream = await Stream.open(host, port, f"/api/tasks/{task.id}/events", token, heard)
    async with asyncio.timeout(120):
        ended = await done
    stream.close()
    connection.close()
    print(json.dumps({"rate": events / (ended - began)}))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], *(int(argument) for argument in sys.argv[3:6])))
