"""A task's events as text for people: thinking dimmed, one line for a tool call, one for its result, the answer whole.

Pure: events in, pieces of text out. Deltas are shown as they come (`live`) or by whole lines, and the whole text
that ends a message is not shown a second time: only what the deltas lacked.
Everything that others wrote passes `harmless` here.
"""

import json
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from client.terminal.columns import cut
from client.terminal.escapes import harmless, one_line
from client.terminal.styles import STATE_SIGN, STATE_STYLE
from client.terminal.times import count, lasted
from shared_types.api import EventRecord
from shared_types.tasks import FINAL, Task, TaskState

TOOL_SIGN: Final = {"read": "→", "edit": "✎", "execute": "$", "search": "⌕", "fetch": "↓", "think": "✻"}
CHANGE_SIGN: Final = {"create": "+", "delete": "-"}
_TELLING: Final = ("command", "file_path", "filePath", "path", "pattern", "query", "url", "description", "prompt")
_SHOWN_LEVELS: Final = frozenset({"info", "warning", "error"})


class Piece(NamedTuple):
    """`is_answer`: what the agent says to the person; everything else is how it got there."""

    text: str
    style: str = ""
    is_answer: bool = False


class _Speech:
    """A message or a thought that is being streamed. Of what was shown it keeps the length and a digest, so a text
    of any length can be compared with the whole that ends it.
    """

    def __init__(self) -> None:
        self.shown_chars = 0
        self.waiting = ""  # came, and is not shown yet
        self._digest = blake2b()

    def show(self, text: str) -> str:
        self._digest.update(text.encode("utf-8", "surrogatepass"))
        self.shown_chars += len(text)
        return text

    def rest_of(self, whole: str) -> str | None:
        """What of the whole text was not shown; None when what was shown is not its beginning."""
        beginning = whole[: self.shown_chars].encode("utf-8", "surrogatepass")
        return whole[self.shown_chars :] if blake2b(beginning).digest() == self._digest.digest() else None


SPACE: Final = Piece("\n")  # between the answer and the rest, where both are on one terminal


