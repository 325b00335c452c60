"""An agent in a test's hand: says lines to a driver, and journals what the driver writes."""

import json
from typing import Any

from gateway.agents.base import Driver, Record, RunSpec, Stream
from shared_types.events import AgentEvent
from shared_types.tasks import PermissionMode
from tests.gateway.agents import shapes
from tests.gateway.agents.recorded import CWD, SESSION, START_MS, kind_of


def spec(mode: PermissionMode = PermissionMode.DEFAULT, **more: Any) -> RunSpec:
    return RunSpec("task_1", "the prompt", CWD, "/bin/agent", more.pop("model", "model-1"), mode, SESSION, **more)


class Talk:
    """A driver and the agent it believes to speak with."""

    def __init__(self, agent: str, mode: PermissionMode = PermissionMode.DEFAULT, **more: Any) -> None:
        self.driver: Driver = kind_of(agent).driver(spec(mode, **more))
        self.written: dict[str, Any] = {}
        self._seq = 0

    def hear(self, stream: Stream, data: bytes) -> list[AgentEvent]:
        self._seq += 1
        events = self.driver.heard(Record(self._seq, START_MS + self._seq, stream, data))
        for event in events:
            shapes.check(event)
        return events

    def write(self) -> list[Any]:
        """Journal everything that is wanted now; what it was."""
        made = []
        for write in self.driver.to_write():
            said = json.loads(write.data)
            self.written[write.key] = said
            made.append(said)
            self.hear(Stream.IN, write.key.encode() + b"\0" + write.data)
        return made

    def say(self, *said: Any) -> list[AgentEvent]:
        """The agent prints lines of JSON."""
        return [event for line in said for event in self.hear(Stream.OUT, json.dumps(line).encode())]

    def complain(self, line: str) -> list[AgentEvent]:
        return self.hear(Stream.ERR, line.encode())

    def end(self, code: int = 0) -> list[AgentEvent]:
        return self.hear(Stream.EXIT, json.dumps({"code": code}).encode())


# --- ACP ---------------------------------------------------------------------------------------------


def answer(key: str, **said: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": key, **said}


def update(**said: Any) -> dict[str, Any]:
    return {"method": "session/update", "params": {"sessionId": "s1", "update": said}}


def chunk(words: str, kind: str = "agent_message_chunk", **more: Any) -> dict[str, Any]:
    return update(sessionUpdate=kind, content={"type": "text", "text": words}, **more)


def prompted(agent: str, mode: PermissionMode = PermissionMode.DEFAULT, **more: Any) -> Talk:
    """A session whose prompt was written."""
    talk = Talk(agent, mode, **more)
    while "prompt" not in talk.written:
        for said in talk.write():
            if said["id"] != "prompt":
                talk.say(answer(said["id"], result={"protocolVersion": 1, "sessionId": "s1"}))
    return talk
