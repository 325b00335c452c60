"""The site: every route, put together into one ASGI application."""

from typing import Any, Final

import msgspec
from litestar import Litestar, Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response
from litestar.types import ASGIApp, ControllerRouterHandler

from manager.routes import events, health, hosts, link, metrics, sockets, tasks, tokens
from manager.routes.access import AccessMiddleware, Action
from manager.routes.edge import Edge
from manager.routes.openapi import document
from manager.routes.problems import HANDLERS, MAX_BODY_BYTES
from manager.routes.replies import RawReply
from manager.routes.services import Services

HTTP: Final[list[HTTPRouteHandler]] = [
    *tasks.ROUTES,
    *events.ROUTES,
    *hosts.ROUTES,
    *tokens.ROUTES,
    *health.ROUTES,
    *metrics.ROUTES,
]
SOCKETS: Final[list[ControllerRouterHandler]] = [*sockets.ROUTES, *link.ROUTES]


class _Description:
    """The OpenAPI document, made when it is first asked for (it costs some 100 ms)."""

    def __init__(self) -> None:
        self._text: bytes | None = None

    def text(self) -> bytes:
        if self._text is None:
            self._text = msgspec.json.format(msgspec.json.encode(document(HTTP)), indent=1)
        return self._text


_description: Final = _Description()


@get(
    ["/schema", "/schema/openapi.json"],
    action=Action.PUBLIC,
    include_in_schema=False,
    operation_id="schema",
    summary="This document",
)
async def schema(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    """Public: it says what there is, not what is in it."""
    return RawReply(_description.text(), media_type="application/vnd.oai.openapi+json")


def litestar_app(services: Services) -> Litestar:
    return Litestar(
        route_handlers=[*HTTP, *SOCKETS, schema],
        middleware=[AccessMiddleware(services.access, services.config.origins)],
        exception_handlers=HANDLERS,
        openapi_config=None,
        logging_config=None,
        request_max_body_size=MAX_BODY_BYTES,
    )


def build(services: Services) -> ASGIApp:
    """The application for a server to run."""
    return Edge(litestar_app(services), services)