class Story:
    """One task's events, told in order."""

    def __init__(self, *, cells: int = 80, live: bool = True, ends: bool = False) -> None:
        """`ends`: it tells the end too; otherwise that is left to `closing`."""
        self._cells = max(20, cells)
        self._live = live
        self._ends = ends
        self._speeches = {"message": _Speech(), "thinking": _Speech()}
        self._open: str | None = None  # whose text stands on an unfinished line, or is being streamed
        self._at_start = True  # of a line
        self._last = ""  # what was told last: an empty line stands between the answer and the rest
        self._calls: dict[str, str] = {}  # tool calls that were told, by id
        self.usage: dict[str, Any] = {}
        self.has_answered = False

    def tell(self, event: EventRecord) -> list[Piece]:
        data = event.data if isinstance(event.data, dict) else {}
        content = event.content if isinstance(event.content, str) else ""
        if event.type in self._speeches:
            return self._speech(event.type, content, data)
        if event.type == "usage":
            self.usage = data
            return []
        told = self._line(event.type, content, data)
        return [*self.close(), *self._space("line"), *told] if told else []

    def go_live(self, live: bool) -> None:
        """From now on the text comes as it is written."""
        self._live = live

    def close(self) -> list[Piece]:
        """End what stands on an unfinished line."""
        if self._open is None:
            return []
        kind, speech = self._open, self._speeches[self._open]
        rest = speech.show(speech.waiting)
        speech.waiting = ""
        pieces = self._say(kind, rest) if rest else []
        if not self._at_start:
            pieces.append(self._piece(kind, "\n"))
        self._open = None
        self._at_start = True
        return pieces

    # --- messages and thoughts

    def _speech(self, kind: str, content: str, data: dict[str, Any]) -> list[Piece]:
        speech = self._speeches[kind]
        pieces = self.close() if self._open not in (None, kind) else []
        if data.get("delta") is True:
            if not content:
                return pieces
            self._open = kind
            speech.waiting += content
            end = len(speech.waiting) if self._live else speech.waiting.rfind("\n") + 1
            now, speech.waiting = speech.waiting[:end], speech.waiting[end:]
            return [*pieces, *self._say(kind, speech.show(now))] if now else pieces
        return [*pieces, *self._whole(kind, content, cut_short=bool(data.get("truncated")))]

    def _whole(self, kind: str, content: str, *, cut_short: bool) -> list[Piece]:
        """The text that ends a message: say what the deltas did not."""
        speech = self._speeches[kind]
        self._speeches[kind] = _Speech()
        if cut_short and (speech.shown_chars or speech.waiting):
            rest: str | None = speech.waiting  # the deltas had all of it
        else:
            rest = speech.rest_of(content)
        pieces: list[Piece] = []
        if rest is None:  # what was shown is another text: say the whole on lines of its own
            speech.waiting = ""
            pieces += self._end_line(kind)
            rest = content
        pieces += self._say(kind, rest) if rest else []
        pieces += self._end_line(kind)
        if cut_short and not speech.shown_chars:
            pieces.append(Piece("  (cut: the whole text is longer)\n", "dim"))
        self._open = None
        return pieces

    def _end_line(self, kind: str) -> list[Piece]:
        if self._at_start:
            return []
        self._at_start = True
        return [self._piece(kind, "\n")]

    def _say(self, kind: str, text: str) -> list[Piece]:
        if kind == "message" and text.strip():
            self.has_answered = True
        shown = harmless(text)
        if kind == "thinking" and self._at_start:
            shown = shown.lstrip("\n")
        if not shown:
            return []
        space = self._space(kind)
        self._at_start = shown.endswith("\n")
        return [*space, self._piece(kind, shown)]

    def _space(self, kind: str) -> list[Piece]:
        is_turn = bool(self._last) and (self._last == "message") != (kind == "message")
        self._last = kind
        return [SPACE] if is_turn else []

    @staticmethod
    def _piece(kind: str, text: str) -> Piece:
        return Piece(text, "", True) if kind == "message" else Piece(text, "thinking")

    # --- everything that is one line

    def _line(self, kind: str, content: str, data: dict[str, Any]) -> list[Piece]:
        match kind:
            case "tool_call":
                return self._tool_call(data)
            case "tool_result":
                return self._tool_result(content, data)
            case "file_change":
                sign = CHANGE_SIGN.get(str(data.get("op")), "±")
                return [self._fitting(f"  {sign} {one_line(str(data.get('path', '')))}{_changed(data)}", "good")]
            case "approval":
                return self._approval(content, data)
            case "input" if data.get("state") == "refused":
                return [Piece(f"✗ {harmless(content).strip()}\n", "bad")]
            case "input":
                return [self._fitting(f"> {one_line(content)}", "input")]
            case "error":
                code = one_line(str(data.get("code") or ""))
                tail = f" ({code})" if code else ""
                return [Piece(f"✗ {harmless(content).strip() or 'error'}{tail}\n", "bad")]
            case "log":
                if str(data.get("level", "info")) not in _SHOWN_LEVELS or not content.strip():
                    return []
                style = {"error": "bad", "warning": "warn"}.get(str(data.get("level")), "dim")
                return [self._fitting(f"· {one_line(content)}", style)]
            case "status":
                if not self._ends and str(data.get("status")) in FINAL:
                    return []
                return [self._fitting(f"· {one_line(content or str(data.get('status', '')))}", "dim")]
            case "question":
                return [Piece(f"? {harmless(content).strip()}\n", "warn")]
            case "diff":
                return [self._fitting(f"± diff: {count(len(content.splitlines()), 'line')}", "dim")]
            case _:
                return [self._fitting(f"· {one_line(kind)} {one_line(content)}".rstrip(), "dim")]

    def _fitting(self, text: str, style: str = "") -> Piece:
        return Piece(cut(text, self._cells) + "\n", style)

    def _tool_call(self, data: dict[str, Any]) -> list[Piece]:
        sign = TOOL_SIGN.get(str(data.get("kind")), "•")
        name = one_line(str(data.get("name") or "tool"))
        about = short_input(data)
        line = f"{sign} {name}  {about}".rstrip()
        key = str(data.get("id") or "")
        if key and self._calls.get(key) == line:
            return []  # said again
        if key:
            self._calls[key] = line
        return [self._fitting(line, "bold")]

    def _tool_result(self, content: str, data: dict[str, Any]) -> list[Piece]:
        lines = [line for line in harmless(content).splitlines() if line.strip()]
        first = one_line(lines[0]) if lines else "no output"
        more = f" (+{count(len(lines) - 1, 'line')})" if len(lines) > 1 else ""
        code = data.get("exitCode")
        if data.get("ok") is False:
            failed = f"exit code {code}: " if isinstance(code, int) and code else "failed: "
            return [self._with_tail(f"  ✗ {failed}{first}", more, "bad")]
        return [self._with_tail(f"  ✓ {first}", more, "dim")]

    def _with_tail(self, text: str, tail: str, style: str) -> Piece:
        return Piece(cut(text, self._cells - len(tail)) + tail + "\n", style)

    def _approval(self, content: str, data: dict[str, Any]) -> list[Piece]:
        allowed = data.get("decision") == "allow"
        asked = one_line(content or str(data.get("tool") or "something"))
        why = one_line(str(data.get("reason") or ""))
        head = "allowed" if allowed else "denied"
        tail = f" ({why})" if why else ""
        return [self._fitting(f"{'✓' if allowed else '⊘'} {head}: {asked}{tail}", "dim" if allowed else "warn")]


