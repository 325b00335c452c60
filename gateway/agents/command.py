"""An agent that the host's owner declares: any program, with nothing to install.

The prompt goes to its stdin, or into a file whose path stands for `{prompt_file}` in its arguments; never into an
argument. What it prints is its answer: text, line by line, or JSON Lines of events `{type, content?, data?}`.
Its exit code is the verdict. With `input = "lines"` stdin stays open and follow-up input arrives there as lines.
FLEETGATE_TASK_ID, FLEETGATE_MODE and FLEETGATE_MODEL tell it what it is run for.

It does not know permissions: a declaration says which modes its program honours.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

import msgspec

from gateway.agents import events
from gateway.agents.base import Driver, End, Evidence, Launch, RunSpec, StdinMode
from gateway.agents.fold import SAY, Answer, Fold
from gateway.agents.lines import decode, plain
from gateway.agents.loose import clean, fields, parse, text
from shared_types.events import AgentEvent, EventType
from shared_types.hosts import AgentName
from shared_types.tasks import PermissionMode, Reason

PROMPT_FILE: Final = "{prompt_file}"

# What a program may say of itself; `status`, `approval` and `input` are said by Fleetgate alone.
SAYABLE: Final = frozenset(EventType) - {EventType.STATUS, EventType.APPROVAL, EventType.INPUT}


class CommandAgent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A declaration. `argv[0]` is looked for on PATH; `env` names variables of the host that are passed on."""

    name: AgentName
    argv: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    output: Literal["text", "jsonl"] = "text"
    input: Literal["none", "lines"] = "none"
    env: tuple[str, ...] = ()
    modes: tuple[PermissionMode, ...] = (PermissionMode.DEFAULT, PermissionMode.BYPASS)
    version_argv: tuple[str, ...] = ()
    first_output_s: Annotated[float, msgspec.Meta(gt=0)] = 86_400.0  # a program may be silent as long as it likes
    idle_s: Annotated[float, msgspec.Meta(gt=0)] = 86_400.0


class CommandKind:
    """A declared agent, as the catalogue knows it."""

    def __init__(self, declaration: CommandAgent) -> None:
        self.declaration = declaration
        self.name: str = declaration.name
        self.executables: tuple[str, ...] = declaration.argv[:1]
        self.version_argv: tuple[str, ...] = declaration.version_argv
        self.first_argv: tuple[str, ...] = ()
        self.env_names: tuple[str, ...] = declaration.env
        self.login_files: tuple[str, ...] = ()
        self.instruction_files: tuple[str, ...] = ()

    def parse_version(self, output: str) -> str | None:
        found = re.search(r"\d+(\.\d+)+\S*", output)
        return found.group() if found else None

    def logged_in(self, env: Mapping[str, str], existing: frozenset[str]) -> bool | None:
        """There is nothing to log in to."""
        return True

    def supports(self, mode: PermissionMode, *, is_root: bool, env: Mapping[str, str] | None = None) -> str | None:
        if mode in self.declaration.modes:
            return None
        honoured = ", ".join(self.declaration.modes)
        return f"{self.name} is a program of this host that honours permission mode {honoured}; not {mode}"

    def driver(self, spec: RunSpec) -> Driver:
        return CommandDriver(spec, self.declaration)

    def __repr__(self) -> str:
        return f"<CommandKind {self.name}>"


