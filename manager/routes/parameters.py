"""What a handler takes in its path, query and headers, read from its signature: for the description of the API and
for refusing what it does not take (a typo must not be silence).
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

import msgspec
from litestar.params import ParameterKwarg
from litestar.types import Scope

from manager.routes.problems import BadBody
from shared_types.api import ProblemField

_BOUNDS: Final = ("ge", "le", "min_length", "max_length", "pattern")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter. `schema` is its JSON Schema without references."""

    name: str
    place: str  # path | query | header
    is_required: bool
    schema: dict[str, Any]
    description: str | None


@cache
def parameters_of(fn: Callable[..., Any]) -> tuple[Parameter, ...]:
    """In the order of the signature."""
    defaults = inspect.signature(fn).parameters
    found = []
    for name, hint in get_type_hints(fn, include_extras=True).items():
        said = next((one for one in getattr(hint, "__metadata__", ()) if isinstance(one, ParameterKwarg)), None)
        if said is None:
            continue
        place = type(said).__name__.removesuffix("Parameter").lower()
        default = defaults[name].default
        wire_name = getattr(said, "name", None) or name
        schema = _schema(hint, said, default)
        found.append(Parameter(wire_name, place, default is inspect.Parameter.empty, schema, said.description))
    return tuple(found)


def _schema(hint: Any, said: ParameterKwarg, default: Any) -> dict[str, Any]:
    kind = get_args(hint)[0]
    plain = [one for one in get_args(kind) if one is not type(None)] if get_origin(kind) is not list else []
    if plain and type(None) in get_args(kind):
        kind = plain[0]  # leaving it out is how a parameter says null
    bounds = {name: getattr(said, name) for name in _BOUNDS if getattr(said, name, None) is not None}
    if bounds:
        kind = Annotated[kind, msgspec.Meta(**bounds)]
    schema, components = msgspec.json.schema_components([kind], ref_template="{name}")
    inlined = _inline(schema[0], components)
    inlined |= said.schema_extra or {}
    if default is not inspect.Parameter.empty and default is not None:
        inlined["default"] = default
    return inlined


def _inline(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return dict(components[schema["$ref"]])
    if "items" in schema:
        return schema | {"items": _inline(schema["items"], components)}
    return dict(schema)


def check_query(scope: Scope) -> None:
    """Every name must be known, and stand once unless it is a list. Raises BadBody.

    `null` for a number is refused too: leaving it out is how a parameter says nothing.
    """
    handler = scope["route_handler"]
    sockets: frozenset[str] | None = handler.opt.get("query")
    taken = dict.fromkeys(sockets) if sockets is not None else _query_types(handler.fn)
    seen: set[str] = set()
    for name, value in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True):
        if name not in taken:
            raise _wrong(name, "UNKNOWN_PARAMETER", "there is no such parameter", taken)
        if name in seen and taken[name] != "array":
            raise _wrong(name, "INVALID_PARAMETER", "stands there more than once", taken)
        if value == "null" and taken[name] == "integer":
            raise _wrong(name, "INVALID_PARAMETER", "is not a number", taken)
        seen.add(name)


@cache
def _query_types(fn: Callable[..., Any]) -> dict[str, str | None]:
    return {one.name: one.schema.get("type") for one in parameters_of(fn) if one.place == "query"}


def _wrong(name: str, code: str, what: str, taken: Mapping[str, object]) -> BadBody:
    name = name[:100]
    return BadBody(
        f"{name}: {what}.",
        code=code,
        fields=(ProblemField(key=name, message=what, source="query"),),
        hint=f"This path takes {', '.join(sorted(taken)) or 'no parameters'}.",
    )
