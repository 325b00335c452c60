"""Samples of structs, made from their annotations alone: what no one thought of is covered too."""

from typing import Any, get_args

import msgspec
from hypothesis import strategies as st
from msgspec import inspect as shape

from shared_types import messages

SAID = (*get_args(messages.FromGateway), *get_args(messages.FromManager))

# Text that JSON and lines of text find difficult, beside the ordinary.
TEXTS = st.one_of(
    st.sampled_from(["", "plain", 'q"uote', "\\", "\u2028", "\x1b[31m", "é", "😀", "\x00"]), st.text(max_size=8)
)
INTS = st.integers(min_value=-(2**53), max_value=2**53)
RAW_EVENTS = st.builds(
    lambda kind, text, at: msgspec.Raw(
        msgspec.json.encode({"type": kind, "timestamp": at, "content": text, "id": 1, "taskId": "task_1"})
    ),
    st.sampled_from(["log", "message", "of another make"]),
    TEXTS,
    st.integers(0, 2**52),
)
JSON = st.recursive(
    st.none() | st.booleans() | INTS | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)


def values(kind: shape.Type) -> st.SearchStrategy[Any]:
    """Any value of a type, as msgspec understands the type."""
    match kind:
        case shape.Metadata(type=inner):
            return values(inner)
        case shape.NoneType():
            return st.none()
        case shape.BoolType():
            return st.booleans()
        case shape.IntType(ge=low, le=high):
            return st.integers(-(2**53) if low is None else low, 2**53 if high is None else high)
        case shape.FloatType():
            return st.floats(allow_nan=False, allow_infinity=False)
        case shape.StrType(pattern=str() as pattern):
            return st.from_regex(pattern.replace("$", r"\Z"), fullmatch=True).filter(str.isascii)
        case shape.StrType(min_length=low, max_length=high):
            return TEXTS.filter(lambda text: len(text) >= (low or 0) and (high is None or len(text) <= high))
        case shape.EnumType(cls=cls):
            return st.sampled_from(list(cls))
        case shape.RawType():
            return RAW_EVENTS
        case shape.AnyType():
            return JSON
        case shape.VarTupleType(item_type=item):
            return st.lists(values(item), max_size=3).map(tuple)
        case shape.DictType(key_type=key, value_type=value):
            return st.dictionaries(values(key), values(value), max_size=3)
        case shape.UnionType(types=types):
            return st.one_of([values(one) for one in types])
        case shape.StructType(cls=cls):
            return samples(cls)
        case _:
            raise NotImplementedError(f"no samples of {kind}: say here how to make them")


def samples(cls: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Any instance of a struct."""
    struct = shape.type_info(cls)
    assert isinstance(struct, shape.StructType)
    return st.builds(cls, **{field.name: values(field.type) for field in struct.fields})
