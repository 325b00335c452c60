"""What each type of event looks like, as shared_types/events.py promises it: for tests of all drivers."""

from typing import Any, Final

from shared_types.codec import encode
from shared_types.events import AgentEvent

_NUMBER: Final = (int, float)

# type -> (whether it has content, fields it must have, fields it may have)
SHAPES: Final[dict[str, tuple[bool, dict[str, Any], dict[str, Any]]]] = {
    "log": (True, {"level": str, "source": str}, {}),
    "thinking": (True, {"delta": bool}, {}),
    "message": (True, {"delta": bool, "role": str}, {}),
    "tool_call": (False, {"id": str, "name": str, "kind": str, "title": str, "input": object}, {}),
    "tool_result": (True, {"id": str, "ok": bool}, {"exitCode": int}),
    "file_change": (False, {"path": str, "op": str}, {"diff": str}),
    "approval": (
        True,
        {"id": str, "tool": str, "input": object, "decision": str, "mode": str, "reason": str},
        {},
    ),
    "input": (True, {"inputId": str, "state": str}, {"code": str}),
    "usage": (
        False,
        {"inputTokens": int, "outputTokens": int},
        {"cachedTokens": int, "costUsd": _NUMBER, "model": str},
    ),
    "diff": (True, {}, {}),
    "question": (True, {"id": str, "choices": list}, {}),
    "error": (True, {"code": str, "retryable": bool, "fatal": bool}, {}),
}
LEVELS: Final = {"debug", "info", "warning", "error"}
KINDS: Final = {"read", "edit", "execute", "search", "fetch", "think", "other"}


def check(event: AgentEvent, *, more: bool = False) -> None:
    """Fails when an event is not one that readers know, or cannot travel. `more`: it may have fields of its own."""
    has_content, needed, optional = SHAPES[event.type]
    data = event.data or {}

    assert (event.content is not None) == has_content, event
    assert needed.keys() <= data.keys(), event
    assert more or data.keys() <= needed.keys() | optional.keys(), event
    for name, value in data.items():
        if name not in needed and name not in optional:
            continue
        wanted = needed.get(name) or optional[name]
        assert isinstance(value, wanted), (name, event)
        assert wanted is not int or not isinstance(value, bool), (name, event)
    assert data.get("level", "info") in LEVELS, event
    assert data.get("decision", "deny") in {"allow", "deny"}, event
    if event.type == "tool_call":
        assert data["kind"] in KINDS, event
        assert "\n" not in data["title"], event
    if event.type == "file_change":
        assert data["op"] in {"create", "update", "delete"}, event
    assert b"\n" not in encode(event)
