"""docs/agents.md against the code and against what the real agents said when they were recorded."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from gateway.agents import claude, command
from gateway.agents.base import Stream
from shared_types.events import EventType
from tests.gateway.agents.recorded import Transcript, all_transcripts

PAGE: Final = (Path(__file__).parents[3] / "docs" / "agents.md").read_text()
# Lines that say a whole message or thought; another line may only end one that was open.
WHOLE: Final = {"assistant text", "assistant thinking", "text", "reasoning"}
TYPES: Final = frozenset(EventType)


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [re.split(r" ?(?<!\\)\| ?", line.strip())[1:-1] for line in text.splitlines() if line.startswith("|")]
    return [line for line in lines[2:] if line]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def table_of(driver: str) -> dict[str, set[str]]:
    """native event -> what may become of it."""
    for names, text in re.findall(r"<!-- events: (.*?) -->(.*?)(?=<!--|^#)", PAGE, re.DOTALL | re.MULTILINE):
        if driver in names.split():
            return {name: set(quoted(ours)) & TYPES for cell, ours in rows(text) for name in quoted(cell)}
    raise AssertionError(f"no table for {driver}")


def native(said: Mapping[str, Any], asked: Mapping[str, str]) -> str:
    """The name of a line in the tables. `asked`: our requests, by id."""
    match said:
        case {"method": "session/update", "params": {"update": {"sessionUpdate": kind}}} | {"method": kind}:
            return str(kind)
        case {"jsonrpc": _, "id": key}:
            return f"answer to {asked[key]}"
        case {"type": "stream_event", "event": {"delta": {"type": kind}}}:
            return f"stream_event {kind}"
        case {"type": "assistant" | "user" as who, "message": {"content": [{"type": kind}, *_]}}:
            return f"{who} {kind}"
        case {"type": "message", "role": kind} | {"type": "control_request", "request": {"subtype": kind}}:
            return f"{said['type']} {kind}"
        case {"type": "system", "subtype": kind}:
            return f"system {kind}"
    return str(said["type"])


def made_of(transcript: Transcript) -> dict[str, set[str]]:
    """What became of each line of stdout."""
    driver, asked, made = transcript.new_driver(), {}, defaultdict(set)
    for record in transcript.records:
        events = driver.heard(record)
        if record.stream is Stream.IN:
            said = json.loads(record.data.partition(b"\0")[2])
            asked[said.get("id")] = said.get("method")
        elif record.stream is Stream.OUT:
            name = native(json.loads(record.data), asked)
            made[name] |= {
                str(event.type) for event in events if name in WHOLE or (event.data or {}).get("delta", True)
            }
    return made


@cache
def recorded() -> dict[str, dict[str, set[str]]]:
    """driver -> native event -> what became of it in all recordings."""
    whole: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for transcript in all_transcripts():
        for name, kinds in made_of(transcript).items():
            whole[transcript.driver][name] |= kinds
    return whole


DRIVERS: Final = sorted({transcript.driver for transcript in all_transcripts()})


@pytest.mark.parametrize("driver", DRIVERS)
def test_everything_that_an_agent_said_has_its_row_and_became_what_the_row_says(driver: str) -> None:
    told = table_of(driver)

    assert {name: kinds for name, kinds in recorded()[driver].items() if not kinds <= told.get(name, set())} == {}
    assert recorded()[driver].keys() <= told.keys()


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_a_row_promises_was_seen_of_one_of_those_it_stands_for(driver: str) -> None:
    alike = [name for name in DRIVERS if table_of(name) == table_of(driver)]
    seen = {name: set().union(*(recorded()[one].get(name, set()) for one in alike)) for name in table_of(driver)}
    was_said = {name for one in alike for name in recorded()[one]}

    missing = {name: kinds - seen[name] for name, kinds in table_of(driver).items() if name in was_said}
    rare = {"log", "error"}  # of an agent of the agent, of a request that fails: unit tests say those
    assert {name: kinds for name, kinds in missing.items() if kinds - rare} == {}


def test_every_type_of_line_that_is_known_of_claude_has_a_row() -> None:
    assert claude._HEARD.keys() <= {name.split()[0] for name in table_of("claude-code")}


def section(title: str, until: str) -> str:
    return PAGE.partition(title)[2].partition(until)[0]


def test_the_keys_of_a_declaration_are_those_that_there_are_with_their_defaults() -> None:
    told = {quoted(key)[0]: default for key, default, _ in rows(section("## An agent of your own", "It is told"))}
    known = {field.name: field for field in msgspec.structs.fields(command.CommandAgent) if field.name != "name"}

    assert told.keys() == known.keys()
    for name, field in known.items():
        if field.required:
            assert told[name] == "needed"
        else:
            assert json.loads(told[name].strip("`")) == json.loads(msgspec.json.encode(field.default))


def test_the_lines_of_a_program_are_those_that_are_taken_with_what_stands_for_missing_fields() -> None:
    told = rows(section('With `output = "jsonl"`', "For example"))

    assert {quoted(kind)[0] for kind, _, _ in told} == {str(kind) for kind in command.SAYABLE}
    for kind, content, data in told:
        name = quoted(kind)[0]
        needed = {field: json.loads(value) for field, value in re.findall(r"`(\w+)` \(([^);]*)", data)}
        assert needed == dict(command._NEEDED.get(name, {})), name
        assert set(quoted(data)) - needed.keys() <= command._OPTIONAL.keys(), name
        assert (content == "-") == (name in command._WORDLESS), name
