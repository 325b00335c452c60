import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_types import api
from tests.shared_types.samples import samples

WORDS = [
    word
    for word in vars(api).values()
    if isinstance(word, type) and issubclass(word, msgspec.Struct) and word.__module__ == api.__name__
]
REQUESTS = [word for word in WORDS if issubclass(word, api.Request)]
FROM_CLIENT: msgspec.json.Decoder[api.FromClient] = msgspec.json.Decoder(api.FromClient)


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.__name__)
@settings(max_examples=15)
@given(data=st.data())
def test_every_word_comes_back_as_it_was_said(word, data):
    said = data.draw(samples(word))

    assert msgspec.json.decode(msgspec.json.encode(said), type=word) == said


@pytest.mark.parametrize("request_type", REQUESTS, ids=lambda word: word.__name__)
def test_a_typo_in_a_request_is_not_silence(request_type):
    assert request_type.__struct_config__.forbid_unknown_fields


def test_the_sync_message_is_spelled_as_frontends_spell_it():
    heard = FROM_CLIENT.decode('{"type":"sync","id":"1","payload":{"taskId":"task_1","lastAckID":7}}')

    assert heard == api.Sync(id="1", payload=api.SyncPayload(task_id="task_1", last_ack_id=7))


def test_the_ack_message_is_spelled_as_frontends_spell_it():
    heard = FROM_CLIENT.decode('{"type":"ack","payload":{"msgID":7,"sessionId":"s"}}')

    assert heard == api.Ack(payload=api.AckPayload(msg_id=7, session_id="s"))
