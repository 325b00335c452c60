"""What a prompt tells the model to do: directives in the user's own text, read again at each request.

    @@text:Hello@@            says it, in a few deltas
    @@think:Hmm@@             thinks it
    @@slow:20:100@@           20 words, 100 ms apart
    @@big:300@@               300 KB of text
    @@ansi@@ @@badutf8@@      text with terminal codes, U+2028 and an emoji; text with a byte that is not UTF-8
    @@write:PATH:CONTENT@@ @@edit:PATH:OLD:NEW@@ @@read:PATH@@ @@sh:COMMAND@@ @@sh2:ONE||TWO@@
    @@tool:NAME:{json}@@      any tool, by the name the agent gave it
    @@http:500@@ @@http:500:2@@   answers with this status, always or that many times
    @@cut@@ @@cut:2@@         breaks the connection in the middle of an answer, always or that many times
    @@hang@@                  never answers

A tool ends a step; what follows is for the next request, which brings the tool's result. So a script needs no
memory: the step is the number of rounds of tool calls since the message with the script. (How often `http` and
`cut` have failed is the one thing that is counted.) A message without directives is answered with "ok".
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

DIRECTIVE: Final = re.compile(r"@@(\w+)(?::(.*?))?@@", re.DOTALL)
PLAIN_ANSWER: Final = "ok"
AFTER_TOOLS: Final = "done"
ANSI: Final = "\x1b[1;31mred\x1b[0m bell\x07 sep\u2028arated \U0001f680 end"
BAD: Final = "bad \udcff byte"  # written with surrogateescape: one byte 0xff
PIECE: Final = 40
BIG_PIECE: Final = 4000


@dataclass(frozen=True)
class Say:
    """Text or a thought, piece by piece."""

    pieces: Sequence[str]
    is_thought: bool = False
    delay_s: float = 0.0


@dataclass(frozen=True)
class Call:
    """A tool call: `kind` is ours (write, edit, read, sh), or a tool's own name with `arguments`."""

    kind: str
    parts: Sequence[str] = ()
    arguments: Any = None


@dataclass(frozen=True)
class Fail:
    """An HTTP status instead of an answer; `cut` 0 breaks off in the middle. `times` None: always."""

    status: int
    times: int | None = None


@dataclass(frozen=True)
class Hang:
    """Nothing more."""


Act: TypeAlias = Say | Call | Fail | Hang
CUT: Final = 0


class BadScript(ValueError):
    """A directive nobody knows: the test is wrong."""


def _pieces(text: str, size: int = PIECE) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)] or [""]


def _times(arg: str) -> int | None:
    return int(arg) if arg else None


def act(kind: str, arg: str) -> list[Act]:
    """The acts of one directive."""
    match kind:
        case "text" | "think":
            return [Say(_pieces(arg), is_thought=kind == "think")]
        case "slow":
            count, _, every_ms = arg.partition(":")
            return [Say([f"word{i} " for i in range(int(count))], delay_s=int(every_ms) / 1000)]
        case "big":
            size = int(arg) * 1024
            # No two lines alike: gemini takes a text that repeats itself for a model in a loop, and ends the turn.
            lines = (f"{n}: {hashlib.sha256(str(n).encode()).hexdigest()}\n" for n in range(size // 60))
            return [Say(_pieces("".join(lines)[:size], BIG_PIECE))]
        case "ansi":
            return [Say([ANSI])]
        case "badutf8":
            return [Say([BAD])]
        case "write" | "read" | "sh":
            return [Call(kind, arg.split(":", 1) if kind == "write" else [arg])]
        case "edit":
            return [Call(kind, arg.split(":", 2))]
        case "sh2":
            return [Call("sh", [command]) for command in arg.split("||")]
        case "tool":
            name, _, arguments = arg.partition(":")
            return [Call(name, arguments=json.loads(arguments or "{}"))]
        case "http":
            status, _, times = arg.partition(":")
            return [Fail(int(status), _times(times))]
        case "cut":
            return [Fail(CUT, _times(arg))]
        case "hang":
            return [Hang()]
    raise BadScript(f"@@{kind}@@")


def steps(text: str) -> list[list[Act]]:
    """All steps of a script; the last one has no tool call.

    >>> [len(step) for step in steps("@@think:a@@@@sh:ls@@@@text:b@@")]
    [2, 1]
    >>> steps("@@sh:ls@@")[1]
    [Say(pieces=['done'], is_thought=False, delay_s=0.0)]
    """
    found = DIRECTIVE.findall(text)
    if not found:
        return [[Say([PLAIN_ANSWER])]]
    made: list[list[Act]] = [[]]
    for kind, arg in found:
        acts = act(kind, arg)
        made[-1] += acts
        if isinstance(acts[0], Call):
            made.append([])
    if not any(isinstance(one, Say | Hang) for one in made[-1]):
        made[-1].append(Say([AFTER_TOOLS]))
    return made


@dataclass(frozen=True)
class Turn:
    """A message of a conversation as all dialects have it: who, what text, whether it calls tools."""

    role: str  # user | model
    text: str = ""
    calls_tools: bool = False


def step_of(turns: Sequence[Turn]) -> tuple[str, list[Act]]:
    """The script that counts (the text of the last user message with directives) and its step that is due."""
    script, rounds, in_round = "", 0, False
    for turn in turns:
        if turn.role == "user":
            in_round = False
            if turn.text and DIRECTIVE.search(turn.text):
                script, rounds = turn.text, 0
        elif turn.calls_tools and not in_round:
            rounds, in_round = rounds + 1, True
    if not script:
        return "", steps("")[0]
    due = steps(script)
    return script, due[min(rounds, len(due) - 1)]
