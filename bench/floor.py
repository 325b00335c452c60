"""The floor under one task on an idle system: two durable commits and the way there and back, and nothing else.

    python -m bench.floor serve PORT DATABASE    commits a row for each word, then says it to the next one
    python -m bench.floor echo PORT              stands where a host stands
    python -m bench.floor ask PORT TASKS PAUSE_MS

No HTTP, no WebSocket, no tasks: bytes on three sockets, one row a commit in a thread, as our manager does it (event
loop, writer's thread, SQLite FULL). What a manager takes beyond this is its own.
"""

import asyncio
import json
import random
import sqlite3
import statistics
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

import uvloop

ROW = "x" * 600


class Server:
    def __init__(self, database: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._writers: dict[bytes, asyncio.StreamWriter] = {}
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._write, args=(database,), daemon=True).start()

    def _write(self, database: str) -> None:
        db = sqlite3.connect(database, isolation_level=None)
        for setting in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 0"):
            db.execute(f"PRAGMA {setting}")
        db.execute("CREATE TABLE row (no INTEGER PRIMARY KEY, text TEXT)")
        while True:
            then = self._inbox.get()
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO row (text) VALUES (?)", (ROW,))
            db.execute("COMMIT")
            self._loop.call_soon_threadsafe(then)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        who = await reader.readexactly(1)
        self._writers[who] = writer
        writer.write(b".")
        while await reader.read(100):
            self._inbox.put(self._claimed if who == b"a" else self._ended)

    def _claimed(self) -> None:
        self._writers[b"a"].write(b".")
        self._writers[b"h"].write(b".")

    def _ended(self) -> None:
        self._writers[b"s"].write(b".")


async def serve(port: int, database: str) -> None:
    listening = await asyncio.start_server(Server(database).serve, "127.0.0.1", port)
    print(json.dumps({"ready": "floor"}), flush=True)
    await listening.serve_forever()


async def connect(port: int, who: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(who)
    await reader.readexactly(1)
    return reader, writer


async def echo(port: int) -> None:
    reader, writer = await connect(port, b"h")
    print(json.dumps({"ready": "echo"}), flush=True)
    while await reader.read(100):
        writer.write(b".")


async def ask(port: int, tasks: int, pause_ms: float) -> None:
    answers, asking = await connect(port, b"a")
    ends, silent = await connect(port, b"s")
    waits = []
    for _ in range(tasks):
        await asyncio.sleep(random.uniform(0.5, 1.5) * pause_ms / 1000)
        began = time.perf_counter()
        asking.write(b".")
        await answers.readexactly(1)
        await ends.readexactly(1)
        waits.append(time.perf_counter() - began)
    silent.close()
    print(json.dumps({"median_ms": statistics.median(waits) * 1000}))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", port, database]:
            uvloop.run(serve(int(port), database))
        case ["echo", port]:
            uvloop.run(echo(int(port)))
        case ["ask", port, tasks, pause_ms]:
            uvloop.run(ask(int(port), int(tasks), float(pause_ms)))
