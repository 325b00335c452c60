"""The description of the HTTP surface: OpenAPI 3.1, made from the handlers and msgspec's own JSON Schema.

Litestar knows paths, parameters and prose; msgspec knows the structs (and that requests refuse unknown fields).
Frames of streams and sockets are in the components too, so one document names every shape that travels.
"""

from collections.abc import Sequence
from typing import Any, Final, get_args, get_type_hints

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.types import ControllerRouterHandler

from manager.routes.access import Action
from manager.routes.bodies import Body
from shared_types import __version__
from shared_types.api import FleetEvent, FleetSnapshot, FromClient, Problem, ResumeFrame
from shared_types.events import AgentEvent
from shared_types.tasks import Task

TEMPLATE: Final = "#/components/schemas/{name}"
FRAMES: Final = (AgentEvent, FleetEvent, FleetSnapshot, ResumeFrame, Task, *get_args(FromClient))
PROBLEM: Final = {
    "description": "A problem document (RFC 9457) with a stable `code`.",
    "content": {"application/problem+json": {"schema": {"$ref": TEMPLATE.format(name="Problem")}}},
}
ABOUT: Final = (
    "Fleetgate dispatches coding agents to machines. Every request needs `Authorization: Bearer <token>`, except "
    "health, this document, and joining with a code. Times are milliseconds since the epoch, durations milliseconds."
)


def document(handlers: Sequence[ControllerRouterHandler]) -> dict[str, Any]:
    """The whole description as plain JSON values."""
    described = Litestar(
        route_handlers=list(handlers), openapi_config=OpenAPIConfig(title="Fleetgate", version=__version__)
    )
    schema = described.openapi_schema.to_schema()
    operations = {
        handler.operation_id: handler
        for route in described.routes
        for handler in getattr(route, "route_handlers", ())
        if isinstance(handler, HTTPRouteHandler) and handler.include_in_schema is not False
    }
    answers = {str(name): _answer_type(handler) for name, handler in operations.items()}
    bodies = {str(name): handler.opt["body"] for name, handler in operations.items() if "body" in handler.opt}
    types = [*answers.values(), *(body.type for body in bodies.values()), *FRAMES, Problem]
    refs, components = msgspec.json.schema_components(types, ref_template=TEMPLATE)
    schemas = dict(zip(map(id, types), refs, strict=True))
    for path in schema["paths"].values():
        for operation in path.values():
            name = operation["operationId"]
            _describe(operation, operations[name], schemas[id(answers[name])], bodies.get(name), schemas)
    schema["info"]["description"] = ABOUT
    schema["components"] = {
        "schemas": components,
        "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "description": "A personal token, fgp_..."}},
    }
    schema["security"] = [{"bearer": []}]
    schema["servers"] = [{"url": "/"}]
    return schema


def _answer_type(handler: HTTPRouteHandler) -> Any:
    """`X` of a handler that says `-> Response[X]`."""
    return get_args(get_type_hints(handler.fn, include_extras=True)["return"])[0]


def _describe(
    operation: dict[str, Any],
    handler: HTTPRouteHandler,
    answer: dict[str, Any],
    body: Body[Any] | None,
    schemas: dict[int, dict[str, Any]],
) -> None:
    if body is not None:
        operation["requestBody"] = {
            "required": not body.is_optional,
            "content": {"application/json": {"schema": schemas[id(body.type)]}},
        }
    media_type = handler.media_type if isinstance(handler.media_type, str) else "application/json"
    content: dict[str, Any] = {str(media_type): {"schema": answer}}
    responses: dict[str, Any] = {str(handler.status_code): {"description": "Done.", "content": content}}
    if operation["operationId"] == "createTask":
        responses["200"] = {"description": "This key was used before: the task of that time.", "content": content}
    if handler.opt.get("streams"):
        content["text/event-stream"] = {"schema": {"type": "string"}}
        responses["204"] = {"description": "The task has ended and you have all of it."}
    responses["default"] = PROBLEM
    operation["responses"] = responses
    operation.pop("deprecated", None)
    if handler.opt.get("action") is Action.PUBLIC:
        operation["security"] = []
