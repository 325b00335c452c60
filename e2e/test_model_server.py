"""The scripted model does what a prompt says, in each provider's words, streamed and whole."""

import json

import httpx
import pytest

from e2e.model.script import BadScript, Call, Say, Turn, step_of, steps
from e2e.model_server import ModelServer

TOOLS = [{"name": "x"}]
REQUESTS = {
    "/v1/messages": lambda text: {"tools": TOOLS, "messages": [{"role": "user", "content": text}]},
    "/v1/chat/completions": lambda text: {"tools": TOOLS, "messages": [{"role": "user", "content": text}]},
    "/v1beta/models/m:generateContent": lambda text: {
        "tools": TOOLS,
        "contents": [{"role": "user", "parts": [{"text": text}]}],
    },
}
each_path = pytest.mark.parametrize("path", REQUESTS)


def test_a_tool_ends_a_step_and_the_next_request_gets_the_next() -> None:
    script = "@@think:a@@@@sh:ls@@@@write:f:x:y@@@@text:done@@"
    begun = [Turn("user", script), Turn("model", "", True), Turn("user")]

    assert step_of([Turn("user", script)])[1] == [Say(["a"], is_thought=True), Call("sh", ["ls"])]
    assert step_of(begun)[1] == [Call("write", ["f", "x:y"])]
    assert step_of([*begun, Turn("model", "", True)])[1] == [Say(["done"])]


def test_the_last_message_with_directives_counts() -> None:
    turns = [Turn("user", "@@sh:ls@@"), Turn("model", "", True), Turn("user", "@@text:new@@"), Turn("user", "plain")]

    assert step_of(turns) == ("@@text:new@@", [Say(["new"])])


def test_without_directives_the_answer_is_ok() -> None:
    assert step_of([Turn("user", "hello")])[1] == [Say(["ok"])]


def test_a_typing_error_in_a_script_is_an_error() -> None:
    with pytest.raises(BadScript):
        steps("@@txet:hello@@")


@each_path
async def test_text_arrives_in_the_words_of_each_provider(path: str) -> None:
    async with ModelServer() as model, httpx.AsyncClient(base_url=model.url, trust_env=False) as http:
        answer = await http.post(path, json=REQUESTS[path]("@@text:Good morning@@"))

    assert answer.status_code == 200
    assert "Good morning" in answer.text
    assert [seen.turns for seen in model.requests] == [(Turn("user", "@@text:Good morning@@"),)]
    assert model.saw("Good morning")
    assert not model.saw("Good evening")


@each_path
async def test_failures_are_counted_and_then_forgiven(path: str) -> None:
    body = REQUESTS[path]("@@http:429:2@@@@text:fine@@")
    async with ModelServer() as model, httpx.AsyncClient(base_url=model.url, trust_env=False) as http:
        statuses = [(await http.post(path, json=body)).status_code for _ in range(3)]

    assert statuses == [429, 429, 200]


@each_path
async def test_a_cut_is_a_broken_connection(path: str) -> None:
    async with ModelServer() as model, httpx.AsyncClient(base_url=model.url, trust_env=False) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post(path, json=REQUESTS[path]("@@cut@@"))


async def test_a_stream_is_made_of_pieces_with_a_byte_that_is_no_text_when_asked_for() -> None:
    body = {**REQUESTS["/v1/chat/completions"]("@@badutf8@@"), "stream": True}
    async with ModelServer() as model, httpx.AsyncClient(base_url=model.url, trust_env=False) as http:
        answer = await http.post("/v1/chat/completions", json=body)

    assert b"bad \xff byte" in answer.content
    assert answer.content.endswith(b"data: [DONE]\n\n")


async def test_a_hanging_answer_ends_with_the_server() -> None:
    async with ModelServer() as model, httpx.AsyncClient(base_url=model.url, trust_env=False) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post("/v1/messages", json=REQUESTS["/v1/messages"]("@@hang@@"), timeout=0.2)


async def test_what_it_saw_can_be_asked_from_outside() -> None:
    async with ModelServer() as model, httpx.AsyncClient(base_url=model.url, trust_env=False) as http:
        await http.post("/v1/nothing", json={"a": 1})
        listed = json.loads((await http.get("/requests")).text)

    assert listed == [{"dialect": "unknown", "path": "/v1/nothing", "body": {"a": 1}}]
