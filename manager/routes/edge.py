"""The outermost layer: a name for every request, how it ended, how long it took. Also for paths that do not exist,
which Litestar's own middleware never sees.

It never logs a query, a header or a body: secrets come in those.
"""

import re
import secrets
import time
from collections.abc import Mapping
from itertools import count
from typing import Any, Final, cast

import structlog
from litestar.types import ASGIApp, Receive, Scope, Send

from manager.errors import NotFound
from manager.routes.express import Express
from manager.routes.problems import deny
from manager.routes.services import Services

_log = structlog.get_logger("manager.http")
_REQUEST_ID: Final = re.compile(rb"^[A-Za-z0-9._:-]{8,128}$")
STREAMING: Final = b"text/event-stream"
NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
NO_STORE: Final = (b"cache-control", b"no-store")
ALWAYS: Final = (NOSNIFF, NO_STORE)


class Edge:
    """ASGI application around Litestar's."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._express = Express(services.access, services.tasks, services.config.origins)
        self._services = services
        self._log_all = services.config.log_requests
        self._prefix = secrets.token_hex(4)  # of this process: its requests are numbered
        self._numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind: str = scope["type"]
        if kind == "http":
            await self._request(scope, receive, send)
        elif kind == "websocket":
            await self._socket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _name(self, scope: Scope, headers: Mapping[bytes, bytes]) -> str:
        given = headers.get(b"x-request-id")
        is_good = given is not None and _REQUEST_ID.match(given)
        request_id = given.decode() if given is not None and is_good else f"{self._prefix}{next(self._numbers):08x}"
        extra = cast(dict[str, Any], scope)
        extra["services"] = self._services
        extra["request_id"] = request_id
        return request_id

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = dict(scope["headers"])
        request_id = self._name(scope, asked)
        began = time.perf_counter()
        if self._express.takes(scope, asked):
            status = 0
            try:
                status, headers, body = await self._express.answer(scope, asked, receive)
                headers += ((b"content-length", b"%d" % len(body)), (b"x-request-id", request_id.encode()), *ALWAYS)
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": body, "more_body": False})
            finally:
                self._ended(scope, status, time.perf_counter() - began)
        else:
            await self._long_way(scope, receive, send, request_id, began)

    async def _long_way(self, scope: Scope, receive: Receive, send: Send, request_id: str, began: float) -> None:
        status = 0
        streams = False

        async def named(message: Any) -> None:
            nonlocal status, streams
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message.get("headers", [])
                streams = any(name == b"content-type" and value.startswith(STREAMING) for name, value in headers)
                message["headers"] = [*headers, (b"x-request-id", request_id.encode()), NOSNIFF]
                if not streams:
                    message["headers"].append(NO_STORE)
            await send(message)

        try:
            await self._app(scope, receive, named)
        finally:
            self._ended(scope, status, None if streams else time.perf_counter() - began)

    def _ended(self, scope: Scope, status: int, seconds: float | None) -> None:
        said = cast(dict[str, Any], scope)
        method = str(said["method"])
        route = said.get("path_template") or "unmatched"
        self._services.meters.answered(method if len(method) < 8 else "OTHER", route, status, seconds)
        if self._log_all or status >= 400:
            _log.info(
                "request",
                method=method,
                path=scope["path"][:200],
                status=status,
                ms=None if seconds is None else round(seconds * 1000, 2),
                request_id=said["request_id"],
                principal=getattr(said.get("user"), "id", None),
            )

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._name(scope, dict(scope["headers"]))
        cast(dict[str, Any], scope)["wire"] = (receive, send)
        is_open = False

        async def named(message: Any) -> None:
            nonlocal is_open
            if message["type"] in ("websocket.accept", "websocket.http.response.start"):
                is_open = True
            elif message["type"] == "websocket.close" and not is_open:
                # Litestar closes what it has no route for; on the wire that would be a bare 403.
                is_open = True
                missing = NotFound("There is no WebSocket at this path.", code="NO_SUCH_PATH")

                async def nothing() -> Any:
                    return None  # `websocket.connect` was received already

                await deny(scope, nothing, send, missing)
                return
            await send(message)

        await self._app(scope, receive, named)
