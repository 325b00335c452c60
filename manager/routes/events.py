"""Logs as pages and as Server-Sent Events: a task's, a session's, the fleet's.

A stream is a cursor and a pen. It reads behind its id, writes, waits for a wake-up or a few seconds, and reads
again; it holds one slab of bytes that it shares with every reader at the same place. A reader that takes nothing
blocks its own stream alone, and is cut by the doors after a while.
"""

import math
import re
import time
from typing import Annotated, Any, Final

import anyio
import msgspec
import structlog
from litestar import Request, get
from litestar.params import FromPath, HeaderParameter, QueryParameter
from litestar.response import Response
from litestar.types import Receive, Scope, Send

from manager.errors import FleetError, Invalid
from manager.ports import LogBounds, Wakeups
from manager.routes.access import Action, Principal, principal_of
from manager.routes.replies import AppReply, RawReply
from manager.routes.services import Services, services
from manager.routes.tasks import resolve
from manager.runtime.doors import Visit
from manager.runtime.follower import Cursor, FleetCursor, Place
from manager.runtime.tail import Standing
from shared_types.api import EventPage, FleetPage, FleetSnapshot, ResumeFrame
from shared_types.tasks import TaskState

PING_S: Final = 15.0
STREAM_TYPE: Final = "text/event-stream"
HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_log = structlog.get_logger("manager.streams")
_encode: Final = msgspec.json.Encoder().encode
_EVENT_ID_PATTERN: Final = "^(?:([A-Za-z0-9]{1,64})-)?([0-9]{1,15})$"
_EVENT_ID: Final = re.compile(_EVENT_ID_PATTERN)

After = Annotated[
    int | None, QueryParameter(ge=0, le=2**53 - 1, description="Only what comes behind this id. `Last-Event-ID` wins.")
]
Epoch = Annotated[
    str | None, QueryParameter(max_length=64, description="The epoch the id belongs to; another one gives a `gap`.")
]
Limit = Annotated[int, QueryParameter(ge=1, le=500, description="Of a page; a stream has no end.")]
LastEventId = Annotated[
    str | None,
    HeaderParameter(
        name="Last-Event-ID",
        max_length=100,
        description="Sent by browsers that come back.",
        schema_extra={"pattern": f"^$|{_EVENT_ID_PATTERN}"},  # empty: as if it were not there
    ),
]


class Leave(Exception):
    """The stream has to end; its reader was told why."""


def place_of(last_event_id: str | None, after: int | None, epoch: str | None) -> Place:
    """Where a reader wants to begin. Raises Invalid."""
    if not last_event_id:
        return Place(after, epoch)
    found = _EVENT_ID.match(last_event_id)
    if found is None:
        raise Invalid(
            "Last-Event-ID is not an id of this stream.",
            code="BAD_EVENT_ID",
            hint="Send the newest `id` you have, or leave the header out to begin at the start.",
            field="Last-Event-ID",
        )
    return Place(int(found[2]), found[1] or epoch)


class Pen:
    """The one writer of a stream. Bounded by its reader: `write` waits until the bytes before are on their way."""

    def __init__(self, send: Send, visit: Visit, wakeups: Wakeups) -> None:
        self._send = send
        self._visit = visit
        self._wakeups = wakeups
        self._swept = visit.swept
        self._ping_at = time.monotonic() + PING_S

    async def begin(self) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})

    async def write(self, data: bytes) -> None:
        with self._visit:  # a reader that takes nothing is cut by the doors
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def wait(self) -> bool:
        """Until something was published; False when it was only time to look. Pings when due. Raises Leave."""
        await self._wakeups.wait(math.inf)
        visit = self._visit
        if visit.leaving is not None:
            await self.write(b'event: %b\ndata: {"retry":true}\n\n' % visit.leaving.encode())
            raise Leave
        if visit.swept == self._swept:
            return True
        self._swept = visit.swept
        if (now := time.monotonic()) >= self._ping_at:
            self._ping_at = now + PING_S
            await self.write(b": ping\n\n")
        return False

    async def end(self) -> None:
        with anyio.move_on_after(1.0, shield=True):
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class LogStream:
    """The log of a task or a session as an ASGI application."""

    def __init__(
        self, services: Services, principal: Principal, cursor: Cursor, resume: ResumeFrame, standing: Standing | None
    ) -> None:
        self._services = services
        self._principal = principal
        self._cursor = cursor
        self._resume = resume
        self._standing = standing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await stream(self._services, self._principal, self._cursor.topic, self._relay, scope, receive, send)

    async def _relay(self, pen: Pen) -> None:
        await pen.write(resume_frame(self._resume))
        woken = True
        while True:
            slab = await self._cursor.next(trust_tail=woken)
            if slab.lines:
                await pen.write(slab.sse)
            if self._standing is None:
                for task_id in slab.own_tasks:
                    await pen.write((await self._services.follower.standing(task_id)).sse)
            elif await self._tell_standing(pen, changed=self._cursor.task_id in slab.own_tasks, look=not woken):
                return
            woken = slab.is_full or await pen.wait()

    async def _tell_standing(self, pen: Pen, *, changed: bool, look: bool) -> bool:
        """Write the task's record if it is another; True when everything is said."""
        follower = self._services.follower
        assert self._standing is not None
        if changed or look:
            before, self._standing = self._standing, await follower.standing(self._standing.task.id, look=look)
            if self._standing.news != before.news:
                await pen.write(self._standing.sse)
        task = self._standing.task
        if task.is_final and self._cursor.after >= task.last_event_id:
            await pen.write(b'event: end\ndata: {"status":"%b"}\n\n' % task.status.encode())
            return True
        return False


