"""Tasks that do nothing, sent to a manager: from the POST to the final status on the fleet's SSE stream.

    python -m bench.load_fleetgate URL TOKEN TASKS IN_FLIGHT [PAUSE_MS]

Prints `{"rate": tasks/s, "median_ms": of one task}`. With PAUSE_MS everything rests about so long before each task.
"""

import asyncio
import json
import random
import statistics
import sys
import time
from urllib.parse import urlsplit

import msgspec
import uvloop

from bench.raw import Connection, Stream, post


class Line(msgspec.Struct):
    type: str = ""
    taskId: str = ""
    status: str = ""


class Created(msgspec.Struct):
    id: str


LINE = msgspec.json.Decoder(Line)
CREATED = msgspec.json.Decoder(Created)
UNDER_WAY = (b'"status":"queued"', b'"status":"assigned"', b'"status":"running"')


class Finished:
    """Who waits for which task; a task may end before its POST is answered."""

    def __init__(self) -> None:
        self._ended: set[str] = set()
        self._waiting: dict[str, asyncio.Future[None]] = {}

    def heard(self, data: bytes) -> None:
        if any(state in data for state in UNDER_WAY):
            return
        line = LINE.decode(data)
        if line.type != "task.status" or line.status not in {"completed", "failed", "timeout", "aborted", "lost"}:
            return
        assert line.status == "completed", data
        if waiting := self._waiting.pop(line.taskId, None):
            waiting.set_result(None)
        else:
            self._ended.add(line.taskId)

    async def wait(self, task_id: str) -> None:
        if task_id in self._ended:
            self._ended.discard(task_id)
            return
        self._waiting[task_id] = waiting = asyncio.get_running_loop().create_future()
        await waiting


async def main(url: str, token: str, tasks: int, in_flight: int, pause_ms: float) -> None:
    address = urlsplit(url)
    host, port = address.hostname or "127.0.0.1", address.port or 80
    finished = Finished()
    stream = await Stream.open(host, port, "/api/events", token, finished.heard)
    request = post("/api/tasks", host, token, b'{"prompt":"nothing","agentType":"noop"}')
    waits: list[float] = []
    left = tasks

    async def one_after_another(connection: Connection) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            if pause_ms:
                await asyncio.sleep(random.uniform(0.5, 1.5) * pause_ms / 1000)
            began = time.perf_counter()
            task = CREATED.decode(await connection.send(request))
            await finished.wait(task.id)
            waits.append(time.perf_counter() - began)

    connections = [await Connection.open(host, port) for _ in range(in_flight)]
    began = time.perf_counter()
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(one_after_another(connection))
    took = time.perf_counter() - began
    stream.close()
    for connection in connections:
        connection.close()
    print(json.dumps({"rate": tasks / took, "median_ms": statistics.median(waits) * 1000}))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float((*sys.argv, 0)[5])))
