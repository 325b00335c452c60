"""Bytes to messages and back. The only place that knows the wire is JSON.

A known type with a wrong body is `Malformed`; a type we never heard of is `Unknown` and harmless.
Bytes are taken for UTF-8, as a text frame is by the time it arrives here: fields we skip are not looked at.
"""

from typing import Final, get_args

import msgspec

from shared_types.messages import FromGateway, FromManager, Unknown

_encoder = msgspec.json.Encoder()
encode: Final = _encoder.encode
_from_gateway: msgspec.json.Decoder[FromGateway] = msgspec.json.Decoder(FromGateway)
_from_manager: msgspec.json.Decoder[FromManager] = msgspec.json.Decoder(FromManager)


class _Head(msgspec.Struct):
    type: str


_head = msgspec.json.Decoder(_Head)
_GATEWAY_TYPES: Final = frozenset(cls.__struct_config__.tag for cls in get_args(FromGateway))
_MANAGER_TYPES: Final = frozenset(cls.__struct_config__.tag for cls in get_args(FromManager))


class Malformed(ValueError):
    """The peer sent something that is not a message of ours."""


def _judge(data: bytes | str, known: frozenset[object], error: msgspec.MsgspecError) -> Unknown:
    try:
        kind = _head.decode(data).type
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Malformed(str(error)) from error
    if kind in known:
        raise Malformed(f"{kind}: {error}") from error
    return Unknown(kind)


def decode_from_gateway(data: bytes | str) -> FromGateway | Unknown:
    """Raises Malformed."""
    try:
        return _from_gateway.decode(data)
    except msgspec.MsgspecError as error:
        return _judge(data, _GATEWAY_TYPES, error)
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8: {error}") from error
    except RecursionError as error:
        raise Malformed("nested too deeply") from error


def decode_from_manager(data: bytes | str) -> FromManager | Unknown:
    """Raises Malformed."""
    try:
        return _from_manager.decode(data)
    except msgspec.MsgspecError as error:
        return _judge(data, _MANAGER_TYPES, error)
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8: {error}") from error
    except RecursionError as error:
        raise Malformed("nested too deeply") from error