class FleetStream:
    """What happens to hosts and tasks, as an ASGI application. Begins with a snapshot unless it can go on."""

    def __init__(self, services: Services, principal: Principal, place: Place) -> None:
        self._services = services
        self._principal = principal
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await stream(self._services, self._principal, FleetCursor.topic, self._relay, scope, receive, send)

    async def _relay(self, pen: Pen) -> None:
        log = self._services.follower.fleet
        verdict, after = self._place.resolve(log.epoch, log.ring.first, log.ring.last)
        cursor = self._services.follower.fleet_cursor(after)
        if self._place.is_fresh or verdict == "gap":
            await self._begin_anew(pen, cursor, "ok" if self._place.is_fresh else "gap")
        else:
            await pen.write(resume_frame(self._frame("ok")))
        while True:
            if cursor.is_lost:
                await self._begin_anew(pen, cursor, "gap")
            slab = cursor.next_nowait()
            if slab.lines:
                await pen.write(slab.sse)
            if not slab.is_full:
                await pen.wait()

    def _frame(self, verdict: str) -> ResumeFrame:
        log = self._services.follower.fleet
        return ResumeFrame(verdict=verdict, epoch=log.epoch, first_id=log.ring.first, latest_id=log.ring.last)

    async def _begin_anew(self, pen: Pen, cursor: FleetCursor, verdict: str) -> None:
        cursor.after = self._services.follower.fleet.ring.last  # before looking: nothing falls between
        await pen.write(resume_frame(self._frame(verdict)))
        await pen.write(b"event: snapshot\ndata: %b\n\n" % _encode(await fleet_snapshot(self._services, cursor.after)))


async def fleet_snapshot(services: Services, as_of: int) -> FleetSnapshot:
    counts = await services.store.counts()
    return FleetSnapshot(
        as_of=as_of,
        hosts=tuple(await services.hosts.statuses()),
        counts={state.value: counts.get(state, 0) for state in TaskState},
    )


def resume_frame(frame: ResumeFrame) -> bytes:
    return b"retry: 1000\nevent: resume\ndata: %b\n\n" % _encode(frame)


async def stream(
    services: Services, principal: Principal, topic: str, relay: Any, scope: Scope, receive: Receive, send: Send
) -> None:
    """Run a relay until it is done, its reader is gone, or it has to leave. Cancelling is safe at any moment."""
    client = scope["client"]
    with services.doors.enter(principal.id, "sse", lambda: services.hang_up(client)) as visit:
        async with services.bus.subscribe(topic, visit.topic) as wakeups:
            pen = Pen(send, visit, wakeups)
            await pen.begin()
            async with anyio.create_task_group() as group:
                group.start_soon(_until_gone, receive, group.cancel_scope)
                try:
                    await relay(pen)
                except Leave:
                    _log.debug("stream has to end", topic=topic, why=visit.leaving)
                except FleetError as error:
                    # The store is away, or the log was deleted. The reader comes back and is told then.
                    _log.warning("stream broken off", topic=topic, error=str(error))
                group.cancel_scope.cancel()
            await pen.end()


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