def short_input(data: dict[str, Any]) -> str:
    """What a tool call is about, on one line.

    >>> short_input({"name": "Bash", "input": {"command": "ls -l", "description": "look"}})
    'ls -l'
    """
    arguments = data.get("input")
    if isinstance(arguments, dict):
        for name in _TELLING:
            if isinstance(value := arguments.get(name), str) and value.strip():
                return one_line(value[:500])
    title = one_line(str(data.get("title") or "")[:500])
    name = one_line(str(data.get("name") or ""))
    if title and title != name:
        return title.removeprefix(f"{name}: ")
    if isinstance(arguments, str):
        return one_line(arguments[:500])
    return one_line(json.dumps(arguments, ensure_ascii=False)[:500]) if arguments else ""


def _changed(data: dict[str, Any]) -> str:
    """(+3 -1), from the diff."""
    diff = data.get("diff")
    if not isinstance(diff, str):
        return ""
    lines = [line for line in diff.splitlines() if not line.startswith(("+++", "---"))]
    plus, minus = (sum(line.startswith(sign) for line in lines) for sign in "+-")
    return f" (+{plus} -{minus})" if plus or minus else ""


def closing(
    task: Task, usage: dict[str, Any], host_name: str | None, *, fold: Callable[[str], str] = str
) -> list[Piece]:
    """The last line: how it ended, where, how long, for how much; and what a person may do about it, folded."""
    parts = [f"{STATE_SIGN[task.status]} {task.status}"]
    if task.reason and task.status is not TaskState.COMPLETED:
        parts[0] += f" ({one_line(task.reason)})"
    if task.started_at is not None and task.ended_at is not None:
        parts.append(lasted(task.ended_at - task.started_at))
    if host_name or task.host_id:
        parts.append(f"on {one_line(host_name or task.host_id or '')}")
    parts += spent(usage)
    parts.append(task.id)
    pieces = [Piece(" · ".join(parts) + "\n", STATE_STYLE[task.status])]
    if task.detail and task.status is not TaskState.COMPLETED:
        pieces.append(Piece(fold(f"  {harmless(task.detail).strip()}") + "\n"))
    return pieces


def spent(usage: dict[str, Any]) -> list[str]:
    """
    >>> spent({"inputTokens": 1200, "outputTokens": 30, "costUsd": 0.0123})
    ['1,200 in 30 out', '$0.0123']
    """
    parts = []
    taken, given, cost = (usage.get(name) for name in ("inputTokens", "outputTokens", "costUsd"))
    if isinstance(taken, int) and isinstance(given, int) and taken + given > 0:
        parts.append(f"{taken:,} in {given:,} out")
    if isinstance(cost, int | float) and cost > 0:
        parts.append(f"${cost:.4f}" if cost < 1 else f"${cost:.2f}")
    return parts
