"""`/api/hosts`: look, drain, resume."""

from typing import Any, Final

from litestar import Request, get, post
from litestar.params import FromPath
from litestar.response import Response

from manager.routes.access import Action
from manager.routes.replies import Reply
from manager.routes.services import services
from shared_types.hosts import HostStatus


@get("/api/hosts", action=Action.HOST_READ, operation_id="listHosts", summary="All hosts", tags=["hosts"])
async def list_hosts(request: Request[Any, Any, Any]) -> Response[list[HostStatus]]:
    """Every host that ever registered, offline ones too."""
    return Reply(await services(request).hosts.statuses())


@get("/api/hosts/{host_id:str}", action=Action.HOST_READ, operation_id="getHost", summary="One host", tags=["hosts"])
async def get_host(request: Request[Any, Any, Any], host_id: FromPath[str]) -> Response[HostStatus]:
    """A host with its agents, slots, labels and vitals."""
    return Reply(await services(request).hosts.status(host_id))


@post(
    "/api/hosts/{host_id:str}/drain",
    action=Action.HOST_STEER,
    operation_id="drainHost",
    summary="No new tasks for this host",
    status_code=200,
    tags=["hosts"],
)
async def drain_host(request: Request[Any, Any, Any], host_id: FromPath[str]) -> Response[HostStatus]:
    """What runs there goes on to its end."""
    return Reply(await services(request).hosts.drain(host_id))


@post(
    "/api/hosts/{host_id:str}/resume",
    action=Action.HOST_STEER,
    operation_id="resumeHost",
    summary="New tasks for this host again",
    status_code=200,
    tags=["hosts"],
)
async def resume_host(request: Request[Any, Any, Any], host_id: FromPath[str]) -> Response[HostStatus]:
    """The opposite of drain."""
    return Reply(await services(request).hosts.resume(host_id))


ROUTES: Final = [list_hosts, get_host, drain_host, resume_host]
