"""The id that follows a task through every log."""

import re
from typing import Any, Final, cast

from litestar.types import Scope

_TRACEPARENT: Final = re.compile(rb"^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def trace_id(scope: Scope) -> str:
    """From `traceparent` if there is one (https://www.w3.org/TR/trace-context/), else the request's own."""
    for name, value in scope["headers"]:
        if name == b"traceparent" and (found := _TRACEPARENT.match(value)):
            return found[1].decode()
    return str(cast(dict[str, Any], scope)["request_id"])
