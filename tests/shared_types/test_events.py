import json

import msgspec
from hypothesis import given

from shared_types.api import EventRecord
from shared_types.events import AgentEvent, StoredEvent
from tests.shared_types.samples import samples


@given(samples(AgentEvent))
def test_a_flat_event_is_the_event_beside_its_public_name(event):
    stored = StoredEvent(id=7, task_id="task_1", attempt=2, body=msgspec.Raw(msgspec.json.encode(event)))

    assert json.loads(stored.flat()) == {
        **json.loads(msgspec.json.encode(event)),
        "id": 7,
        "taskId": "task_1",
        "attempt": 2,
    }


@given(samples(AgentEvent))
def test_a_flat_event_is_an_event_record_on_one_line(event):
    stored = StoredEvent(id=7, task_id="task_1", attempt=2, body=msgspec.Raw(msgspec.json.encode(event)))

    record = msgspec.json.decode(stored.flat(), type=EventRecord)

    assert (record.id, record.task_id, record.attempt) == (7, "task_1", 2)
    assert (record.type, record.timestamp, record.content) == (event.type, event.timestamp, event.content)
    assert b"\n" not in stored.flat()


def test_a_foreign_event_cannot_pretend_to_another_name():
    body = msgspec.Raw(b'{"type":"log","timestamp":1,"id":99,"taskId":"another","attempt":9}')

    record = json.loads(StoredEvent(id=1, task_id="mine", attempt=1, body=body).flat())

    assert (record["id"], record["taskId"], record["attempt"]) == (1, "mine", 1)