class Nothing:
    """204: the task has ended and its reader has everything. A browser then stops coming back."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def wants_stream(request: Request[Any, Any, Any]) -> bool:
    return STREAM_TYPE in request.headers.get("accept", "")


async def _page(s: Services, bounds: LogBounds, task_id: str | None, place: Place, limit: int) -> bytes:
    verdict, after = place.resolve(s.store.epoch, bounds.first_id, bounds.latest_id)
    events = await s.store.events(bounds.session_id, after, task_id=task_id, limit=limit + 1, max_bytes=1024 * 1024)
    shown = events[:limit]
    has_more = len(events) > limit or bool(shown and shown[-1].id < bounds.latest_id and len(shown) < limit)
    page = EventPage(
        items=(),
        epoch=s.store.epoch,
        verdict=verdict,
        first_id=bounds.first_id,
        latest_id=bounds.latest_id,
        has_more=has_more,
    )
    return _with_items(_encode(page), b",".join(event.flat() for event in shown))


def _with_items(page: bytes, items: bytes) -> bytes:
    """The stored lines go into the page as they are: nobody decodes an event to show it."""
    return page.replace(b'"items":[]', b'"items":[' + items + b"]", 1)


@get(
    "/api/tasks/{task_id:str}/events",
    action=Action.TASK_READ,
    streams=True,
    operation_id="taskEvents",
    summary="What a task did, live or as a page",
    tags=["events"],
)
async def task_events(
    request: Request[Any, Any, Any],
    task_id: FromPath[str],
    after: After = None,
    epoch: Epoch = None,
    limit: Limit = 100,
    last_event_id: LastEventId = None,
) -> Response[EventPage]:
    """With `Accept: text/event-stream` a stream that ends after the task's last event, otherwise a page of JSON.

    A stream that comes back after that end is answered 204.
    """
    s = services(request)
    place = place_of(last_event_id, after, epoch)
    full_id = await resolve(s.store, task_id)
    if not wants_stream(request):
        return RawReply(await _page(s, await s.follower.bounds(task_id=full_id), full_id, place, limit))
    standing = await s.follower.standing(full_id)
    bounds = await s.follower.bounds(task_id=full_id)
    verdict, begin = place.resolve(s.store.epoch, bounds.first_id, bounds.latest_id)
    task = standing.task
    if task.is_final and not place.is_fresh and verdict == "ok" and begin >= task.last_event_id:
        return AppReply(Nothing(), media_type=STREAM_TYPE)
    resume = ResumeFrame(
        verdict=verdict, epoch=s.store.epoch, first_id=bounds.first_id, latest_id=bounds.latest_id, task=task
    )
    cursor = s.follower.cursor(bounds, full_id, begin)
    return AppReply(LogStream(s, principal_of(request.scope), cursor, resume, standing), media_type=STREAM_TYPE)


@get(
    "/api/sessions/{session_id:str}/events",
    action=Action.TASK_READ,
    streams=True,
    operation_id="sessionEvents",
    summary="What the tasks of a session did, live or as a page",
    tags=["events"],
)
async def session_events(
    request: Request[Any, Any, Any],
    session_id: FromPath[str],
    after: After = None,
    epoch: Epoch = None,
    limit: Limit = 100,
    last_event_id: LastEventId = None,
) -> Response[EventPage]:
    """As a task's, for all tasks of the session. The stream stays open: a session may always get another task."""
    s = services(request)
    place = place_of(last_event_id, after, epoch)
    bounds = await s.follower.bounds(session_id=session_id)
    if not wants_stream(request):
        return RawReply(await _page(s, bounds, None, place, limit))
    verdict, begin = place.resolve(s.store.epoch, bounds.first_id, bounds.latest_id)
    resume = ResumeFrame(verdict=verdict, epoch=s.store.epoch, first_id=bounds.first_id, latest_id=bounds.latest_id)
    cursor = s.follower.cursor(bounds, None, begin)
    return AppReply(LogStream(s, principal_of(request.scope), cursor, resume, None), media_type=STREAM_TYPE)


@get(
    "/api/events",
    action=Action.TASK_READ,
    streams=True,
    operation_id="fleetEvents",
    summary="What happens to hosts and tasks, live or as a page",
    tags=["events"],
)
async def fleet_events(
    request: Request[Any, Any, Any],
    after: After = None,
    epoch: Epoch = None,
    limit: Limit = 100,
    last_event_id: LastEventId = None,
) -> Response[FleetPage]:
    """The stream begins with `event: snapshot`. Its ids live as long as this manager runs; then it says `gap`."""
    s = services(request)
    place = place_of(last_event_id, after, epoch)
    if wants_stream(request):
        return AppReply(FleetStream(s, principal_of(request.scope), place), media_type=STREAM_TYPE)
    ring = s.follower.fleet.ring
    verdict, begin = place.resolve(s.follower.fleet.epoch, ring.first, ring.last)
    slab = ring.after(begin)
    lines = list(slab.lines)[:limit] if slab else []
    page = FleetPage(
        items=(),
        epoch=s.follower.fleet.epoch,
        verdict=verdict,
        first_id=ring.first,
        latest_id=ring.last,
        has_more=bool(lines) and lines[-1].id < ring.last,
    )
    return RawReply(_with_items(_encode(page), b",".join(line.flat for line in lines)))


ROUTES: Final = [task_events, session_events, fleet_events]