class CommandDriver(Fold):
    """One run of a declared program."""

    def __init__(self, spec: RunSpec, declaration: CommandAgent) -> None:
        super().__init__(spec)
        self.declaration = declaration
        self.takes_input = declaration.input == "lines"
        self.prompt_in_file = any(PROMPT_FILE in part for part in declaration.argv[1:])
        self._text = Answer()
        if self.takes_input and not self.prompt_in_file:
            self.write("prompt", _as_lines(spec.prompt))

    def launch(self) -> Launch:
        spec, declared = self.spec, self.declaration
        prompt = spec.prompt.encode("utf-8", "replace")
        argv = (spec.executable, *(part.replace(PROMPT_FILE, "{private}/prompt") for part in declared.argv[1:]))
        alone = StdinMode.NULL if self.prompt_in_file else StdinMode.ONCE
        stdin_mode = StdinMode.PIPE if self.takes_input else alone
        env = {"FLEETGATE_TASK_ID": spec.task_id, "FLEETGATE_MODE": spec.mode.value}
        return Launch(
            argv=argv,
            env=env | ({"FLEETGATE_MODEL": spec.model} if spec.model else {}),
            files={"prompt": prompt} if self.prompt_in_file else {},
            stdin_mode=stdin_mode,
            stdin=prompt if stdin_mode is StdinMode.ONCE else b"",
            first_output_s=declared.first_output_s,
            idle_s=declared.idle_s,
        )

    # --- hearing ------------------------------------------------------------------------------------

    def on_line(self, line: str) -> list[AgentEvent]:
        if self.declaration.output == "jsonl":
            return self._on_json(line)
        line = plain(line) + "\n"
        self._text.add(line)
        return [events.message(self.at, line, delta=True)]

    def _on_json(self, line: str) -> list[AgentEvent]:
        said = fields(parse(line))
        kind = text(said.get("type"))
        if kind not in SAYABLE:
            return [events.log(self.at, line)] if line.strip() else []
        content, data = text(said.get("content")), _fitting(kind, clean(fields(said.get("data"))))
        self._learn(kind, content, data)
        return [AgentEvent(type=kind, timestamp=self.at, content=None if kind in _WORDLESS else content, data=data)]

    def _learn(self, kind: str, content: str, data: dict[str, Any]) -> None:
        if kind == EventType.MESSAGE:
            if data["delta"]:
                self._text.add(content)
            else:
                self._text.take()
                self.answer = content
        elif kind == EventType.FILE_CHANGE:
            self.files.add(data["path"])
        elif kind == EventType.USAGE:
            self.usage = data
        elif kind == EventType.ERROR and data["fatal"]:
            self.end, self.reason, self.error = End.ERROR, data["code"], content

    def on_written(self, key: str, data: bytes) -> list[AgentEvent]:
        if not key.startswith(SAY):
            return []
        return [events.input_taken(self.at, key[len(SAY) :], decode(data).removesuffix("\n"))]

    def on_exit(self) -> list[AgentEvent]:
        """Text that has no other end ends with the program."""
        if not self._text:
            return []
        self.answer = self._text.take()
        return [events.message(self.at, self.answer, delta=False)]

    def said(self) -> None:
        for input_id, content in self._says.items():
            self.write(f"{SAY}{input_id}", _as_lines(content))

    def on_cancel(self) -> None:
        """There is no word for it: what was not written yet is not written any more."""
        for write in self.to_write():
            self.unwrite(write.key)

    @property
    def evidence(self) -> Evidence:
        return replace(super().evidence, needs_result=False)


def _as_lines(content: str) -> bytes:
    data = content.encode("utf-8", "replace")
    return data if data.endswith(b"\n") else data + b"\n"


# Fields that readers rely on, with what stands for them when a program leaves them out or gets their type wrong.
_NEEDED: Final[Mapping[str, Mapping[str, Any]]] = {
    EventType.LOG: {"level": "info", "source": "agent"},
    EventType.THINKING: {"delta": False},
    EventType.MESSAGE: {"delta": False, "role": "assistant"},
    EventType.TOOL_CALL: {"id": "", "name": "tool", "kind": "other", "title": "tool", "input": None},
    EventType.TOOL_RESULT: {"id": "", "ok": True},
    EventType.FILE_CHANGE: {"path": "", "op": "update"},
    EventType.USAGE: {"inputTokens": 0, "outputTokens": 0},
    EventType.ERROR: {"code": Reason.AGENT_ERROR.value, "retryable": False, "fatal": False},
    EventType.QUESTION: {"id": "", "choices": []},
}
_OPTIONAL: Final[Mapping[str, type | tuple[type, ...]]] = {
    "exitCode": int,
    "diff": str,
    "cachedTokens": int,
    "costUsd": (int, float),
    "model": str,
}
_WORDS: Final[Mapping[tuple[str, str], frozenset[str]]] = {
    (EventType.LOG, "level"): frozenset({"debug", "info", "warning", "error"}),
    (EventType.TOOL_CALL, "kind"): frozenset({"read", "edit", "execute", "search", "fetch", "think", "other"}),
    (EventType.FILE_CHANGE, "op"): frozenset({"create", "update", "delete"}),
}
_WORDLESS: Final = frozenset({EventType.TOOL_CALL, EventType.FILE_CHANGE, EventType.USAGE})


def _fitting(kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The data with what readers rely on; what only this program knows is kept."""
    needed = _NEEDED.get(kind, {})
    fitted = {name: value for name, value in data.items() if _fits(kind, name, value, needed.get(name, _OPTIONAL))}
    if isinstance(fitted.get("title"), str):
        fitted["title"] = events.one_line(fitted["title"])
    return {**needed, **fitted}


def _fits(kind: str, name: str, value: Any, default: Any) -> bool:
    if default is None:
        return True
    if default is not _OPTIONAL:
        wanted: type | tuple[type, ...] = type(default)
    elif name in _OPTIONAL:
        wanted = _OPTIONAL[name]
    else:
        return True
    is_right = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
    words = _WORDS.get((kind, name))
    return is_right and (words is None or value in words)
