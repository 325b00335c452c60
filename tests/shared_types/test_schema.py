import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_types import schema
from tests.shared_types.samples import samples

DOCUMENTS = {
    "link": schema.link_schema(),
    "api": schema.api_schema(),
    "asyncapi": schema.asyncapi(),
}
WORDS = [(name, word) for name, words in (("link", schema.link_words()), ("api", schema.api_words())) for word in words]


def references(node: Any) -> Iterator[str]:
    match node:
        case dict():
            for name, value in node.items():
                if name == "$ref":
                    yield value
                else:
                    yield from references(value)
        case list():
            for value in node:
                yield from references(value)


def resolved(document: Any, reference: str) -> Any:
    for part in reference.removeprefix("#/").split("/"):
        document = document[part.replace("~1", "/")]
    return document


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_reference_leads_somewhere(name):
    document = DOCUMENTS[name]
    found = set(references(document))

    assert found
    for reference in found:
        assert resolved(document, reference)


@pytest.mark.parametrize("name", ["link", "api"])
def test_the_documents_are_json_schema(name):
    jsonschema.Draft202012Validator.check_schema(DOCUMENTS[name])


@pytest.mark.parametrize(("document", "word"), WORDS, ids=lambda part: getattr(part, "__name__", part))
@settings(max_examples=10)
@given(data=st.data())
def test_what_we_say_is_what_the_schema_says(document, word, data):
    said = json.loads(msgspec.json.encode(data.draw(samples(word))))

    jsonschema.Draft202012Validator({**DOCUMENTS[document], "$ref": f"#/$defs/{word.__name__}"}).validate(said)


@pytest.mark.parametrize("union", schema.UNIONS)
def test_a_message_of_an_unknown_type_is_in_no_union(union):
    document = DOCUMENTS["api" if union.endswith("Client") else "link"]

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator({**document, "$ref": f"#/$defs/{union}"}).validate({"type": "task:sing"})


def test_an_event_in_a_message_is_described_as_an_event():
    defs = DOCUMENTS["link"]["$defs"]

    assert defs["TaskEvent"]["properties"]["event"] == {"$ref": "#/$defs/AgentEvent"}
    assert defs["TaskEvents"]["properties"]["events"]["items"] == {"$ref": "#/$defs/AgentEvent"}
    assert defs["TaskCompleted"]["properties"]["events"]["items"] == {"$ref": "#/$defs/AgentEvent"}


def test_each_operation_speaks_of_messages_of_its_own_channel():
    document = DOCUMENTS["asyncapi"]

    for operation in document["operations"].values():
        channel = operation["channel"]["$ref"]
        assert operation["messages"]
        assert all(message["$ref"].startswith(f"{channel}/messages/") for message in operation["messages"])


def test_every_message_of_a_channel_is_in_an_operation():
    document = DOCUMENTS["asyncapi"]
    told = {message["$ref"] for operation in document["operations"].values() for message in operation["messages"]}

    for name, channel in document["channels"].items():
        assert {f"#/channels/{name}/messages/{message}" for message in channel["messages"]} <= told


@pytest.mark.parametrize(
    "line",
    [
        'export type TaskState = "aborted" | "assigned" | "completed"',
        "export type FromClient = Sync | Ack | Subscribe",
        '  type: "task:event";',
        "  event: AgentEvent;",  # always there
        "  attempt?: number | null;",  # of the full dialect only
        "  metadata: Record<string, unknown>;",  # an answer always holds it
        "  prompt: string;\n  agentType: string;\n  cwd?: string | null;",  # a request need not
    ],
)
def test_typescript_says_what_is_always_there_and_what_is_not(line):
    assert line in schema.typescript()


def test_a_schema_that_typescript_cannot_say_is_not_guessed():
    with pytest.raises(NotImplementedError):
        schema._type({"type": "string", "not": {}, "prefixItems": []} | {"type": "tuple"})
