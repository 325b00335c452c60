"""The description of the HTTP surface: OpenAPI 3.1, made from the handlers and msgspec's own JSON Schema.

Handlers say path, parameters, prose and answer; msgspec says the shapes (and that requests refuse unknown fields,
which Litestar's own description leaves out). Frames of streams and sockets are in the components too, so one
document names every shape that travels.
"""

import inspect
import re
from collections.abc import Sequence
from typing import Any, Final, get_args, get_type_hints

import msgspec
from litestar.handlers import HTTPRouteHandler

from manager.routes.access import Action
from manager.routes.bodies import Body
from manager.routes.parameters import Parameter, parameters_of
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
_PATH_PARAMETER: Final = re.compile(r"\{(\w+):\w+\}")


def document(handlers: Sequence[HTTPRouteHandler]) -> dict[str, Any]:
    """The whole description as plain JSON values."""
    answers = [get_args(get_type_hints(handler.fn, include_extras=True)["return"])[0] for handler in handlers]
    bodies: list[Body[Any] | None] = [handler.opt.get("body") for handler in handlers]
    types = [*answers, *(body.type for body in bodies if body is not None), *FRAMES, Problem]
    refs, components = msgspec.json.schema_components(types, ref_template=TEMPLATE)
    schema_of = {id(one): ref for one, ref in zip(types, refs, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for handler, answer, body in zip(handlers, answers, bodies, strict=True):
        operation = _operation(handler, schema_of[id(answer)])
        if body is not None:
            operation["requestBody"] = {
                "required": not body.is_optional,
                "content": {"application/json": {"schema": schema_of[id(body.type)]}},
            }
        (path,) = handler.paths
        (method,) = handler.http_methods
        paths.setdefault(_PATH_PARAMETER.sub(r"{\1}", path), {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Fleetgate", "version": __version__, "description": ABOUT},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A personal token, fgp_..."}
            },
        },
    }


def _operation(handler: HTTPRouteHandler, answer: dict[str, Any]) -> dict[str, Any]:
    media_type = handler.media_type or "application/json"
    content: dict[str, Any] = {str(media_type): {"schema": answer}}
    responses: dict[str, Any] = {str(handler.status_code): {"description": "Done.", "content": content}}
    if handler.opt.get("repeats"):
        responses["200"] = {"description": "This key was used before: the answer of that time.", "content": content}
    if handler.opt.get("streams"):
        content["text/event-stream"] = {"schema": {"type": "string"}}
        responses["204"] = {"description": "The task has ended and you have all of it."}
    responses["default"] = PROBLEM
    operation: dict[str, Any] = {
        "operationId": handler.operation_id,
        "summary": handler.summary,
        "description": inspect.cleandoc(handler.fn.__doc__ or ""),
        "tags": list(handler.tags or ()),
        "parameters": [_parameter(one) for one in parameters_of(handler.fn)],
        "responses": responses,
    }
    if handler.opt.get("action") is Action.PUBLIC:
        operation["security"] = []
    return operation


def _parameter(one: Parameter) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": one.name, "in": one.place, "required": one.is_required, "schema": one.schema}
    if one.description:
        shown["description"] = one.description
    return shown
