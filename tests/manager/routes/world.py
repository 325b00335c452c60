"""A manager's edge on a real socket: uvicorn on port 0 in the test's own loop, a real store, and behind the edge
a desk that only stores what it is asked. What hosts would report is said by the test, through the store.
"""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_bytes
from typing import Any

import anyio
import httpx
import msgspec

from manager.bus.local import LocalBus
from manager.core.lifecycle import Cause
from manager.core.scheduling import Offer
from manager.core.tasks import Change, Spec, Verdict, requirement
from manager.errors import NotFound
from manager.ports import Clock, NewTask, Store
from manager.routes.access import Access
from manager.routes.meters import Meters
from manager.routes.services import EdgeConfig, Services, Wire
from manager.routes.site import build
from manager.routes.tokens import new_token
from manager.runtime.announcer import Announcer, FleetLog
from manager.runtime.clock import SystemClock
from manager.runtime.doors import Doors
from manager.runtime.follower import Follower
from manager.runtime.server import PING_S, SILENCE_S, Server, listen
from manager.runtime.tail import Tail
from manager.storage.sqlite import SqliteStore
from shared_types.api import InputReceipt, TaskCreate, TokenKind, Why
from shared_types.hosts import HostCapabilities, HostState, HostStatus, canonical_agent
from shared_types.ids import RANDOM_BYTES, new_id
from shared_types.tasks import Task, TaskResult

HOST = "h1"


class Desk:
    """`TaskDesk` without a host behind it."""

    def __init__(self, store: Store, announcer: Announcer, clock: Clock) -> None:
        self.store = store
        self.announcer = announcer
        self.clock = clock

    async def submit(
        self, create: TaskCreate, *, actor: str, idempotency_key: str | None = None, trace_id: str = ""
    ) -> tuple[Task, bool]:
        now = self.clock.now()
        spec = Spec(
            prompt=create.prompt,
            agent_type=canonical_agent(create.agent_type),
            created_at=now,
            cwd=create.cwd,
            env=create.env,
            timeout=create.timeout,
            queue_ttl=create.queue_ttl or 3600_000,
            metadata=create.metadata,
            pinned_host=create.host_id,
            labels=create.labels,
            priority=create.priority,
            actor=actor,
            trace_id=trace_id,
        )
        task, is_new = await self.store.add(
            NewTask(
                task_id=new_id("task", now, token_bytes(RANDOM_BYTES)),
                session_id=new_id("ses", now, token_bytes(RANDOM_BYTES)),
                spec=spec,
                requirement=requirement(spec),
                idempotency_key=idempotency_key,
                digest=create.prompt,
            ),
            max_queued=1000,
        )
        if is_new:
            self.announcer.queued(task)
        return task, is_new

    async def _change(self, task_id: str, **fields: Any) -> Task:
        await self.store.task(task_id)
        taken = await self.store.change([Change(task_id=task_id, now=self.clock.now(), **fields)])
        self.announcer.taken(taken)
        return await self.store.task(task_id)

    async def abort(self, task_id: str, *, kill: bool = False, reason: str | None = None, actor: str = "") -> Task:
        detail = f"Stopped by {actor}: {reason}"
        return await self._change(task_id, cause=Cause.ABORT, kill=kill, reason="aborted_by_user", detail=detail)

    async def retry(self, task_id: str, actor: str) -> Task:
        return await self._change(task_id, cause=Cause.RETRY)

    async def input(self, task_id: str, content: str, input_id: str | None, actor: str) -> InputReceipt:
        stored = await self.store.add_input(task_id, input_id or "in_1", content, self.clock.now())
        return InputReceipt(input_id=stored.input_id, task_id=task_id, state=stored.state)

    async def why(self, task_id: str) -> Why:
        task = await self.store.task(task_id)
        return Why(task_id=task_id, status=task.status, summary="No host is connected.")


