"""`/ws`: one socket for many tasks, for people and programs.

A socket has one reader, one writer and a pump for each subscription. Pumps and replies meet at one rendezvous without
a buffer, which serves them in turn: no subscription starves another, and what waits for a slow client is at most
one slab for each. A message we do not understand is answered by an `error` frame; only what is no JSON closes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast, get_args

import anyio
import msgspec
import structlog
from litestar import WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect

from manager.errors import FleetError, Forbidden, Invalid, Refused
from manager.routes.access import Action, authorize, principal_of
from manager.routes.bodies import invalid
from manager.routes.frames import fleet_frames, frame, host_frame, log_frames
from manager.routes.problems import describe, request_id_of
from manager.routes.services import Services, services
from manager.routes.tasks import resolve
from manager.routes.traces import trace_id
from manager.runtime.doors import REVOKED
from manager.runtime.follower import Cursor, Place
from manager.runtime.tail import Standing
from shared_types.api import (
    MAX_BATCH_BYTES,
    MAX_BATCH_MESSAGES,
    Ack,
    ClientTaskAbort,
    ClientTaskInput,
    FromClient,
    StreamRef,
    Subscribe,
    Sync,
    TaskCreate,
    Unsubscribe,
    UserMessage,
)

MAX_FRAME_BYTES: Final = 256 * 1024
MAX_SUBSCRIPTIONS: Final = 200

_log = structlog.get_logger("manager.ws")
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(FromClient).decode


class _Head(msgspec.Struct):
    type: str
    id: str | None = None


_head: Final = msgspec.json.Decoder(_Head).decode
_TYPES: Final = frozenset(str(cls.__struct_config__.tag) for cls in get_args(FromClient))

# What each message needs; `authorize` is asked for every one.
RULES: Final[Mapping[str, Action]] = {
    "sync": Action.TASK_READ,
    "ack": Action.TASK_READ,
    "subscribe": Action.TASK_READ,
    "unsubscribe": Action.TASK_READ,
    "user:message": Action.TASK_CREATE,
    "task:input": Action.TASK_STEER,
    "task:abort": Action.TASK_STEER,
}


class NotAMessage(Exception):
    """A frame that is no JSON: the peer speaks something else."""


class ClientSocket:
    """One connection to `/ws`."""

    def __init__(self, socket: WebSocket[Any, Any, Any], s: Services) -> None:
        self._socket = socket
        self._services = s
        self._principal = principal_of(socket.scope)
        self._subscriptions: dict[tuple[str, str], anyio.CancelScope] = {}
        self._synced: dict[str, int] = {}  # how far this socket has read a log by `sync`
        send, receive = anyio.create_memory_object_stream[Sequence[str]](0)
        self._out = send
        self._rendezvous = receive

    async def run(self) -> None:
        """Until the client is gone or has to leave."""
        await self._socket.accept()
        code, reason = 1000, ""
        client = self._socket.scope["client"]
        with self._services.doors.enter(self._principal.id, "ws", lambda: self._services.hang_up(client)) as visit:
            self._visit = visit
            async with self._services.bus.subscribe(visit.topic) as wakeups, anyio.create_task_group() as group:
                self._group = group

                async def watch_doors() -> None:
                    nonlocal code, reason
                    while visit.leaving is None:
                        await wakeups.wait(math.inf)
                    code, reason = (
                        (4401, "the token was revoked") if visit.leaving == REVOKED else (1012, "the manager restarts")
                    )
                    group.cancel_scope.cancel()

                async def read() -> None:
                    nonlocal code, reason
                    code, reason = await self._read()
                    group.cancel_scope.cancel()

                async def write() -> None:
                    await self._write()
                    group.cancel_scope.cancel()

                group.start_soon(watch_doors)
                group.start_soon(read)
                group.start_soon(write)
        self._out.close()
        self._rendezvous.close()
        await self._close(code, reason)

    async def _close(self, code: int, reason: str) -> None:
        if code == 1005:
            return  # the client is gone
        with anyio.move_on_after(2.0, shield=True):
            try:
                await self._socket.close(code=code, reason=reason)
            except (OSError, WebSocketDisconnect, RuntimeError):
                return  # it went at the same moment

    # --- reading ------------------------------------------------------------------------------------

    async def _read(self) -> tuple[int, str]:
        """The code and reason to close with."""
        while True:
            message = cast(dict[str, Any], await self._socket.receive())
            if message["type"] == "websocket.disconnect":
                return 1005, ""
            data = message.get("text")
            if data is None:
                data = message.get("bytes") or b""
            if len(data) > MAX_FRAME_BYTES or (isinstance(data, str) and len(data.encode()) > MAX_FRAME_BYTES):
                return 1009, f"a frame may have {MAX_FRAME_BYTES} bytes"
            try:
                await self._hear(data)
            except NotAMessage as error:
                return 1007, str(error)[:120]

    async def _hear(self, data: str | bytes) -> None:
        """One message. What is wrong with it is answered; raises NotAMessage when it is no JSON."""
        id: str | None = None
        try:
            id, message = self._understand(data)
            await self._obey(message)
        except FleetError as error:
            await self._say_problem(error, id)

    def _understand(self, data: str | bytes) -> tuple[str | None, FromClient]:
        try:
            head = _head(data)
        except msgspec.ValidationError as error:
            raise Invalid(f"A message needs a type: {error}", code="INVALID_MESSAGE") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise NotAMessage(f"not JSON: {error}") from error
        try:
            if head.type not in _TYPES:
                raise Invalid(
                    f"There is no message of type {head.type[:100]!r}.",
                    code="UNKNOWN_TYPE",
                    hint="One of " + ", ".join(sorted(_TYPES)) + ".",
                )
            authorize(self._principal, RULES[head.type])
            return head.id, _decode(data)
        except msgspec.ValidationError as error:
            raise _Bad(invalid(error), head.id) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise NotAMessage(f"not JSON: {error}") from error
        except Refused as error:
            raise _Bad(error, head.id) from error

    async def _say_problem(self, error: FleetError, id: str | None) -> None:
        if isinstance(error, _Bad):
            id, error = error.id, error.refused
        problem = describe(error, request_id=request_id_of(self._socket.scope))
        await self._say(frame("error", problem, id))

    async def _obey(self, message: FromClient) -> None:
        try:
            match message:
                case Sync():
                    await self._sync(message)
                case Ack():
                    await self._ack(message)
                case Subscribe():
                    await self._subscribe(message)
                case Unsubscribe():
                    await self._unsubscribe(message)
                case UserMessage():
                    await self._user_message(message)
                case ClientTaskInput():
                    await self._input(message)
                case ClientTaskAbort():
                    await self._abort(message)
        except FleetError as error:
            raise _Bad(error, message.id) from error

    # --- what clients ask for -----------------------------------------------------------------------

    async def _sync(self, message: Sync) -> None:
        """Everything behind the given id, or behind the client's own mark: one batch."""
        s = self._services
        payload = message.payload
        task_id, session_id = await self._log_of(payload.task_id, payload.session_id, message.metadata)
        bounds = await s.follower.bounds(task_id=task_id, session_id=session_id)
        after = payload.last_ack_id
        if after is None:
            after = await s.store.marked(self._principal.id, _device(message.metadata), bounds.session_id)
        verdict, begin = Place(after).resolve(s.store.epoch, bounds.first_id, bounds.latest_id)
        events = await s.store.events(
            bounds.session_id, begin, task_id=task_id, limit=MAX_BATCH_MESSAGES + 1, max_bytes=MAX_BATCH_BYTES - 65536
        )
        shown = events[:MAX_BATCH_MESSAGES]
        reached = shown[-1].id if shown else begin
        has_more = len(events) > len(shown) or (bool(shown) and reached < bounds.latest_id and task_id is None)
        if task_id is not None and shown and not has_more:
            has_more = bool(await s.store.events(bounds.session_id, reached, task_id=task_id, limit=1, max_bytes=1))
        self._synced[task_id or bounds.session_id] = reached if has_more else max(reached, bounds.latest_id)
        head = _encode(
            {
                "latestID": bounds.latest_id,
                "firstID": bounds.first_id,
                "epoch": s.store.epoch,
                "verdict": verdict,
                "hasMore": has_more,
                "sessionId": bounds.session_id,
            }
        ).decode()
        body = b",".join(event.flat() for event in shown).decode("utf-8", "replace")
        name = f'"id":{_encode(message.id).decode()},' if message.id is not None else ""
        await self._say(f'{{"type":"sync.batch",{name}"payload":{head[:-1]},"messages":[{body}]}}}}')

    async def _ack(self, message: Ack) -> None:
        s = self._services
        task_id, session_id = await self._log_of(message.payload.task_id, message.payload.session_id, message.metadata)
        bounds = await s.follower.bounds(task_id=task_id, session_id=session_id)
        await s.store.mark(
            self._principal.id,
            _device(message.metadata),
            bounds.session_id,
            min(message.payload.msg_id, bounds.latest_id),
        )

    async def _subscribe(self, message: Subscribe) -> None:
        kind, id = await self._stream_of(message.payload)
        if (kind, id) in self._subscriptions:
            raise Refused(
                f"This socket follows {id or kind} already.", code="ALREADY_SUBSCRIBED", hint="Unsubscribe first."
            )
        await self._follow(kind, id, after=message.payload.after, text=message.payload.text, reply_to=message.id)

    async def _unsubscribe(self, message: Unsubscribe) -> None:
        kind, id = await self._stream_of(message.payload)
        scope = self._subscriptions.pop((kind, id), None)
        if scope is not None:
            scope.cancel()
        await self._say(frame("unsubscribed", _stream_payload(kind, id), message.id))

    async def _user_message(self, message: UserMessage) -> None:
        """A task from a chat: created, answered by its record, and followed."""
        s = self._services
        agent = message.payload.agent_type or s.config.default_agent
        if agent is None:
            raise Invalid(
                "Say which agent is meant.",
                code="AGENT_REQUIRED",
                hint="Send payload.agentType, or set MANAGER_DEFAULT_AGENT.",
                field="$.payload.agentType",
            )
        create = TaskCreate(
            prompt=message.payload.content,
            agent_type=agent,
            host_id=message.payload.host_id,
            cwd=message.payload.cwd,
        )
        task, _ = await s.tasks.submit(
            create, actor=self._principal.id, idempotency_key=None, trace_id=trace_id(self._socket.scope)
        )
        await self._say(frame("status", Standing(task).task, message.id))
        await self._follow("task", task.id, after=0, text=True, reply_to=None)

    async def _input(self, message: ClientTaskInput) -> None:
        s = self._services
        receipt = await s.tasks.input(
            await resolve(s.store, message.payload.task_id),
            message.payload.content,
            message.payload.input_id,
            self._principal.id,
        )
        await self._say(frame("task:input", receipt, message.id))

    async def _abort(self, message: ClientTaskAbort) -> None:
        s = self._services
        task = await s.tasks.abort(
            await resolve(s.store, message.payload.task_id),
            kill=message.payload.kill,
            reason=message.payload.reason,
            actor=self._principal.name,
        )
        await self._say(frame("status", Standing(task).task, message.id))

    async def _log_of(
        self, task_ref: str | None, session_id: str | None, metadata: dict[str, Any] | None
    ) -> tuple[str | None, str | None]:
        """The log that is meant. Raises Invalid."""
        if session_id is None and task_ref is None:
            named = (metadata or {}).get("sessionId")
            session_id = named if isinstance(named, str) else None
        if (task_ref is None) == (session_id is None):
            raise Invalid("Name either a taskId or a sessionId.", code="WHICH_STREAM", field="$.payload")
        return (None if task_ref is None else await resolve(self._services.store, task_ref)), session_id

    async def _stream_of(self, ref: StreamRef) -> tuple[str, str]:
        if (ref.task_id is not None) + (ref.session_id is not None) + ref.fleet != 1:
            raise Invalid("Name one of taskId, sessionId or fleet.", code="WHICH_STREAM", field="$.payload")
        if ref.task_id is not None:
            return "task", await resolve(self._services.store, ref.task_id)
        return ("session", ref.session_id) if ref.session_id is not None else ("fleet", "")

    # --- following ----------------------------------------------------------------------------------

    async def _follow(self, kind: str, id: str, *, after: int | None, text: bool, reply_to: str | None) -> None:
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise Forbidden(
                f"A socket may follow {MAX_SUBSCRIPTIONS} streams.", code="TOO_MANY_SUBSCRIPTIONS", hint="Unsubscribe."
            )
        scope = self._subscriptions[kind, id] = anyio.CancelScope()
        try:
            if kind == "fleet":
                await self._follow_fleet(after, scope, reply_to)
            else:
                await self._follow_log(kind, id, after, text, scope, reply_to)
        except BaseException:
            del self._subscriptions[kind, id]
            raise

    async def _follow_fleet(self, after: int | None, scope: anyio.CancelScope, reply_to: str | None) -> None:
        log = self._services.follower.fleet
        verdict, begin = Place(after if after is not None else log.ring.last).resolve(
            log.epoch, log.ring.first, log.ring.last
        )
        payload = {"fleet": True, "after": begin, "epoch": log.epoch, "verdict": verdict}
        await self._say(frame("subscribed", payload, reply_to))
        self._group.start_soon(self._pump_fleet, begin, scope)

    async def _follow_log(
        self, kind: str, id: str, after: int | None, text: bool, scope: anyio.CancelScope, reply_to: str | None
    ) -> None:
        s = self._services
        task_id = id if kind == "task" else None
        bounds = await s.follower.bounds(task_id=task_id, session_id=None if task_id else id)
        wanted = after if after is not None else self._synced.get(id, bounds.latest_id)
        verdict, begin = Place(wanted).resolve(s.store.epoch, bounds.first_id, bounds.latest_id)
        payload = _stream_payload(kind, id) | {"after": begin, "epoch": s.store.epoch, "verdict": verdict}
        await self._say(frame("subscribed", payload, reply_to))
        standing = await s.follower.standing(task_id) if task_id else None
        if standing is not None:
            await self._say(standing.frame)
        self._group.start_soon(self._pump_log, s.follower.cursor(bounds, task_id, begin), standing, text, scope)

    async def _pump_log(self, cursor: Cursor, standing: Standing | None, text: bool, scope: anyio.CancelScope) -> None:
        """One subscription to a log, until it is ended. Ends by itself only with the socket."""
        follower = self._services.follower
        with scope:
            try:
                async with self._services.bus.subscribe(cursor.topic, self._visit.topic) as wakeups:
                    woken = True
                    while True:
                        slab = await cursor.next(trust_tail=woken)
                        if slab.lines:
                            await self._out.send(log_frames(slab, text))
                        for task_id in slab.own_tasks:
                            newer = await follower.standing(task_id)
                            if standing is None or newer.news != standing.news:
                                await self._out.send([newer.frame])
                            standing = newer if cursor.task_id else None
                        woken = slab.is_full
                        if not woken:
                            swept = self._visit.swept
                            await wakeups.wait(math.inf)
                            woken = self._visit.swept == swept
            except FleetError as error:
                await self._broken(
                    ("task", cursor.task_id) if cursor.task_id else ("session", cursor.session_id), error
                )

    async def _pump_fleet(self, after: int, scope: anyio.CancelScope) -> None:
        log = self._services.follower.fleet
        cursor = self._services.follower.fleet_cursor(after)
        with scope:
            try:
                async with self._services.bus.subscribe(cursor.topic, self._visit.topic) as wakeups:
                    await self._out.send([host_frame(host) for host in await self._services.hosts.statuses()])
                    while True:
                        if cursor.is_lost:
                            cursor.after = log.ring.last
                            payload = {"fleet": True, "after": cursor.after, "epoch": log.epoch, "verdict": "gap"}
                            await self._say(frame("subscribed", payload))
                            hosts = await self._services.hosts.statuses()
                            await self._out.send([host_frame(host) for host in hosts])
                        slab = cursor.next_nowait()
                        if slab.lines:
                            await self._out.send(fleet_frames(slab))
                        if not slab.is_full:
                            await wakeups.wait(math.inf)
            except FleetError as error:
                await self._broken(("fleet", ""), error)

    async def _broken(self, key: tuple[str, str], error: FleetError) -> None:
        """The store is away or the log is gone: say so and end the subscription; the client subscribes again."""
        self._subscriptions.pop(key, None)
        await self._say(frame("error", describe(error, instance=key[1] or key[0])))
        await self._say(frame("unsubscribed", _stream_payload(*key)))

    # --- writing ------------------------------------------------------------------------------------

    async def _say(self, text: str) -> None:
        await self._out.send([text])

    async def _write(self) -> None:
        """The one writer. A client that takes nothing is cut by the doors; then, as when it goes, this ends."""
        async for frames in self._rendezvous:
            for text in frames:
                with self._visit:
                    try:
                        await self._socket.send_text(text)
                    except (OSError, WebSocketDisconnect) as error:
                        _log.debug("client gone", principal=self._principal.id, error=str(error))
                        return


class _Bad(FleetError):
    """A refusal with the id of the message it answers."""

    def __init__(self, refused: FleetError, id: str | None) -> None:
        super().__init__(str(refused))
        self.refused = refused
        self.id = id


def _device(metadata: dict[str, Any] | None) -> str:
    device = (metadata or {}).get("deviceId")
    return device[:128] if isinstance(device, str) else ""


def _stream_payload(kind: str, id: str) -> dict[str, object]:
    return {"fleet": True} if kind == "fleet" else {f"{kind}Id": id}


@websocket("/ws", action=Action.TASK_READ)
async def client_socket(socket: WebSocket[Any, Any, Any]) -> None:
    """One socket for many tasks; see docs/protocol.md."""
    try:
        await ClientSocket(socket, services(socket)).run()
    except* WebSocketDisconnect:
        _log.debug("client gone", principal=principal_of(socket.scope).id)


ROUTES: Final = [client_socket]
