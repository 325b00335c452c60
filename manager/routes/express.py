"""The short way for the one request that comes by the thousand: `POST /api/tasks` with a token and a body.

It answers as the route does (same rule, same decoding, same refusals), without the framework's routing, middleware
and argument passing, which cost more than all the rest together. A request with a query, an Idempotency-Key or
anything else that is out of the ordinary goes the long way; `takes` says which.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast

import msgspec
from litestar.exceptions import HTTPException
from litestar.types import Receive, Scope

from manager.routes.access import Access, Action, refuse_foreign_origin
from manager.routes.bodies import refuse_other_types
from manager.routes.problems import MAX_BODY_BYTES, refusal
from manager.routes.services import TaskDesk
from manager.routes.tasks import CREATE
from manager.routes.traces import trace_id

PATH: Final = "/api/tasks"
_LONG_WAY: Final = frozenset({b"idempotency-key", b"transfer-encoding", b"content-encoding", b"expect"})

_encode: Final = msgspec.json.Encoder().encode

Headers = list[tuple[bytes, bytes]]


class Answer(NamedTuple):
    status: int
    headers: Headers
    body: bytes


class Express:
    def __init__(self, access: Access, tasks: TaskDesk, origins: frozenset[str]) -> None:
        self._access = access
        self._tasks = tasks
        self._origins = origins

    @staticmethod
    def takes(scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
        """`headers` of the scope, by name."""
        if scope["path"] != PATH or cast(dict[str, Any], scope)["method"] != "POST" or scope["query_string"]:
            return False
        is_twofold = len(headers) != len(cast(list[object], scope["headers"]))
        return not is_twofold and _LONG_WAY.isdisjoint(headers)

    async def answer(self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive) -> Answer:
        """Raises nothing but cancellation: a refusal is an answer."""
        said = cast(dict[str, Any], scope)
        said["path_template"] = PATH
        try:
            refuse_foreign_origin(headers, self._origins)
            said["user"] = principal = await self._access.admit(headers, Action.TASK_CREATE)
            data = await _body(headers, receive)
            content_type = headers.get(b"content-type")
            refuse_other_types(None if content_type is None else content_type.decode("latin-1"))
            create = CREATE.decode(data)
            task, _ = await self._tasks.submit(create, actor=principal.id, trace_id=trace_id(scope))
        except Exception as error:
            return Answer(*refusal(scope, error))
        return Answer(
            201,
            [(b"content-type", b"application/json"), (b"location", f"{PATH}/{task.id}".encode())],
            _encode(task),
        )


async def _body(headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
    """Raises HTTPException 413 without having read it. It has no length of its own: `takes` saw to that."""
    length = headers.get(b"content-length", b"0")
    if int(length) > MAX_BODY_BYTES:  # digits alone, and no more than the server takes
        raise HTTPException(status_code=413)
    parts = []
    while True:
        message = cast(dict[str, Any], await receive())
        if message["type"] == "http.disconnect":
            raise HTTPException(status_code=400, detail="The caller hung up before all of it was here.")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
