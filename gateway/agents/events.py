"""The events drivers make, one function for each kind, so that all agents' events look the same.

Everything that came from an agent goes through `loose.clean` or `loose.text` here or before: an event can always
be encoded. Lengths are not looked at; gateway/core/coalesce.py cuts.
"""

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.agents.lines import plain
from gateway.agents.loose import clean, text
from shared_types.events import AgentEvent, EventType, InputRefusal

MAX_TITLE: Final = 200
CONTEXT: Final = 3  # lines around a change


def log(at: int, line: str, level: str = "info", source: str = "agent") -> AgentEvent:
    return AgentEvent(
        type=EventType.LOG, timestamp=at, content=plain(text(line)), data={"level": level, "source": source}
    )


def thinking(at: int, content: str, *, delta: bool) -> AgentEvent:
    return AgentEvent(type=EventType.THINKING, timestamp=at, content=text(content), data={"delta": delta})


def message(at: int, content: str, *, delta: bool) -> AgentEvent:
    data = {"delta": delta, "role": "assistant"}
    return AgentEvent(type=EventType.MESSAGE, timestamp=at, content=text(content), data=data)


def tool_call(at: int, call_id: str, name: str, kind: str, title: str, arguments: Any) -> AgentEvent:
    """`arguments` is what the agent gives to the tool, whatever that is."""
    data = {"id": call_id, "name": name, "kind": kind, "title": one_line(title or name), "input": clean(arguments)}
    return AgentEvent(type=EventType.TOOL_CALL, timestamp=at, data=data)


def tool_result(at: int, call_id: str, output: str, *, ok: bool, exit_code: int | None = None) -> AgentEvent:
    data: dict[str, Any] = {"id": call_id, "ok": ok}
    if exit_code is not None:
        data["exitCode"] = exit_code
    return AgentEvent(type=EventType.TOOL_RESULT, timestamp=at, content=plain(text(output)), data=data)


def file_change(at: int, path: str, op: str, diff: str | None = None) -> AgentEvent:
    """`op` is create, update or delete."""
    data: dict[str, Any] = {"path": path, "op": op}
    if diff:
        data["diff"] = diff
    return AgentEvent(type=EventType.FILE_CHANGE, timestamp=at, data=data)


def approval(
    at: int, ask_id: str, tool: str, asked: str, arguments: Any, *, allowed: bool, mode: str, reason: str
) -> AgentEvent:
    data = {
        "id": ask_id,
        "tool": tool,
        "input": clean(arguments),
        "decision": "allow" if allowed else "deny",
        "mode": mode,
        "reason": reason,
    }
    return AgentEvent(type=EventType.APPROVAL, timestamp=at, content=one_line(asked or tool), data=data)


def input_taken(at: int, input_id: str, content: str) -> AgentEvent:
    data = {"inputId": input_id, "state": "taken"}
    return AgentEvent(type=EventType.INPUT, timestamp=at, content=text(content), data=data)


_REFUSALS: Final[Mapping[str, str]] = {
    InputRefusal.NOT_SUPPORTED: "it takes no input while it works",
    InputRefusal.OVER: "its work is over",
    InputRefusal.CLOSED: "it reads no input any more",
    InputRefusal.FULL: "too much waits for it already; say it again later",
    InputRefusal.BAD_ID: "its id is too long",
}


def input_refused(at: int, input_id: str, code: str, content: str) -> AgentEvent:
    """`content` is the beginning of what the agent does not get."""
    what = f'the input "{one_line(content)}"' if content.strip() else "an input"
    sentence = f"The agent does not get {what}: {_REFUSALS.get(code) or one_line(code) or 'nobody said why'}."
    data = {"inputId": input_id, "state": "refused", "code": code}
    return AgentEvent(type=EventType.INPUT, timestamp=at, content=sentence, data=data)


def usage(at: int, used: Mapping[str, Any]) -> AgentEvent:
    return AgentEvent(type=EventType.USAGE, timestamp=at, data=dict(used))


