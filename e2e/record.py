"""Transcripts of the real agent CLIs, for the drivers' tests.

    ./dev record [driver[/scenario] ...]     run the CLIs again
    ./dev record --refold                    only say again what the drivers make of the transcripts that are there

Each scenario is one run of a CLI through its driver (rehearsal.py) against the scripted model. What depends on the
machine or the moment is replaced (paths, ports, ids, times), long lists that no driver reads are cut, and the rest
is kept as it came: tests/gateway/agents/recorded.py says where and how.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import anyio

from e2e.harness import agent_executable, agents_directory
from e2e.model_server import ModelServer
from e2e.rehearsal import Rehearsal, rehearse
from gateway.agents.base import Driver, Record, Stream
from shared_types.events import AgentEvent
from shared_types.tasks import PermissionMode
from tests.gateway.agents.recorded import CWD, ROOT, SESSION, Transcript, all_transcripts, kind_of, numbered, save

AT_ONCE: Final = 2
WITHIN_S: Final = 300
DEFAULT, EDITS, PLAN, BYPASS, DENY = (
    PermissionMode.DEFAULT,
    PermissionMode.ACCEPT_EDITS,
    PermissionMode.PLAN,
    PermissionMode.BYPASS,
    PermissionMode.DENY,
)


@dataclass(frozen=True)
class Scenario:
    """A prompt, and what is done at the first event of a type: `say` a text, or cancel."""

    name: str
    prompt: str
    mode: PermissionMode = DEFAULT
    at: str = ""
    say: str = ""

    def watcher(self) -> Callable[[Driver, AgentEvent], None]:
        waiting = [self.at] if self.at else []

        def watch(driver: Driver, event: AgentEvent) -> None:
            if event.type in waiting:
                waiting.clear()
                if self.say:
                    assert driver.say("input_1", self.say) is None
                else:
                    driver.cancel()

        return watch


ASKING: Final = "@@write:asked.txt:hello@@@@sh:touch asked-too.txt@@@@text:That is all.@@"
SIMPLE: Final = (
    Scenario("text", "@@text:Good morning, fleet. This sentence is longer than one piece of a stream.@@"),
    Scenario("thinking", "@@think:let me see@@@@text:forty-two@@"),
    Scenario("write", "@@write:note.txt:one\ntwo\n@@@@edit:note.txt:two:three@@@@text:done@@", EDITS),
    Scenario("command", "@@sh:echo out; echo err >&2; exit 3@@@@text:It failed.@@", BYPASS),
    Scenario("asked-deny", ASKING, DENY),
    Scenario("asked-bypass", ASKING, BYPASS),
    Scenario("model-401", "@@http:401@@"),
    Scenario("odd-text", "@@ansi@@"),
    Scenario("not-utf8", "@@badutf8@@"),
    Scenario("big", "@@big:20@@"),
)
CONVERSATION: Final = (
    *SIMPLE,
    Scenario("parallel", "@@sh2:echo one||echo two@@@@text:both@@", BYPASS),
    Scenario("asked-default", ASKING, DEFAULT),
    Scenario("asked-edits", ASKING, EDITS),
    Scenario("asked-plan", ASKING, PLAN),
    Scenario("model-500", "@@http:500@@"),
    Scenario("model-429", "@@http:429@@"),
    Scenario("model-500-once", "@@http:500:1@@@@text:second time lucky@@"),
    Scenario("model-cut-once", "@@cut:1@@@@text:whole at last@@"),
    Scenario("abort-text", "@@slow:200:50@@", at="message"),
    Scenario("abort-tool", "@@sh:tail -f /etc/hostname@@", BYPASS, at="tool_call"),
    Scenario("follow-up", "@@slow:10:100@@", at="message", say="@@text:and this too@@"),
    Scenario(
        "follow-up-in-tool",
        *("@@sh:timeout 2 tail -f /etc/hostname@@@@text:first@@", BYPASS),
        at="tool_call",
        say="@@text:and this too@@",
    ),
)
SCENARIOS: Final = {
    **dict.fromkeys(("claude-code", "opencode", "gemini"), CONVERSATION),
    **dict.fromkeys(("claude-code-oneshot", "opencode-oneshot", "gemini-oneshot"), SIMPLE),
}

# --- cleaning ---------------------------------------------------------------------------------------

_UUID: Final = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_NAMES: Final = re.compile(r"\b(ses|msg|prt|per|evt)_[0-9a-zA-Z]{20,}\b")
_RUNS: Final = re.compile(r"\brun=[0-9a-f]{8}\b")
_TIMES: Final = re.compile(r"\b20\d\d-\d\d-\d\dT\d\d[:-]\d\d[:-]\d\d[.-]\d+Z?")
_PORTS: Final = re.compile(r"127\.0\.0\.1:\d+")
_SOCKETS: Final = re.compile(r"/\d+\.sock\b")
_FRAMES: Final = re.compile(r"(chunk|gemini|core)-[A-Z0-9]{8}\.js|\.js:\d+:\d+")

# Numbers that are never the same twice.
_MOMENTS: Final = re.compile(r"(_ms|Ms|_at|timestamp|time|start|end|created|updated|hash|snapshot)$")
# Lists that no driver reads.
_LISTS: Final = frozenset(
    {"tools", "slash_commands", "agents", "skills", "plugins", "memory_paths", "capabilities"}
    | {"availableCommands", "configOptions", "availableModels", "authMethods", "owed_rows"}
)


class Cleaner:
    """Replaces what depends on the machine; equal things are replaced by equal things within one run."""

    def __init__(self, run: Rehearsal, directory: Path) -> None:
        self._paths = [
            (run.spec.cwd, CWD),
            (str(directory), "/recorded"),
            (str(directory).lstrip("/"), "recorded"),
            (str(agents_directory()), "/agents"),
            (str(agents_directory().resolve()), "/agents"),
        ]
        self._names: dict[str, str] = {}
        self._ours = names_said_first_by_us(run.records)

    def _uuid(self, found: re.Match[str]) -> str:
        name = found.group()
        if name in self._ours or name == SESSION:
            return name
        return self._names.setdefault(name, f"00000000-0000-4000-9000-{len(self._names):012d}")

    def _name(self, found: re.Match[str]) -> str:
        return self._names.setdefault(found.group(), f"{found.group(1)}_{len(self._names):020d}")

    def text(self, line: str) -> str:
        for path, neutral in self._paths:
            line = line.replace(path, neutral)
        line = _NAMES.sub(self._name, _UUID.sub(self._uuid, line))
        line = _TIMES.sub("2026-01-01T00:00:00.000Z", _PORTS.sub("127.0.0.1:1", line))
        line = _SOCKETS.sub("/1.sock", line)
        return _FRAMES.sub(".js", _RUNS.sub("run=00000000", line))

    def value(self, value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: self.value(item, key) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(item) for item in (value[:1] if name in _LISTS else value)]
        if isinstance(value, str):
            return "0" if name in ("hash", "snapshot") else self.text(value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return 1 if is_number and _MOMENTS.search(name) else value

    def line(self, data: bytes) -> bytes:
        decoded = data.decode(errors="surrogateescape")
        try:
            said = json.loads(decoded)
        except ValueError:
            return self.text(decoded).encode(errors="surrogateescape")
        cleaned = self.value(said)
        return json.dumps(cleaned, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogateescape")

    def record(self, record: Record) -> tuple[Stream, bytes, bool]:
        if record.stream is Stream.IN:
            key, _, data = record.data.partition(b"\0")
            return record.stream, key + b"\0" + self.line(data.rstrip(b"\n")) + b"\n", record.partial
        return record.stream, self.line(record.data), record.partial


def names_said_first_by_us(records: Sequence[Record]) -> set[str]:
    """Made by the driver from the session's name: it will make them again."""
    ours: set[str] = set()
    theirs: set[str] = set()
    for record in records:
        named = set(_UUID.findall(record.data.decode(errors="replace")))
        if record.stream is Stream.IN:
            ours |= named - theirs
        theirs |= named - ours
    return ours


