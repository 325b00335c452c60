import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_types import codec, messages
from shared_types.hosts import HostCapabilities
from tests.shared_types.samples import SAID, samples

HEARS = {
    **dict.fromkeys(codec._GATEWAY_TYPES, codec.decode_from_gateway),
    **dict.fromkeys(codec._MANAGER_TYPES, codec.decode_from_manager),
}


def test_the_names_on_the_wire():
    capabilities = HostCapabilities(name="Box", agents=("gemini",), max_concurrent=2, cwd="/srv")

    wire = codec.encode(messages.Register(host_id="h", capabilities=capabilities))

    assert json.loads(wire) == {
        "type": "register",
        "hostId": "h",
        "capabilities": {"name": "Box", "agents": ["gemini"], "maxConcurrent": 2, "cwd": "/srv", "labels": {}},
    }


@given(st.one_of([samples(message) for message in SAID]))
def test_both_ends_hear_what_was_said(said):
    hear = HEARS[said.__struct_config__.tag]

    assert hear(codec.encode(said)) == said
    assert hear(codec.encode(said).decode()) == said


def test_a_newer_peer_may_say_more_than_we_know():
    heard = codec.decode_from_gateway('{"type":"heartbeat","timestamp":1,"mood":{"good":true}}')

    assert heard == messages.Heartbeat(timestamp=1)


@pytest.mark.parametrize("hear", [codec.decode_from_gateway, codec.decode_from_manager])
def test_an_unknown_type_is_told_apart_from_a_broken_message(hear):
    assert hear('{"type":"task:sing","key":"c"}') == messages.Unknown("task:sing")


def test_each_end_knows_only_what_the_other_one_says():
    assert codec.decode_from_gateway('{"type":"ping"}') == messages.Unknown("ping")
    assert codec.decode_from_manager('{"type":"heartbeat","timestamp":1}') == messages.Unknown("heartbeat")


BROKEN = {
    "nothing": b"",
    "not JSON": b"nope",
    "half": b'{"type":"heartbeat","timesta',
    "a list": b"[]",
    "a number": b"7",
    "no type": b"{}",
    "a type that is no text": b'{"type":7}',
    "a known type with a wrong body": b'{"type":"heartbeat","timestamp":"soon"}',
    "a known type without its body": b'{"type":"task:started"}',
    "not UTF-8": b'{"type":"task:started","taskId":"\xff\xfe"}',
    "not UTF-8 in its type": b'{"type":"\xff\xfe"}',
    "two documents": b'{"type":"heartbeat","timestamp":1}{"type":"heartbeat","timestamp":2}',
    "a number beyond all bounds": b'{"type":"heartbeat","timestamp":' + b"9" * 400 + b"}",
    "a number below zero": b'{"type":"heartbeat","timestamp":-1}',
    "very deep": b'{"type":"heartbeat","timestamp":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a very deep event": b'{"type":"task:event","taskId":"t","event":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a very deep message of an unknown type": b'{"type":"x","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@pytest.mark.parametrize("wire", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_message_is_malformed(wire):
    with pytest.raises(codec.Malformed):
        codec.decode_from_gateway(wire)


@pytest.mark.parametrize("hear", [codec.decode_from_gateway, codec.decode_from_manager])
@given(wire=st.binary(max_size=60) | st.text(max_size=60))
def test_noise_is_malformed_or_unknown_and_nothing_else(hear, wire):
    try:
        heard = hear(wire)
    except codec.Malformed:
        return
    assert isinstance(heard, messages.Unknown | messages.Message)
