"""A crew for tests with the real agents: one manager, one gateway, a model that does what prompts say.

`Crew` gives each test a directory of its own, submits, waits and returns a `Story`: the task as it ended and all
its events. The model server keeps every request, so a test can ask what the model saw.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from e2e.harness import (
    COOKIE,
    Api,
    Json,
    Manager,
    agent_executable,
    start_gateway,
    start_manager,
    until,
)
from e2e.model_server import ModelServer, home_files

AGENT_PROGRAMS = {"claude-code": "claude", "opencode": "opencode", "gemini": "gemini"}
each_agent = pytest.mark.parametrize("agent", AGENT_PROGRAMS)


@dataclass
class Story:
    """A task as it ended, with all its events."""

    task: Json
    events: list[Json]
    cwd: Path

    def __str__(self) -> str:
        told = "\n".join(json.dumps(event)[:400] for event in self.events[-25:])
        return f"{json.dumps(self.task)[:1500]}\n{told}"

    @property
    def ids(self) -> list[int]:
        return [event["id"] for event in self.events]

    def of(self, kind: str) -> list[Json]:
        return [event for event in self.events if event["type"] == kind]

    def finals(self, kind: str) -> list[str]:
        """The whole texts, without the deltas they were made of."""
        return [event["content"] for event in self.of(kind) if not event["data"]["delta"]]

    def text(self) -> str:
        """All that was answered: whole texts, or, where one was cut, the deltas it was made of."""
        if any(event["data"].get("truncated") for event in self.of("message")):
            return "".join(event["content"] for event in self.of("message") if event["data"]["delta"])
        return "".join(self.finals("message"))


@dataclass
class Crew:
    api: Api
    model: ModelServer
    root: Path
    _numbers: Any = field(default_factory=lambda: count(1))

    def new_directory(self) -> Path:
        directory = self.root / f"repo{next(self._numbers)}"
        directory.mkdir()
        return directory

    async def submit(
        self,
        prompt: str,
        agent: str,
        *,
        mode: str = "default",
        cwd: Path | None = None,
        timeout_ms: int = 120_000,
        **more: Any,
    ) -> Json:
        body: Json = {"prompt": prompt, "agentType": agent, "permissionMode": mode, "timeout": timeout_ms, **more}
        return await self.api.submit(cwd=str(cwd or self.new_directory()), **body)

    async def tell(self, prompt: str, agent: str, *, timeout_s: float = 150, **more: Any) -> Story:
        """Submit and wait for the end."""
        return await self.end_of(await self.submit(prompt, agent, **more), timeout_s=timeout_s)

    async def end_of(self, task: Json, *, timeout_s: float = 150) -> Story:
        ended = await self.api.wait_final(task["id"], within_s=timeout_s)
        return Story(ended, await self.api.events(task["id"]), Path(task["cwd"]))

    async def until(self, task: Json, kind: str) -> Json:
        """The first event of this type."""
        return await self.api.wait_event(task["id"], type=kind)

    async def abort(self, task: Json) -> Story:
        await self.api.abort(task["id"])
        return await self.end_of(task, timeout_s=60)

    async def say(self, task: Json, text: str) -> None:
        await self.api.input(task["id"], text)

    def seen_by_model(self, text: str) -> list[Json]:
        """Bodies of requests in which a user's message holds exactly this text."""
        return [request.body for request in self.model.saw(text)]

    def processes_in(self, directory: Path) -> dict[int, str]:
        """Processes of attempts (they bear our cookie) that work in this directory, by pid."""
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                ours = COOKIE in (entry / "environ").read_bytes()
                where = (entry / "cwd").readlink()
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # it is gone by now
            if ours and words and where == directory:
                found[int(entry.name)] = words
        return found

    async def until_process(self, task: Json, word: str) -> None:
        """The agent's tool really runs."""
        directory = Path(task["cwd"])
        await until(
            lambda: any(word in words for words in self.processes_in(directory).values()), 60, f"{word} runs", 0.05
        )


def agents_environment(model: ModelServer) -> dict[str, str]:
    """What a host's owner sets so that all three agents talk to one model server; as root, bypass is allowed too."""
    owned = {name: value for agent in AGENT_PROGRAMS for name, value in model.env(agent).items()}
    return {**owned, "IS_SANDBOX": "1"}


def furnish(home: Path, programs: Path) -> None:
    """The agents' programs under the names that a gateway looks for, and what their owner has in his home."""
    programs.mkdir(parents=True)
    for agent, name in AGENT_PROGRAMS.items():
        (programs / name).symlink_to(agent_executable(agent))
        for path, content in home_files(agent).items():
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).write_text(content)


@asynccontextmanager
async def a_crew(directory: Path, slots: int = 4, **settings: str) -> AsyncIterator[Crew]:
    """Everything started, the gateway with these settings; at the end everything stopped and nothing left behind."""
    programs, work = directory / "bin", directory / "work"
    furnish(directory / "h1", programs)
    work.mkdir()
    async with ModelServer() as model, start_manager(directory / "manager") as manager:
        owned = agents_environment(model)
        env = {
            **owned,
            "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
            "GATEWAY_AGENT_ENV": ",".join(owned),
            "GATEWAY_ALLOWED_PROJECT_ROOTS": str(work),
            **settings,
        }
        async with start_gateway(manager, directory / "h1", slots=slots, cwd=work, env=env):
            await _agents_found(manager)
            yield Crew(manager.api, model, work)


async def _agents_found(manager: Manager) -> None:
    host = await manager.api.wait_host("h1")
    missing = set(AGENT_PROGRAMS) - set(host["capabilities"]["agents"])
    assert not missing, f"the gateway did not find {missing}: {json.dumps(host)}"