@cache
def version_of(driver: str) -> str:
    """What the program itself says."""
    kind = kind_of(driver)
    with tempfile.TemporaryDirectory(prefix="fleetgate-") as home:
        argv = [str(agent_executable(kind.name)), *kind.version_argv]
        env = {"PATH": os.environ["PATH"], "HOME": home}
        said = subprocess.run(argv, capture_output=True, text=True, check=True, env=env, cwd=home).stdout
    version = kind.parse_version(said)
    assert version, said
    return version


def cleaned(driver: str, scenario: Scenario, run: Rehearsal, directory: Path) -> Transcript:
    assert not any(record.partial for record in run.records), "a transcript is small: no line of it is sliced"
    cleaner = Cleaner(run, directory)
    records = tuple(numbered(map(cleaner.record, run.records)))
    version = version_of(driver)
    return Transcript(driver, scenario.name, scenario.prompt, scenario.mode, run.spec.model or "", version, records)


# --- recording --------------------------------------------------------------------------------------


async def record(driver: str, scenario: Scenario) -> Transcript:
    with tempfile.TemporaryDirectory(prefix="fleetgate-", ignore_cleanup_errors=True) as name:
        async with ModelServer() as model:
            run = await rehearse(
                kind_of(driver),
                model,
                Path(name),
                scenario.prompt,
                mode=scenario.mode,
                watch=scenario.watcher(),
                within_s=WITHIN_S,
            )
        return cleaned(driver, scenario, run, Path(name))


def chosen(names: Sequence[str]) -> list[tuple[str, Scenario]]:
    every = [(driver, scenario) for driver, scenarios in SCENARIOS.items() for scenario in scenarios]
    wanted = [
        (driver, scenario)
        for driver, scenario in every
        if not names or driver in names or f"{driver}/{scenario.name}" in names
    ]
    if not wanted:
        sys.exit(f"nothing is called {' or '.join(names)}; drivers are {', '.join(SCENARIOS)}")
    return wanted


async def main(names: Sequence[str]) -> None:
    limit = anyio.CapacityLimiter(AT_ONCE)

    async def one(driver: str, scenario: Scenario) -> None:
        async with limit:
            transcript = await record(driver, scenario)
        save(transcript)
        size = transcript.path.stat().st_size
        evidence = transcript.told().evidence
        print(f"{transcript.name:36} {size:7} bytes  {evidence.end.value:9} {evidence.reason or ''}", flush=True)

    async with anyio.create_task_group() as recordings:
        for driver, scenario in chosen(names):
            recordings.start_soon(one, driver, scenario)
    print(f"written to {ROOT}")


def refold() -> None:
    for transcript in all_transcripts():
        transcript.golden.write_text(transcript.told().as_text())


if __name__ == "__main__":
    if sys.argv[1:] == ["--refold"]:
        refold()
    else:
        anyio.run(main, sys.argv[1:])
