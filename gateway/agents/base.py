"""What a driver is: one agent's protocol, as a pure fold over the journal of its run.

    Launch        how to start it: argv, environment, files, how stdin and stdout are connected
    Record        one entry of the journal: a line the agent wrote, something that was written to it, a note, its exit
    Driver        heard(record) -> events; to_write() -> what to write to the agent now; evidence() -> how it stands

A driver never sees a process, a clock or a file. All its state comes from the records it has heard, so a new
gateway that hears the journal again from record 1 stands exactly where the old one stood: a write that is in the
journal (as a record of stream IN with the write's key) was made, and `to_write` does not ask for it again.
The only state beside the journal are follow-up inputs not yet written; the manager says those again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Protocol

from gateway.core.journal import ExitFacts as ExitFacts
from gateway.core.journal import Record as Record
from gateway.core.journal import Stream as Stream
from shared_types.events import AgentEvent, InputRefusal
from shared_types.tasks import PermissionMode

MAX_LINE: Final = 32 * 1024 * 1024  # longer lines are cut by the driver into one `log` event


class StdinMode(Enum):
    PIPE = "pipe"  # stays open: a conversation
    ONCE = "once"  # `stdin` is written, then closed
    NULL = "null"


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start an agent. Paths in `files` are relative to the attempt's private directory, whose absolute
    path stands for `{private}` in `argv` and `env` values. The prompt never appears in `argv`.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    stdin_mode: StdinMode = StdinMode.PIPE
    stdin: bytes = b""
    stdout_to_file: bool = False  # for programs that lose a pipe's tail when they exit
    first_output_s: float = 20.0  # start-up watchdog
    idle_s: float = 600.0  # stall watchdog: no record for so long


@dataclass(frozen=True, slots=True)
class RunSpec:
    """A task as a driver needs it. `executable` is absolute; `session_uuid` is ours to give where the agent lets us;
    `host_env` holds those of the kind's `env_names` that are set. `instructions` is the text of the repository's
    first `instruction_files`, read without following links out of it: what an agent is told there is advice, but
    the other files of a stranger's repository that it would load by itself can start programs (driver docstrings).
    """

    task_id: str
    prompt: str
    cwd: str
    executable: str
    model: str | None
    mode: PermissionMode
    session_uuid: str
    version: str | None = None
    is_root: bool = False
    host_env: Mapping[str, str] = field(default_factory=dict)
    instructions: str = ""


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes for the agent's stdin. `key` names this write: it is made at most once. `close` closes stdin after it."""

    key: str
    data: bytes
    close: bool = False


class End(Enum):
    """What the agent itself said of its work so far."""

    NONE = "none"  # no result yet
    OK = "ok"  # the last turn ended well and nothing is queued
    ERROR = "error"  # the last turn ended with an error
    CANCELLED = "cancelled"  # the last turn was cancelled


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the agent said, for the verdict (gateway/core/outcome.py). `answer` is the final text, or its tail."""

    end: End = End.NONE
    reason: str | None = None  # a stable code when end is ERROR
    error: str | None = None  # the agent's sentence
    answer: str = ""
    session_id: str = ""
    denied: Sequence[str] = ()  # tools that were asked for and denied
    finished_after_denial: bool = True  # False: the agent gave up because it was denied
    needs_result: bool = True  # False: a program without results (command): its exit code is the verdict
    files_changed: Sequence[str] = ()
    usage: Mapping[str, Any] = field(default_factory=dict)


class Driver(Protocol):
    """One agent run. Made new for each attempt."""

    def launch(self) -> Launch:
        """How to start it; always the same for the same RunSpec."""
        ...

    def heard(self, record: Record) -> list[AgentEvent]:
        """What this record means. Never raises for anything an agent may print."""
        ...

    def to_write(self) -> list[Write]:
        """What should be written now and is not in the journal yet, in order. Repeats itself until it is heard as
        a record of stream IN.
        """
        ...

    def say(self, input_id: str, text: str) -> InputRefusal | None:
        """Follow-up input: None when it will be written (now, or when the agent can take it), or was dealt with
        before: said twice it counts once. A refusal counts when the journal has it, as a note of `fold.REFUSED`.
        """
        ...

    def cancel(self) -> None:
        """Ask the agent to end its turn (abort): adds to `to_write` where the protocol has a word for it."""
        ...

    @property
    def is_done(self) -> bool:
        """The conversation is over: close stdin, wait a little, then stop the process."""
        ...

    @property
    def evidence(self) -> Evidence: ...


class AgentKind(Protocol):
    """An agent we know: how to find it and how to drive it."""

    name: str  # canonical

    @property
    def executables(self) -> tuple[str, ...]:
        """Names to look for on PATH, best first."""
        ...

    @property
    def version_argv(self) -> tuple[str, ...]:
        """Arguments that print the version. Empty: it has none, and must not be started to find out."""
        ...

    def parse_version(self, output: str) -> str | None: ...

    @property
    def first_argv(self) -> tuple[str, ...]:
        """Arguments of a harmless run that is made once, alone, before any run beside another. Empty: none needed."""
        ...

    @property
    def env_names(self) -> tuple[str, ...]:
        """Environment names of the host that this agent needs (keys, endpoints), passed on when set."""
        ...

    def logged_in(self, env: Mapping[str, str], existing: frozenset[str]) -> bool | None:
        """From environment names and which of `login_files` exist; None when it cannot be told."""
        ...

    @property
    def login_files(self) -> tuple[str, ...]:
        """Files, relative to HOME, that exist when a person has logged in."""
        ...

    @property
    def instruction_files(self) -> tuple[str, ...]:
        """Files of a repository, best first, that this agent reads when it trusts it, but not as we start it."""
        ...

    def supports(self, mode: PermissionMode, *, is_root: bool, env: Mapping[str, str] | None = None) -> str | None:
        """None when the mode can be honoured, else a sentence that says why not. `env`: as in `RunSpec.host_env`."""
        ...

    def driver(self, spec: RunSpec) -> Driver: ...
