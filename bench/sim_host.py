"""A simulated host: a real link in the full dialect, and tasks that end without any process being spawned.

    python -m bench.sim_host URL TOKEN HOST_ID

A prompt `relay EVENTS PER_FRAME BYTES` sends that many events before it ends; any other prompt just ends. As a
gateway does, it keeps what is not confirmed in an Outbox and stops sending while that is full.
"""

import asyncio
import json
import sys
import time
from collections import defaultdict
from urllib.parse import urlsplit

import msgspec
import uvloop

from bench.raw_ws import Socket
from shared_types import codec
from shared_types.delivery import Outbox, Span
from shared_types.hosts import AgentInfo, HostCapabilities
from shared_types.messages import (
    FromGateway,
    Heartbeat,
    Ping,
    Register,
    Registered,
    TaskAccepted,
    TaskAck,
    TaskCompleted,
    TaskEvents,
    TaskExecute,
    TaskStart,
    TaskStarted,
)
from shared_types.tasks import TaskRequest, TaskResult

DONE = TaskResult(success=True, exit_code=0, duration=0)


def boot_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Host:
    def __init__(self, host_id: str, group: asyncio.TaskGroup) -> None:
        self.host_id = host_id
        self.group = group
        self.socket: Socket | None = None
        self.registered: asyncio.Future[Registered] = asyncio.get_running_loop().create_future()
        self.tasks: dict[str, TaskRequest] = {}
        self.outboxes: dict[str, Outbox[None]] = defaultdict(lambda: Outbox(window_bytes=4 * 1024 * 1024))
        self.confirmed: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def say(self, *messages: FromGateway) -> None:
        assert self.socket is not None
        for message in messages:
            self.socket.say(codec.encode(message))

    def heard(self, frame: bytes) -> None:
        match codec.decode_from_manager(frame):
            case TaskExecute(task=task, attempt=int(attempt)):
                self.tasks[task.task_id] = task
                self.say(TaskAccepted(task_id=task.task_id, attempt=attempt))
            case TaskStart(task_id=task_id, attempt=attempt):
                task = self.tasks.pop(task_id)
                if task.prompt.startswith("relay "):
                    self.group.create_task(self.relay(task, attempt))
                else:
                    end = TaskCompleted(task_id=task_id, attempt=attempt, seq=1, result=DONE)
                    self.say(TaskStarted(task_id=task_id, attempt=attempt), end)
            case TaskAck(task_id=task_id, seq=seq) if task_id in self.outboxes:
                self.outboxes[task_id].confirm(seq)
                self.confirmed[task_id].set()
            case Ping():
                self.beat()
            case Registered() as answer:
                self.registered.set_result(answer)

    def beat(self) -> None:
        self.say(Heartbeat(timestamp=time.time_ns() // 1_000_000, sent=boot_ms()))

    async def relay(self, task: TaskRequest, attempt: int) -> None:
        _, count, per_frame, size = task.prompt.split()
        text = "x" * (int(size) - 50)
        event = msgspec.Raw(msgspec.json.encode({"type": "log", "timestamp": 1_700_000_000_000, "content": text}))
        outbox, task_id = self.outboxes[task.task_id], task.task_id
        assert self.socket is not None
        self.say(TaskStarted(task_id=task_id, attempt=attempt))
        while outbox.said < int(count):
            first, last = outbox.said + 1, min(outbox.said + int(per_frame), int(count))
            message = TaskEvents(
                task_id=task_id, attempt=attempt, first=first, last=last, events=(event,) * (last - first + 1)
            )
            frame = codec.encode(message)
            while not outbox.has_room:
                self.confirmed[task_id].clear()
                await self.confirmed[task_id].wait()
            outbox.put(Span(first, last, None, len(frame)))
            self.socket.say(frame)
            await self.socket.drain()
        self.say(TaskCompleted(task_id=task_id, attempt=attempt, seq=outbox.said + 1, result=DONE))
        self.outboxes.pop(task_id)
        self.confirmed.pop(task_id, None)


async def main(url: str, token: str, host_id: str) -> None:
    address = urlsplit(url)
    async with asyncio.TaskGroup() as group:
        host = Host(host_id, group)
        path = f"/agent/ws?hostId={host_id}"
        host.socket = await Socket.open(address.hostname or "127.0.0.1", address.port or 80, path, token, host.heard)
        host.say(
            Register(
                host_id=host_id,
                capabilities=HostCapabilities(name=host_id, agents=("noop",), max_concurrent=1000, cwd="/tmp"),
                protocol=2,
                version="bench",
                boot_id="b",
                instance="i",
                agents=(AgentInfo(agent="noop", version="1", auth_ok=True),),
                sent=boot_ms(),
            )
        )
        answer = await host.registered
        assert answer.ok, answer
        print(json.dumps({"ready": host_id}), flush=True)
        beat = group.create_task(heartbeat(host, answer.heartbeat_interval or 15_000))
        print(await host.socket.closed, file=sys.stderr)
        beat.cancel()


async def heartbeat(host: Host, interval_ms: int) -> None:
    while True:
        await asyncio.sleep(interval_ms / 1000)
        host.beat()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
