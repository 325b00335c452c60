"""What the manager says over `/ws`: one JSON text a frame. Lines of logs are encoded once, for all who follow."""

from typing import Final, cast

import msgspec

from manager.runtime.announcer import FleetLine
from manager.runtime.tail import EventLine, Line, Slab
from shared_types.events import AgentEvent, EventType
from shared_types.hosts import HostState, HostStatus

_encode: Final = msgspec.json.Encoder().encode
_body: Final = msgspec.json.Decoder(AgentEvent).decode


def frame(type: str, payload: object, id: str | None = None) -> str:
    message: dict[str, object] = {"type": type, "payload": payload}
    if id is not None:
        message["id"] = id
    return _encode(message).decode()


def host_frame(host: HostStatus) -> str:
    return frame("host:offline" if host.status is HostState.OFFLINE else "host:online", host)


def fleet_frames(slab: Slab) -> list[str]:
    frames = []
    for line in slab.lines:
        frames.append(line.frame)
        event = cast(FleetLine, line).event
        if event.host is not None:
            frames.append(host_frame(event.host))
    return frames


def log_frames(slab: Slab, text: bool) -> list[str]:
    if not text:
        return [line.frame for line in slab.lines]
    frames = []
    for line in slab.lines:
        frames.append(line.frame)
        if plain := plain_text(line):
            frames.append(plain)
    return frames


def plain_text(line: Line) -> str | None:
    """The plain-text view of an event, for those who only show words.

    `agent:stream` while a message grows, `agent:response` when it is complete, `agent:status` for the rest of what a
    person would want to read.
    """
    stored = cast(EventLine, line).event
    try:
        event = _body(stored.body)
    except (msgspec.MsgspecError, RecursionError):
        return None  # a foreign gateway's event of another shape: it goes out as it came, in the `event` frame
    payload: dict[str, object] = {"taskId": line.task_id, "id": line.id}
    match event.type:
        case EventType.MESSAGE if (event.data or {}).get("delta"):
            return frame("agent:stream", payload | {"content": event.content or ""})
        case EventType.MESSAGE:
            return frame("agent:response", payload | {"content": event.content or ""})
        case EventType.STATUS:
            data = event.data or {}
            return frame("agent:status", payload | {"status": data.get("status"), "content": event.content or ""})
        case EventType.INPUT if (event.data or {}).get("state") == "refused":
            return frame("agent:status", payload | {"status": "input", "content": event.content or ""})
        case EventType.ERROR:
            return frame("agent:status", payload | {"status": "error", "content": event.content or ""})
        case _:
            return None
