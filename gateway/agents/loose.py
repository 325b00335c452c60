"""Reading JSON that anybody may have written: every field may be missing, or of another type.

    parse     bytes or text to a value; None when it is not JSON
    text, fields, items, whole, number    a value as what we expect, or the nearest empty thing
    clean     a value that is safe to pass on: bounded depth, plain numbers, no lone surrogates
    unparse   a value to bytes, on one line; never fails

Invariant: nothing in here raises.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

MAX_DEPTH: Final = 32
MAX_WHOLE: Final = 2**53 - 1  # what every reader of JSON holds exactly

_decode = msgspec.json.Decoder().decode
_NOTHING: Final[Mapping[str, Any]] = {}


def parse(data: str) -> Any:
    """The value, or None. What msgspec is too strict for (lone surrogates, 1e400) Python's own reader takes.

    >>> parse('{"a": [1]}'), parse('{"a":'), parse("1e999")
    ({'a': [1]}, None, inf)
    """
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeEncodeError):
        pass
    except RecursionError:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def text(value: Any) -> str:
    """
    >>> text("a"), text(None), text({"a": 1})
    ('a', '', '')
    """
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def fields(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else _NOTHING


def items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def whole(value: Any) -> int | None:
    """A whole number that travels well, or None.

    >>> whole(3), whole(True), whole(3.0), whole(10**30), whole("3")
    (3, None, 3, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not -MAX_WHOLE <= value <= MAX_WHOLE:
        return None
    return int(value) if value == int(value) else None


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return float(value) if -MAX_WHOLE <= value <= MAX_WHOLE else None
    return value if math.isfinite(value) else None


def clean(value: Any, depth: int = 0) -> Any:
    """The value as JSON that everybody can read: what is nested too deeply is left out, numbers that do not
    travel become text.

    >>> clean({"n": 10**30, "x": float("inf"), "s": chr(0xD800)})
    {'n': '1000000000000000000000000000000', 'x': 'inf', 's': '?'}
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(value)
    if isinstance(value, int):
        return value if -MAX_WHOLE <= value <= MAX_WHOLE else _spelled(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth >= MAX_DEPTH:
        return None
    if isinstance(value, dict):
        return {text(name): clean(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return [clean(item, depth + 1) for item in value]
    return None


def _spelled(value: int) -> str:
    return str(value) if value.bit_length() < 4096 else "a very large number"


def unparse(value: Any) -> bytes:
    """One line of ASCII JSON, without its newline. Numbers are spelled as they came."""
    try:
        return json.dumps(value, separators=(",", ":")).encode()
    except (ValueError, RecursionError):  # circles cannot be parsed; a number of many thousand digits can
        return json.dumps(clean(value), separators=(",", ":")).encode()
