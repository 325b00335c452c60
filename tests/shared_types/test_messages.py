import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_types import messages
from tests.shared_types.samples import SAID, samples


def test_no_two_messages_share_a_type():
    tags = [message.__struct_config__.tag for message in SAID]

    assert len(tags) == len(set(tags))


@pytest.mark.parametrize("message", SAID, ids=lambda message: message.__name__)
@settings(max_examples=30)
@given(data=st.data())
def test_every_message_comes_back_as_it_was_said(message, data):
    said = data.draw(samples(message))

    wire = msgspec.json.encode(said)

    assert msgspec.json.decode(wire, type=message) == said


BASE_DIALECT = [
    (
        {
            "type": "register",
            "hostId": "h",
            "capabilities": {"name": "n", "agents": ["gemini"], "maxConcurrent": 1, "cwd": "/"},
        },
        messages.Register,
    ),
    ({"type": "heartbeat", "timestamp": 1}, messages.Heartbeat),
    ({"type": "task:started", "taskId": "t", "sessionId": "s"}, messages.TaskStarted),
    ({"type": "task:event", "taskId": "t", "event": {"type": "log", "timestamp": 1}}, messages.TaskEvent),
    ({"type": "task:completed", "taskId": "t", "result": {"success": True}}, messages.TaskCompleted),
    ({"type": "task:failed", "taskId": "t", "error": "no"}, messages.TaskFailed),
    ({"type": "task:failed", "taskId": "t", "error": "no", "details": {"any": ["thing"]}}, messages.TaskFailed),
    ({"type": "registered", "ok": True}, messages.Registered),
    ({"type": "registered", "ok": False, "error": "why"}, messages.Registered),
    ({"type": "ping"}, messages.Ping),
    (
        {"type": "task:execute", "task": {"taskId": "t", "prompt": "p", "cwd": "/", "agentType": "gemini"}},
        messages.TaskExecute,
    ),
    ({"type": "task:abort", "taskId": "t"}, messages.TaskAbort),
    ({"type": "task:input", "taskId": "t", "content": "c"}, messages.TaskInput),
    (
        {"type": "config:update", "config": {"heartbeatInterval": 1, "taskTimeout": 2, "maxRetries": 3}},
        messages.ConfigUpdate,
    ),
]


@pytest.mark.parametrize(
    ("wire", "message"), BASE_DIALECT, ids=lambda part: part.get("type") if isinstance(part, dict) else ""
)
def test_the_base_dialect_is_enough_for_every_message_that_has_one(wire, message):
    heard = msgspec.json.decode(json.dumps(wire), type=message)

    assert isinstance(heard, message)


@pytest.mark.parametrize(
    ("wire", "message"), BASE_DIALECT, ids=lambda part: part.get("type") if isinstance(part, dict) else ""
)
def test_what_the_base_dialect_does_not_know_is_left_out_when_it_is_not_set(wire, message):
    said = json.loads(msgspec.json.encode(msgspec.json.decode(json.dumps(wire), type=message)))

    unknown_to_base = {
        "attempt",
        "seq",
        "uid",
        "from",
        "to",
        "protocol",
        "resume",
        "running",
        "code",
        "reason",
        "pid",
        "inputId",
    }
    assert not unknown_to_base & set(said)


def test_events_travel_as_they_came():
    body = b'{ "type":"odd",\t"timestamp":1, "colour":"red"}'
    said = messages.TaskEvents(task_id="t", attempt=1, first=1, last=1, events=(msgspec.Raw(body),))

    assert body in msgspec.json.encode(said)
