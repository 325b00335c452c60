"""Transcripts of the real agent CLIs, and what the drivers make of them.

    transcripts/<driver>/<scenario>.jsonl           the run: what was asked of which version, then its records
    transcripts/<driver>/<scenario>.events.jsonl    the events of those records, and the evidence at the end

Both are written by `./dev record` (e2e/record.py). A change of a driver shows as a difference of the second file,
a new release of an agent as one of the first. Records are 10 ms apart, so that nothing depends on the machine.
"""

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.agents.base import AgentKind, Driver, Evidence, Record, RunSpec, Stream
from gateway.agents.catalogue import KINDS, PROFILES
from shared_types.codec import encode
from shared_types.events import AgentEvent
from shared_types.tasks import PermissionMode

ROOT: Final = Path(__file__).parent / "transcripts"
START_MS: Final = 1_700_000_000_000
SESSION: Final = "00000000-0000-4000-8000-000000000001"
CWD: Final = "/recorded/repo"


def kind_of(driver: str) -> AgentKind:
    """The kind behind a directory's name: an agent, or an agent and its profile (`gemini-oneshot`)."""
    for profile, kinds in PROFILES.items():
        agent = driver.removesuffix(f"-{profile}")
        if agent != driver:
            return kinds[agent]
    return KINDS[driver]


@dataclass(frozen=True)
class Transcript:
    """One recorded run."""

    driver: str
    scenario: str
    prompt: str
    mode: PermissionMode
    model: str
    version: str  # of the agent, as it says itself
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        return f"{self.driver}/{self.scenario}"

    @property
    def path(self) -> Path:
        return ROOT / self.driver / f"{self.scenario}.jsonl"

    @property
    def golden(self) -> Path:
        return ROOT / self.driver / f"{self.scenario}.events.jsonl"

    def new_driver(self) -> Driver:
        spec = RunSpec("task_1", self.prompt, CWD, "/bin/agent", self.model, self.mode, SESSION)
        return kind_of(self.driver).driver(spec)

    def told(self) -> "Told":
        driver = self.new_driver()
        heard = [event for record in self.records for event in driver.heard(record)]
        return Told(heard, driver.evidence)


@dataclass(frozen=True)
class Told:
    """What a driver made of a transcript."""

    events: list[AgentEvent]
    evidence: Evidence

    def of(self, kind: str) -> list[AgentEvent]:
        return [event for event in self.events if event.type == kind]

    def data(self, kind: str, key: str) -> list[Any]:
        return [(event.data or {})[key] for event in self.of(kind)]

    def finals(self, kind: str = "message") -> list[str | None]:
        return [event.content for event in self.of(kind) if event.data and event.data["delta"] is False]

    def deltas(self, kind: str = "message") -> str:
        return "".join(event.content or "" for event in self.of(kind) if event.data and event.data["delta"] is True)

    def as_text(self) -> str:
        """The golden file."""
        evidence = self.evidence
        end = {
            "end": evidence.end.value,
            "reason": evidence.reason,
            "error": evidence.error,
            "answer": evidence.answer[:200],
            "sessionId": evidence.session_id,
            "denied": evidence.denied,
            "finishedAfterDenial": evidence.finished_after_denial,
            "filesChanged": evidence.files_changed,
            "usage": evidence.usage,
        }
        lines = [encode(event).decode() for event in self.events]
        return "".join(f"{line}\n" for line in [*lines, json.dumps({"evidence": end}, ensure_ascii=False)])


# --- files ------------------------------------------------------------------------------------------


def numbered(entries: Iterable[tuple[Stream, bytes, bool]]) -> Iterator[Record]:
    for seq, (stream, data, partial) in enumerate(entries, 1):
        yield Record(seq, START_MS + 10 * seq, stream, data, partial)


def _write_data(data: bytes) -> dict[str, str]:
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def save(transcript: Transcript) -> None:
    head = ("prompt", "mode", "model", "version")
    lines: list[dict[str, Any]] = [{name: getattr(transcript, name) for name in head}]
    for record in transcript.records:
        key, found, data = record.data.partition(b"\0") if record.stream is Stream.IN else (b"", b"", record.data)
        line: dict[str, Any] = {"stream": record.stream.name}
        line |= {"key": key.decode()} if found else {}
        line |= _write_data(data)
        line |= {"partial": True} if record.partial else {}
        lines.append(line)
    transcript.path.parent.mkdir(parents=True, exist_ok=True)
    transcript.path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    transcript.golden.write_text(transcript.told().as_text())


def _read_data(line: dict[str, Any]) -> bytes:
    data = base64.b64decode(line["base64"]) if "base64" in line else line["text"].encode()
    return line["key"].encode() + b"\0" + data if "key" in line else data


def load(path: Path) -> Transcript:
    head, *lines = (json.loads(line) for line in path.read_text().split("\n") if line)
    entries = ((Stream[line["stream"]], _read_data(line), line.get("partial", False)) for line in lines)
    return Transcript(
        driver=path.parent.name,
        scenario=path.name.removesuffix(".jsonl"),
        prompt=head["prompt"],
        mode=PermissionMode(head["mode"]),
        model=head["model"],
        version=head["version"],
        records=tuple(numbered(entries)),
    )


def all_transcripts() -> list[Transcript]:
    paths = sorted(path for path in ROOT.glob("*/*.jsonl") if not path.name.endswith(".events.jsonl"))
    return [load(path) for path in paths]