@dataclass
class Hosts:
    """`HostDesk` with the hosts that a test names."""

    known: dict[str, HostStatus] = field(default_factory=dict)

    def add(self, host_id: str, status: HostState = HostState.ONLINE) -> HostStatus:
        capabilities = HostCapabilities(name=host_id, agents=("claude-code",), max_concurrent=2, cwd="/tmp")
        self.put_out_hosts: list[str] = []
        self.known[host_id] = HostStatus(
            host_id=host_id,
            name=host_id,
            status=status,
            capabilities=capabilities,
            active_tasks=(),
            last_heartbeat=1,
            connected_at=1,
            slots=2,
        )
        return self.known[host_id]

    async def statuses(self) -> list[HostStatus]:
        return list(self.known.values())

    async def status(self, host_id: str) -> HostStatus:
        try:
            return self.known[host_id]
        except KeyError:
            raise NotFound(f"There is no host {host_id}.", code="NO_SUCH_HOST") from None

    async def put_out(self, host_id: str) -> None:
        self.put_out_hosts.append(host_id)

    async def drain(self, host_id: str) -> HostStatus:
        self.known[host_id] = msgspec.structs.replace(await self.status(host_id), draining=True)
        return self.known[host_id]

    async def resume(self, host_id: str) -> HostStatus:
        self.known[host_id] = msgspec.structs.replace(await self.status(host_id), draining=False)
        return self.known[host_id]


class EchoLink:
    """`Link` that says back what it hears."""

    def __init__(self, wire: Wire, host_id: str) -> None:
        self.wire = wire
        self.host_id = host_id

    async def serve(self) -> None:
        while (message := await self.wire.receive()) is not None:
            if message == "bye":
                await self.wire.close(4000, "bye")
                return
            await self.wire.send(message.encode() if isinstance(message, str) else message)


