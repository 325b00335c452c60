"""Is it alive, is it ready, is it well."""

from typing import Any, Final

from litestar import Request, get
from litestar.response import Response

from manager.routes.access import Action
from manager.routes.problems import NotNow
from manager.routes.replies import Reply
from manager.routes.services import services
from shared_types import __version__
from shared_types.api import Answer, Health
from shared_types.hosts import HostState
from shared_types.tasks import TaskState


class Alive(Answer, frozen=True, kw_only=True):
    """`status` is ok."""

    status: str


@get(
    "/healthz",
    action=Action.PUBLIC,
    operation_id="healthz",
    summary="Is the process alive",
    tags=["health"],
)
async def healthz(request: Request[Any, Any, Any]) -> Response[Alive]:
    """Answers as long as the event loop turns."""
    return Reply(Alive(status="ok"))


@get(
    "/readyz",
    action=Action.PUBLIC,
    operation_id="readyz",
    summary="May it have traffic",
    tags=["health"],
)
async def readyz(request: Request[Any, Any, Any]) -> Response[Alive]:
    """503 while it drains or the store does not answer."""
    s = services(request)
    if s.doors.is_draining:
        raise NotNow("This manager is about to stop.")
    await s.store.counts()
    return Reply(Alive(status="ok"))


@get("/api/health", action=Action.PUBLIC, operation_id="health", summary="How it is", tags=["health"])
async def health(request: Request[Any, Any, Any]) -> Response[Health]:
    """`degraded` names the parts that do not work as they should. Always 200: a degraded manager still serves."""
    s = services(request)
    counts = await s.store.counts()
    statuses = await s.hosts.statuses()
    degraded = dict(s.degraded())
    if s.doors.is_draining:
        degraded["manager"] = "draining: it is about to stop"
    return Reply(
        Health(
            status="degraded" if degraded else "ok",
            version=__version__,
            epoch=s.store.epoch,
            degraded=degraded,
            hosts_online=sum(host.status is not HostState.OFFLINE for host in statuses),
            tasks_queued=counts.get(TaskState.QUEUED, 0),
            tasks_running=counts.get(TaskState.RUNNING, 0),
            uptime_ms=s.clock.now() - s.started_at,
        )
    )


ROUTES: Final = [healthz, readyz, health]
