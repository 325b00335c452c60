"""Request bodies: bytes to structs, strictly. A number in quotes is not a number, an unknown field is an error.

Litestar's own decoding converts leniently and reports in its own words, so routes read their bodies here.
"""

import re
from functools import lru_cache
from typing import Any, Final, Generic, TypeVar

import msgspec
from litestar import Request

from manager.routes.problems import BadBody, NotJson, hint_for
from shared_types.api import ProblemField

T = TypeVar("T")

_AT: Final = re.compile(r"^(?P<message>.*) - at `(?P<path>.*)`$", re.DOTALL)
_UNKNOWN: Final = re.compile(r"unknown field `([^`]*)`")
_MISSING: Final = re.compile(r"missing required field `([^`]*)`")


class Body(Generic[T]):
    """The body of one route. `is_optional`: no body is the same as `{}`."""

    def __init__(self, type: type[T], *, is_optional: bool = False) -> None:
        self.type = type
        self.is_optional = is_optional
        self._decode = msgspec.json.Decoder(type).decode

    async def read(self, request: Request[Any, Any, Any]) -> T:
        """Raises BadBody, and what Litestar raises for a body that is too large."""
        data = await request.body()
        if not data and self.is_optional:
            data = b"{}"
        refuse_other_types(request.headers.get("content-type"))
        return self.decode(data)

    def decode(self, data: bytes) -> T:
        """Raises BadBody."""
        try:
            return self._decode(data)
        except msgspec.ValidationError as error:
            raise invalid(error) from error
        except RecursionError as error:
            raise BadBody("The body is nested too deeply.", code="MALFORMED_JSON") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadBody(
                f"The body is not JSON: {error}.", code="MALFORMED_JSON", hint="Send one JSON object, UTF-8."
            ) from error


def refuse_other_types(content_type: str | None) -> None:
    """Raises NotJson. Saying nothing is taken for JSON."""
    if content_type is not None and not _is_json(content_type):
        raise NotJson(
            f"The body is {content_type[:100]}; this route takes application/json.", code="UNSUPPORTED_MEDIA_TYPE"
        )


@lru_cache(64)
def _is_json(content_type: str) -> bool:
    essence = content_type.partition(";")[0].strip().lower()
    return essence == "application/json" or (essence.startswith("application/") and essence.endswith("+json"))


def invalid(error: msgspec.ValidationError) -> BadBody:
    """msgspec's sentence as a problem that names the field.

    >>> try: msgspec.json.decode(b'{"a":[1,"x"]}', type=dict[str, list[int]])
    ... except msgspec.ValidationError as e: (invalid(e).detail, invalid(e).fields[0].key)
    ('$.a[...][1]: Expected `int`, got `str`', '$.a[...][1]')
    """
    found = _AT.match(str(error))
    message, path = (found["message"], found["path"]) if found else (str(error), "$")
    code = "INVALID_FIELD"
    if unknown := _UNKNOWN.search(message):
        code, path = "UNKNOWN_FIELD", f"{path}.{unknown[1]}"
    elif missing := _MISSING.search(message):
        code, path = "MISSING_FIELD", f"{path}.{missing[1]}"
    return BadBody(
        f"{path}: {message}", code=code, fields=(ProblemField(key=path, message=message),), hint=hint_for(path)
    )