def error(at: int, sentence: str, code: str, *, retryable: bool, fatal: bool) -> AgentEvent:
    data = {"code": code, "retryable": retryable, "fatal": fatal}
    return AgentEvent(type=EventType.ERROR, timestamp=at, content=plain(text(sentence)), data=data)


def used(
    input_tokens: int | None,
    output_tokens: int | None,
    cached_tokens: int | None = None,
    cost_usd: float | None = None,
    model: str = "",
) -> dict[str, Any]:
    """The data of a `usage` event; what is not known is left out."""
    data = {
        "inputTokens": input_tokens or 0,
        "outputTokens": output_tokens or 0,
        "cachedTokens": cached_tokens,
        "costUsd": cost_usd,
        "model": model or None,
    }
    return {name: value for name, value in data.items() if value is not None}


# --- words for people -------------------------------------------------------------------------------


def one_line(title: str) -> str:
    r"""
    >>> one_line("git commit \\\n   -m x")
    'git commit \\ -m x'
    """
    line = " ".join(plain(text(title[: 4 * MAX_TITLE])).split())
    return line if len(line) <= MAX_TITLE else line[: MAX_TITLE - 1] + "…"


_TELLING: Final = ("command", "file_path", "filePath", "path", "pattern", "query", "url", "description", "prompt")


def title_of(name: str, arguments: Any) -> str:
    """What a tool call is about, from the one argument that says most.

    >>> title_of("Bash", {"command": "ls -l", "description": "look"})
    'Bash: ls -l'
    """
    if isinstance(arguments, dict):
        for key in _TELLING:
            value = arguments.get(key)
            if isinstance(value, str) and value.strip():
                return f"{name}: {value}"
    return name


# --- files ------------------------------------------------------------------------------------------


def within(cwd: str, path: str) -> str:
    """The path as seen from the working directory when it is inside, else as it is.

    >>> within("/w/repo", "/w/repo/src/a.py"), within("/w/repo", "/etc/passwd"), within("/w", "b.py")
    ('src/a.py', '/etc/passwd', 'b.py')
    """
    path = posixpath.normpath(path)
    root = cwd.rstrip("/") + "/"
    return path[len(root) :] if path.startswith(root) else path


def unified(path: str, old: str, new: str) -> str:
    r"""A unified diff of one hunk: what the two texts share at their start and end is left out.

    Not the smallest diff, but its cost is that of reading the texts, whatever an agent makes of them.

    >>> print(unified("a", "one\ntwo\nthree\n", "one\n2\nthree\n"), end="")
    --- a/a
    +++ b/a
    @@ -1,3 +1,3 @@
     one
    -two
    +2
     three
    """
    before, after = _lines(old), _lines(new)
    shorter = min(len(before), len(after))
    head = next((i for i in range(shorter) if before[i] != after[i]), shorter)
    rest = shorter - head
    tail = next((i for i in range(rest) if before[-1 - i] != after[-1 - i]), rest)
    first, last = max(0, head - CONTEXT), max(0, tail - CONTEXT)
    olds, news = before[first : len(before) - last], after[first : len(after) - last]
    lead, trail = head - first, tail - last
    lines = [f" {line}" for line in olds[:lead]]
    lines += [f"-{line}" for line in olds[lead : len(olds) - trail]]
    lines += [f"+{line}" for line in news[lead : len(news) - trail]]
    lines += [f" {line}" for line in olds[len(olds) - trail :]]
    return from_hunks(path, [(first + 1 if olds else 0, len(olds), first + 1 if news else 0, len(news), lines)])


def _lines(content: str) -> list[str]:
    """Split at newlines alone; a last line without one is a line too."""
    lines = content.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def from_hunks(path: str, hunks: Sequence[tuple[int, int, int, int, Sequence[str]]]) -> str:
    """A unified diff from (old start, old lines, new start, new lines, lines)."""
    head = f"--- a/{path}\n+++ b/{path}\n"
    return head + "".join(
        f"@@ -{old},{olds} +{new},{news} @@\n" + "".join(f"{line}\n" for line in lines)
        for old, olds, new, news, lines in hunks
    )
