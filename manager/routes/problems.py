"""Every refusal as an RFC 9457 problem document with a stable `code` and a sentence that says what to do.

Ours (bugs) are logged with their traceback and answered with a bare 500 that names the request; theirs carry what
the caller can mend. Nothing about the inside leaks.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, cast

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap, Receive, Scope, Send

from manager.errors import Refused, Stale, StoreUnavailable
from shared_types.api import Problem, ProblemField, TokenKind
from shared_types.tasks import PermissionMode, TaskState

MEDIA_TYPE: Final = "application/problem+json"
MAX_BODY_BYTES: Final = 1024 * 1024

_encode: Final = msgspec.json.Encoder().encode
_log = structlog.get_logger("manager.http")


class BadBody(Refused):
    """A request body that is not what the route takes. `fields` name what is wrong."""

    code = "INVALID_BODY"

    def __init__(
        self, detail: str, *, code: str, fields: tuple[ProblemField, ...] = (), hint: str | None = None
    ) -> None:
        super().__init__(detail, code=code, hint=hint)
        self.fields = fields


class NotJson(BadBody):
    status = 415


class Unauthorized(Refused):
    """No credential, or one that is not known."""

    status = 401
    code = "UNAUTHORIZED"


class NotNow(Refused):
    """The manager is on its way out."""

    status = 503
    code = "DRAINING"


_MS: Final = "Milliseconds, an integer of at least 1."
_HINTS: Final = {
    "timeout": _MS,
    "idleTimeout": _MS,
    "queueTtl": _MS,
    "ttl": _MS,
    "priority": "0 goes first, 9 last.",
    "permissionMode": f"One of {', '.join(PermissionMode)}.",
    "status": f"One of {', '.join(TaskState)}.",
    "kind": f"One of {', '.join(TokenKind)}.",
}
_STATUS_CODES: Final = {
    404: ("NO_SUCH_PATH", "There is nothing at this path; GET /schema/openapi.json lists what there is."),
    405: ("METHOD_NOT_ALLOWED", "This path does not take this method; the Allow header lists those it takes."),
    413: ("BODY_TOO_LARGE", f"The body is larger than {MAX_BODY_BYTES} bytes; send less."),
}


def hint_for(key: str) -> str:
    """What a field or parameter of this name takes.

    >>> hint_for("$.timeout"), hint_for("$.prompt")
    ('Milliseconds, an integer of at least 1.', 'GET /schema/openapi.json describes what every path takes.')
    """
    return _HINTS.get(key.rpartition(".")[2], "GET /schema/openapi.json describes what every path takes.")


def describe(exc: Exception, *, instance: str | None = None, request_id: str | None = None) -> Problem:
    """What to tell the caller about an exception."""
    fields: tuple[ProblemField, ...] = ()
    hint: str | None = None
    match exc:
        case Refused():
            status, code, detail, hint = type(exc).status, exc.code, exc.detail, exc.hint
            if isinstance(exc, BadBody):
                fields = exc.fields
            elif exc.field:
                fields = (ProblemField(key=exc.field, message=exc.detail),)
        case StoreUnavailable():
            status, code = 503, "STORE_UNAVAILABLE"
            detail = f"The database does not take changes at the moment ({exc.code}); nothing was changed. Try again."
        case Stale():
            status, code, detail = 409, "STALE", str(exc) or "What you speak of has changed since. Look again."
        case ValidationException():
            status, code, (detail, fields) = 400, "INVALID_PARAMETER", _parameters(exc)
            hint = hint_for(fields[0].key) if fields else None
        case HTTPException():
            status = exc.status_code
            code, detail = _STATUS_CODES.get(status, (f"HTTP_{status}", exc.detail))
            hint = "Put a long text into a file of the task's directory and name it." if status == 413 else None
        case _:
            status, code = 500, "INTERNAL"
            detail = "This is a fault of the manager, not of your request. Its log has the reason under the request id."
    return Problem(
        type=f"/problems/{code.lower().replace('_', '-')}",
        title=HTTPStatus(status).phrase,
        status=status,
        code=code,
        detail=detail,
        hint=hint,
        instance=instance,
        request_id=request_id,
        errors=fields,
    )


def _parameters(exc: ValidationException) -> tuple[str, tuple[ProblemField, ...]]:
    extra = exc.extra if isinstance(exc.extra, list) else []
    fields = tuple(
        ProblemField(
            key=str(one.get("key", "")),
            message=str(one.get("message", "")),
            source=str(getattr(one.get("source"), "value", one.get("source", "query"))),
        )
        for one in extra
        if isinstance(one, dict)
    )
    if not fields:
        # A parameter that is missing is reported in the detail alone.
        missing = re.search(r"Missing required (\w+) parameter '([^']+)'", exc.detail)
        if missing:
            fields = (ProblemField(key=missing[2], message="is required", source=missing[1]),)
    detail = "; ".join(f"{field.key}: {field.message}" for field in fields) or exc.detail
    return detail, fields


def headers_for(exc: Exception) -> dict[str, str]:
    """Headers that belong to a refusal."""
    match exc:
        case Unauthorized():
            return {"WWW-Authenticate": 'Bearer realm="fleetgate"'}
        case StoreUnavailable():
            return {"Retry-After": "1"}
        case Refused() if type(exc).status in (429, 503):
            return {"Retry-After": "5"}
        case HTTPException() if exc.headers:
            return {name.title(): value for name, value in cast(Mapping[str, str], exc.headers).items()}
        case _:
            return {}


def request_id_of(scope: Scope) -> str | None:
    return cast(dict[str, Any], scope).get("request_id")


def on_exception(request: Request[Any, Any, Any], exc: Exception) -> Response[bytes]:
    """Litestar's one exception handler of ours."""
    problem = describe(exc, instance=request.scope["path"], request_id=request_id_of(request.scope))
    if problem.status >= 500:
        _log.error("request failed", path=request.scope["path"], request_id=problem.request_id, exc_info=exc)
    return Response(_encode(problem), status_code=problem.status, media_type=MEDIA_TYPE, headers={**headers_for(exc)})


HANDLERS: Final[ExceptionHandlersMap] = {HTTPException: on_exception, Refused: on_exception, Exception: on_exception}


def refusal(scope: Scope, exc: Exception) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body, for whoever answers without the framework."""
    problem = describe(exc, instance=scope["path"], request_id=request_id_of(scope))
    if problem.status >= 500:
        _log.error("request failed", path=scope["path"], request_id=problem.request_id, exc_info=exc)
    return problem.status, _headers(exc), _encode(problem)


def _headers(exc: Exception) -> list[tuple[bytes, bytes]]:
    said = [(name.lower().encode(), value.encode()) for name, value in headers_for(exc).items()]
    return [(b"content-type", MEDIA_TYPE.encode()), *said]


async def deny(scope: Scope, receive: Receive, send: Send, exc: Exception) -> None:
    """Refuse a connection from outside a handler. A WebSocket handshake is answered like any other request."""
    await refuse(scope, receive, send, *refusal(scope, exc))


async def refuse(
    scope: Scope, receive: Receive, send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    if scope["type"] == "http":  # type: ignore[comparison-overlap]  # litestar's ScopeType is a str enum
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
        return
    await receive()  # websocket.connect
    # https://asgi.readthedocs.io/en/latest/extensions.html#websocket-denial-response
    start = {"type": "websocket.http.response.start", "status": status, "headers": headers}
    await send(cast(Any, start))
    await send(cast(Any, {"type": "websocket.http.response.body", "body": body, "more_body": False}))