@dataclass
class World:
    store: SqliteStore
    announcer: Announcer
    services: Services
    server: Server
    desk: Desk
    hosts: Hosts
    token: str
    host_token: str

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.server.port}"

    def auth(self, token: str | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {token or self.token}"}

    def client(self, token: str | None = "", **more: Any) -> httpx.AsyncClient:
        """`token` None: a client without one."""
        headers = {} if token is None else self.auth(token)
        return httpx.AsyncClient(base_url=self.origin, headers=headers, timeout=10, **more)

    async def new_task(self, prompt: str = "do it", **more: Any) -> Task:
        task, _ = await self.desk.submit(TaskCreate(prompt=prompt, agent_type="claude-code", **more), actor="tok_test")
        return task

    async def start(self, task: Task) -> "Run":
        """Let a host take it and say that it runs."""
        now = self.services.clock.now()
        row = await self.store.host_connected(
            HOST,
            HostCapabilities(name=HOST, agents=("claude-code",), max_concurrent=100, cwd="/tmp"),
            (),
            protocol=2,
            version=None,
            boot_id=None,
            now=now,
        )
        keys = frozenset(await self.store.requirements())
        offer = Offer(
            host_id=HOST, generation=row.generation, keys=keys, used=0, slots=100, last_assigned_at=0, cwd="/tmp"
        )
        claims = await self.store.claim([offer], accept_by=now + 30_000, now=now)
        self.announcer.claimed(claims)
        claim = next(claim for claim in claims if claim.record.id == task.id)
        run = Run(self, task.id, claim.record.attempt, row.generation)
        await run.report(cause=Cause.ACCEPTED)
        await run.report(cause=Cause.STARTED)
        return run


@dataclass
class Run:
    """An attempt, as its host reports it."""

    world: World
    task_id: str
    attempt: int
    generation: int
    seq: int = 0

    async def report(self, **fields: Any) -> None:
        change = Change(
            task_id=self.task_id,
            now=self.world.services.clock.now(),
            attempt=self.attempt,
            host_id=HOST,
            generation=self.generation,
            **fields,
        )
        taken = await self.world.store.change([change])
        assert taken[0].verdict is Verdict.TAKEN, taken
        self.world.announcer.taken(taken)

    async def say(self, *texts: str, type: str = "message", **data: Any) -> None:
        """One record a text."""
        bodies = []
        for text in texts:
            body: dict[str, Any] = {"type": type, "timestamp": 1, "content": text}
            if data:
                body["data"] = data
            bodies.append(msgspec.json.encode(body))
        await self.report(events=tuple(bodies), span=(self.seq + 1, self.seq + len(bodies)))
        self.seq += len(bodies)

    async def end(self, output: str = "done") -> None:
        await self.report(
            cause=Cause.SUCCEEDED,
            span=(self.seq + 1, self.seq + 1),
            result=TaskResult(success=True, exit_code=0, output=output),
        )


@asynccontextmanager
async def world(
    home: Path,
    *,
    config: EdgeConfig | None = None,
    drain_s: float = 5.0,
    sweep_s: float = 5.0,
    send_timeout_s: float = 20.0,
    ping_s: float = PING_S,
    silence_s: float = SILENCE_S,
) -> AsyncIterator[World]:
    clock = SystemClock()
    bus = LocalBus()
    sock = listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    config = config or EdgeConfig()
    config = EdgeConfig(
        origins=config.origins | {f"http://127.0.0.1:{port}"},
        public_url=config.public_url,
        default_agent=config.default_agent,
        log_requests=config.log_requests,
    )
    async with await SqliteStore.open(home / "manager.db", now=clock.now()) as store:
        tail = Tail()
        fleet = FleetLog("f1")
        announcer = Announcer(bus=bus, tail=tail, fleet=fleet, clock=clock)
        desk = Desk(store, announcer, clock)
        hosts = Hosts()
        doors = Doors(bus, sweep_s=sweep_s, send_timeout_s=send_timeout_s)
        servers: list[Server] = []
        services = Services(
            store=store,
            bus=bus,
            clock=clock,
            tasks=desk,
            hosts=hosts,
            link=EchoLink,
            follower=Follower(store=store, tail=tail, fleet=fleet),
            doors=doors,
            access=Access(store, clock),
            meters=Meters(),
            counters=dict,
            degraded=dict,
            hang_up=lambda client: servers[0].hang_up(client),
            started_at=clock.now(),
            config=config,
        )
        token, personal = new_token("test", TokenKind.PERSONAL, None, clock)
        host_token, host = new_token("host", TokenKind.HOST, HOST, clock)
        await store.add_token(personal)
        await store.add_token(host)

        async def drain() -> None:
            doors.drain()
            await doors.wait_empty()

        server = Server(build(services), sock, drain=drain, drain_s=drain_s, ping_s=ping_s, silence_s=silence_s)
        servers.append(server)
        async with anyio.create_task_group() as group:
            group.start_soon(doors.run)
            group.start_soon(server.run_until_stopped)
            await server.wait_started()
            yield World(store, announcer, services, server, desk, hosts, token, host_token)
            server.stop()
            await server.wait_stopped()
            group.cancel_scope.cancel()


@dataclass
class Frame:
    """One event of an SSE stream."""

    event: str = "message"
    id: str | None = None
    data: str = ""
    comment: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.data)


async def frames(response: httpx.Response) -> AsyncIterator[Frame]:
    """Server-Sent Events, parsed as https://html.spec.whatwg.org/multipage/server-sent-events.html says."""
    frame = Frame()
    async for line in response.aiter_lines():
        if not line:
            if frame != Frame():
                yield frame
            frame = Frame()
        elif line.startswith(":"):
            frame.comment = True
        else:
            name, _, value = line.partition(": ")
            if name == "event":
                frame.event = value
            elif name == "id":
                frame.id = value
            elif name == "data":
                frame.data += value


async def until(condition: Callable[[], bool]) -> None:
    """Bounded by whoever waits."""
    while not condition():  # noqa: ASYNC110  # what is waited for has nothing that could tell us
        await anyio.sleep(0.01)


async def read_all(client: httpx.AsyncClient, path: str, **headers: str) -> list[Frame]:
    """A stream from its begin to its end."""
    async with client.stream("GET", path, headers={"Accept": "text/event-stream", **headers}) as response:
        assert response.status_code == 200, await response.aread()
        return [frame async for frame in frames(response)]


def ids(stream: Sequence[Frame]) -> list[int]:
    """Ids of the log's events, without the stream's own frames."""
    return [int(frame.id) for frame in stream if frame.id is not None]
