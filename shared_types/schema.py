"""What is said, as documents for other languages: JSON Schema, AsyncAPI 3 and TypeScript, made from the structs.

The structs are the source; nothing is described twice. Everything here gives a value and writes nothing:
`./dev schema` writes docs/schema, and a test keeps it current.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias, get_args

import msgspec

import shared_types
from shared_types import api, events, messages, tasks

Schema: TypeAlias = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
UNIONS: Final[Mapping[str, Any]] = {
    "FromGateway": messages.FromGateway,
    "FromManager": messages.FromManager,
    "FromClient": api.FromClient,
    "ToClient": api.ToClient,
}


def link_words() -> list[type[msgspec.Struct]]:
    """Everything said on the link, and the event it carries."""
    return [*get_args(messages.FromGateway), *get_args(messages.FromManager), events.AgentEvent]


def api_words() -> list[type[msgspec.Struct]]:
    """Everything said over HTTP, SSE and `/ws`."""
    own = [
        word
        for word in vars(api).values()
        if isinstance(word, type) and issubclass(word, msgspec.Struct) and word.__module__ == api.__name__
    ]
    return [*(word for word in own if word not in {api.Request, api.Answer, api.Envelope, api.Told}), tasks.Task]


def components(words: Iterable[Any], template: str) -> dict[str, Schema]:
    """Each word and each word it uses, by name; `template` holds `{name}` and makes the references.

    Bodies that are passed on as they came (`Raw`) are AgentEvents, or public events of a stream; msgspec itself only
    knows that they are JSON.
    """
    words = [*words, events.AgentEvent]
    _, found = msgspec.json.schema_components(words, ref_template=template)
    event: Schema = {"$ref": template.format(name="AgentEvent")}
    public: Schema = {"anyOf": [{"$ref": template.format(name=name)} for name in ("EventRecord", "FleetEvent")]}
    for cls in _structs(words):
        for field in msgspec.structs.fields(cls):
            properties = found[cls.__name__]["properties"]
            if field.type is msgspec.Raw:
                properties[field.encode_name] = public if cls is api.EventPayload else event
            elif field.type == tuple[msgspec.Raw, ...]:
                properties[field.encode_name]["items"] = event
    return dict(sorted(found.items()))


def _union(union: Any, template: str) -> Schema:
    mapping = {cls.__struct_config__.tag: template.format(name=cls.__name__) for cls in get_args(union)}
    return {
        "oneOf": [{"$ref": reference} for reference in mapping.values()],
        "discriminator": {"propertyName": "type", "mapping": mapping},
    }


def _document(title: str, words: Iterable[Any], unions: Iterable[str]) -> Schema:
    template = "#/$defs/{name}"
    return {
        "$schema": DIALECT,
        "title": title,
        "$defs": components(words, template) | {name: _union(UNIONS[name], template) for name in unions},
    }


def link_schema() -> Schema:
    """JSON Schema of the link."""
    return _document("Fleetgate: the link", link_words(), ["FromGateway", "FromManager"])


def api_schema() -> Schema:
    """JSON Schema of what travels over HTTP, SSE and `/ws`."""
    return _document("Fleetgate: HTTP, streams and /ws", api_words(), ["FromClient", "ToClient"])


# --- AsyncAPI ---------------------------------------------------------------------------------------

# Frames of the SSE streams: the name after `event:` ("" for a plain message), what `data:` holds.
_LEAVE: Final = {"drain": "LeaveFrame", "revoked": "LeaveFrame"}
STREAM_FRAMES: Final[Mapping[str, Mapping[str, str]]] = {
    "task": {"resume": "ResumeFrame", "": "EventRecord", "status": "Task", "end": "EndFrame", **_LEAVE},
    "session": {"resume": "ResumeFrame", "": "EventRecord", "status": "Task", **_LEAVE},
    "fleet": {"resume": "ResumeFrame", "": "FleetEvent", "snapshot": "FleetSnapshot", **_LEAVE},
}
STREAM_ADDRESSES: Final = {
    "task": "/api/tasks/{taskId}/events",
    "session": "/api/sessions/{sessionId}/events",
    "fleet": "/api/events",
}


def asyncapi() -> Schema:
    """AsyncAPI 3.0: the link, `/ws` and the SSE streams, as the manager serves them."""
    template = "#/components/schemas/{name}"

    def message(name: str, payload: str) -> Schema:
        return {"name": name, "payload": {"$ref": template.format(name=payload)}}

    def socket(address: str, unions: Iterable[str], description: str) -> Schema:
        said = {cls.__name__: str(cls.__struct_config__.tag) for name in unions for cls in get_args(UNIONS[name])}
        return {
            "address": address,
            "description": description,
            "bindings": {"ws": {"method": "GET"}},
            "messages": {name: message(tag, name) for name, tag in said.items()},
        }

    def stream(name: str) -> Schema:
        frames = STREAM_FRAMES[name].items()
        address = STREAM_ADDRESSES[name]
        parameters = [part[1:-1] for part in address.split("/") if part.startswith("{")]
        return {
            "address": address,
            "description": f"The {name} stream, as Server-Sent Events; resume by Last-Event-ID.",
            **({"parameters": {parameter: {} for parameter in parameters}} if parameters else {}),
            "messages": {event or "message": message(event or "message", payload) for event, payload in frames},
        }

    def operation(action: str, channel: str, names: Iterable[str]) -> Schema:
        return {
            "action": action,
            "channel": {"$ref": f"#/channels/{channel}"},
            "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names],
        }

    def said(union: str) -> list[str]:
        return [cls.__name__ for cls in get_args(UNIONS[union])]

    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Fleetgate",
            "version": shared_types.__version__,
            "description": "What the manager hears (receive) and says (send) beside plain HTTP. See docs/protocol.md.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "link": socket("/agent/ws", ["FromGateway", "FromManager"], "A gateway dials the manager here."),
            "socket": socket("/ws", ["FromClient", "ToClient"], "One socket for many tasks, for frontends."),
            **{name: stream(name) for name in STREAM_FRAMES},
        },
        "operations": {
            "hearGateway": operation("receive", "link", said("FromGateway")),
            "tellGateway": operation("send", "link", said("FromManager")),
            "hearClient": operation("receive", "socket", said("FromClient")),
            "tellClient": operation("send", "socket", said("ToClient")),
            **{
                f"stream{name.capitalize()}": operation("send", name, [event or "message" for event in frames])
                for name, frames in STREAM_FRAMES.items()
            },
        },
        "components": {"schemas": components([*link_words(), *api_words()], template)},
    }


# --- TypeScript -------------------------------------------------------------------------------------


def typescript() -> str:
    """Types of everything that is said. A field that an answer always holds is never optional there."""
    words = [*link_words(), *api_words()]
    answers = _structs(word for word in words if issubclass(word, api.Answer))
    whole = {cls.__name__ for cls in answers if _says_defaults(cls)}
    lines = ["// Made from shared_types by ./dev schema; do not edit."]
    for name, schema in components(words, "{name}").items():
        if "description" in schema:
            lines += ["", f"/** {' '.join(schema['description'].split())} */"]
        else:
            lines += [""]
        lines.append(f"export type {name} = {_type(schema, whole=name in whole)};")
    for name, union in UNIONS.items():
        lines += ["", f"export type {name} = {' | '.join(cls.__name__ for cls in get_args(union))};"]
    return "\n".join(lines) + "\n"


def _structs(words: Iterable[type[msgspec.Struct]]) -> list[type[msgspec.Struct]]:
    """The words and all the structs inside them."""
    found: dict[type[msgspec.Struct], None] = {}

    def look(kind: msgspec.inspect.Type) -> None:
        if isinstance(kind, msgspec.inspect.StructType) and kind.cls not in found:
            found[kind.cls] = None
            for field in kind.fields:
                look(field.type)
        for inner in ("type", "item_type", "value_type"):
            if isinstance(one := getattr(kind, inner, None), msgspec.inspect.Type):
                look(one)
        for one in getattr(kind, "types", ()):
            look(one)

    for word in words:
        look(msgspec.inspect.type_info(word))
    return list(found)


def _says_defaults(cls: type[msgspec.Struct]) -> bool:
    config = cls.__struct_config__
    return not config.omit_defaults and not config.forbid_unknown_fields


def _type(schema: Schema, *, whole: bool = False, indent: str = "  ") -> str:
    match schema:
        case {"$ref": str(name)}:
            return name
        case {"enum": list(names)}:
            return " | ".join(json.dumps(name) for name in names)
        case {"anyOf": list(kinds)}:
            return " | ".join(dict.fromkeys(_type(kind, indent=indent) for kind in kinds))
        case {"type": "object", "properties": dict(fields)}:
            needed = set(fields) if whole else set(schema.get("required", ()))
            body = "".join(
                f"{indent}{name}{'' if name in needed else '?'}: {_type(field, indent=indent + '  ')};\n"
                for name, field in fields.items()
            )
            return "{\n" + body + indent[:-2] + "}" if body else "Record<string, never>"
        case {"type": "object", "additionalProperties": dict(value)}:
            return f"Record<string, {_type(value, indent=indent)}>"
        case {"type": "object"}:
            return "Record<string, unknown>"
        case {"type": "array"}:
            item = _type(schema.get("items") or {}, indent=indent)
            return f"({item})[]" if " " in item else f"{item}[]"
        case {"type": "integer" | "number"}:
            return "number"
        case {"type": "string" | "boolean" | "null" as name}:
            return str(name)
        case _ if not set(schema) - {"default", "description", "title"}:
            return "unknown"
    raise NotImplementedError(f"no TypeScript for {schema}")
