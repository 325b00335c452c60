"""Answers: structs encoded once by msgspec and sent as they are."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec
from litestar import Response
from litestar.types import ASGIApp, Receive, Scope, Send

T = TypeVar("T")

_encode: Final = msgspec.json.Encoder().encode


class Reply(Response[T]):
    """A struct as JSON, without the detour through Litestar's renderer."""

    def __init__(self, content: T, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(content, status_code=status, media_type="application/json")
        self._extra = headers

    def to_asgi_response(self, app: Any, request: Any, **_: Any) -> Any:
        return _send_json(_encode(self.content), self.status_code or 200, self._extra)


class RawReply(Response[T]):
    """JSON that is bytes already; `T` says what it is, for the description of the API."""

    def __init__(self, body: bytes, *, media_type: str = "application/json", status: int = 200) -> None:
        super().__init__(None, status_code=status, media_type=media_type)  # type: ignore[arg-type]  # never rendered
        self._body = body
        self._type = media_type.encode()

    def to_asgi_response(self, app: Any, request: Any, **_: Any) -> Any:
        return _send_json(self._body, self.status_code or 200, None, self._type)


class AppReply(Response[T]):
    """An answer that sends itself, such as a stream."""

    def __init__(self, app: ASGIApp, *, media_type: str) -> None:
        super().__init__(None, media_type=media_type)  # type: ignore[arg-type]  # never rendered
        self._app = app

    def to_asgi_response(self, app: Any, request: Any, **_: Any) -> Any:
        return self._app


def _send_json(
    body: bytes, status: int, extra: Mapping[str, str] | None, media_type: bytes = b"application/json"
) -> ASGIApp:
    headers = [(b"content-type", media_type), (b"content-length", b"%d" % len(body))]
    if extra:
        headers += [(name.lower().encode(), value.encode()) for name, value in extra.items()]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return app
