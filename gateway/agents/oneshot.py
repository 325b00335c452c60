"""The agents' one-shot modes: the prompt on stdin, events on stdout, no conversation. A fallback for a host's owner.

Chosen by a setting of the host, in the place of the usual kind, when a release of an agent breaks its protocol.
What is lost: follow-up input, a polite cancel, asks (each agent denies in its own way what it would ask; where it
says so it is an `approval` event), and with opencode and gemini the thinking or the pieces of an answer.

stdout is a file: opencode and gemini exit without waiting for what a pipe has not taken yet.
Success is a terminal event, never the exit code: gemini exits with 0 when it is interrupted.
"""

import posixpath
from collections.abc import Mapping
from typing import Any, Final

from gateway.agents import claude, events, gemini, opencode
from gateway.agents.base import AgentKind, Driver, End, Launch, RunSpec, StdinMode
from gateway.agents.fold import Answer, Fold, ToolCall, ToolCalls, kept
from gateway.agents.loose import fields, number, parse, text, whole
from gateway.agents.reasons import RETRYABLE, provider_words, reason_of
from shared_types.events import AgentEvent
from shared_types.tasks import PermissionMode, Reason


def _prompt(spec: RunSpec) -> bytes:
    return spec.prompt.encode("utf-8", "replace")


class ClaudeOnce(claude.ClaudeDriver):
    """`claude -p`: the same events as in a conversation."""

    takes_input = False

    def __init__(self, spec: RunSpec) -> None:
        super().__init__(spec)
        self.unwrite(claude.PROMPT)

    def launch(self) -> Launch:
        """`@file` and `/command` in a prompt are off: as text, a prompt has no mark that says it is only data."""
        usual = super().launch()
        conversation = {"--input-format": 2, "--permission-prompt-tool": 2}
        argv: list[str] = []
        skip = 0
        for part in usual.argv:
            skip = max(skip - 1, 0) or conversation.get(part, 0)
            if not skip:
                argv.append(part)
        return Launch(
            argv=(*argv, "--disable-slash-commands"),
            env={**usual.env, "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1"},
            files=usual.files,
            stdin_mode=StdinMode.ONCE,
            stdin=_prompt(self.spec),
            stdout_to_file=True,
        )


class _Once(Fold):
    """One run that cannot be spoken with; its stdout is JSON Lines."""

    takes_input = False

    def __init__(self, spec: RunSpec) -> None:
        super().__init__(spec)
        self._calls = ToolCalls()
        self._over = False

    @property
    def is_done(self) -> bool:
        return self._over or self.cancelling

    def on_line(self, line: str) -> list[AgentEvent]:
        said = parse(line)
        if not isinstance(said, dict):
            return [events.log(self.at, line, "debug")] if line.strip() else []
        return self.on_event(text(said.get("type")), said)

    def on_event(self, kind: str, said: Mapping[str, Any]) -> list[AgentEvent]:
        raise NotImplementedError

    def _changed(self, arguments: Mapping[str, Any], op: str = "update", diff: str | None = None) -> list[AgentEvent]:
        """The file that a writing tool was given."""
        named = (text(arguments.get(name)) for name in ("filePath", "file_path", "path"))
        path = next(filter(None, named), "")
        if not path:
            return []
        path = events.within(self.spec.cwd, posixpath.join(self.spec.cwd, path))
        self.files.add(path)
        return [events.file_change(self.at, path, op, diff)]


# --- opencode ---------------------------------------------------------------------------------------

_OPENCODE_KINDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("read", "list"), "read"),
    **dict.fromkeys(("write", "edit", "patch", "apply_patch"), "edit"),
    "bash": "execute",
    **dict.fromkeys(("glob", "grep", "websearch", "codesearch"), "search"),
    "webfetch": "fetch",
    **dict.fromkeys(("task", "todowrite", "todoread"), "think"),
}
_REJECTED: Final = "! permission requested: "


class OpencodeOnce(_Once):
    """`opencode run`: whole texts, and tools when they have ended. A denied ask ends it, without a last text."""

    def launch(self) -> Launch:
        spec = self.spec
        argv = [spec.executable, "run", "--format", "json", "--thinking", "--print-logs", "--log-level", "ERROR"]
        argv += ["--model", spec.model] if spec.model else []
        argv += ["--agent", "plan"] if spec.mode is PermissionMode.PLAN else []
        argv += ["--auto"] if spec.mode is PermissionMode.BYPASS else []
        return Launch(
            argv=tuple(argv),
            env=opencode.environment(spec, answers=False),
            files=opencode.files(spec),
            stdin_mode=StdinMode.ONCE,
            stdin=_prompt(spec),
            stdout_to_file=True,
            first_output_s=90.0,  # a retried model is silent
        )

    def on_event(self, kind: str, said: Mapping[str, Any]) -> list[AgentEvent]:
        self.session_id = text(said.get("sessionID")) or self.session_id
        part = fields(said.get("part"))
        match kind:
            case "text":
                self.answer = text(part.get("text"))
                return [events.message(self.at, self.answer, delta=False)]
            case "reasoning":
                return [events.thinking(self.at, text(part.get("text")), delta=False)]
            case "tool_use":
                return self._on_tool(part)
            case "step_finish":
                return self._on_step(part)
            case "error":
                return [self._failed(fields(said.get("error")))]
        return []

    def _on_tool(self, part: Mapping[str, Any]) -> list[AgentEvent]:
        """A tool is heard of when it has ended: its call and its result come together."""
        call_id, name = text(part.get("callID")), text(part.get("tool")) or "tool"
        state = fields(part.get("state"))
        arguments, kind = fields(state.get("input")), _OPENCODE_KINDS.get(name, "other")
        metadata = fields(state.get("metadata"))
        exit_code = whole(metadata.get("exit"))
        ok = state.get("status") == "completed" and not exit_code
        output = text(state.get("output")) or text(state.get("error"))
        title = events.title_of(name, arguments)
        made = [
            events.tool_call(self.at, call_id, name, kind, title, arguments),
            events.tool_result(self.at, call_id, output, ok=ok, exit_code=exit_code),
        ]
        if ok:
            self.note_success()
            if kind == "edit":
                op = "create" if metadata.get("exists") is False else "update"
                diff = text(fields(metadata.get("filediff")).get("patch")) or text(metadata.get("diff")) or None
                made += self._changed(arguments, op, diff)
        return made

    def _on_step(self, part: Mapping[str, Any]) -> list[AgentEvent]:
        """A step ends with tool calls and goes on, or with `stop`: that is the end."""
        tokens = fields(part.get("tokens"))
        cached = fields(tokens.get("cache"))
        before = self.usage
        self.usage = events.used(
            before.get("inputTokens", 0) + (whole(tokens.get("input")) or 0),
            before.get("outputTokens", 0) + (whole(tokens.get("output")) or 0),
            before.get("cachedTokens", 0) + (whole(cached.get("read")) or 0),
            before.get("costUsd", 0.0) + (number(part.get("cost")) or 0.0),
            self.spec.model or "",
        )
        reason = text(part.get("reason"))
        made = [events.usage(self.at, self.usage)]
        if reason == "stop":
            self._over, self.end = True, End.OK
        elif reason not in ("tool-calls", "tool_calls", "unknown", ""):
            self._over = True
            made.append(self.fail(Reason.AGENT_ERROR, f"The model stopped with {reason}."))
        return made

    def _failed(self, fault: Mapping[str, Any]) -> AgentEvent:
        self._over = True
        data = fields(fault.get("data"))
        sentence = text(data.get("message")) or text(fault.get("name")) or "opencode reported an error."
        reason = reason_of(sentence, whole(data.get("statusCode")), text(fault.get("name")))
        return self.fail(reason, sentence, retryable=data.get("isRetryable") is True)

    def on_error_line(self, line: str) -> list[AgentEvent]:
        """A rejected ask is told here alone: `! permission requested: bash (touch k1); auto-rejecting`."""
        line = self.keep_error(line)
        if not line:
            return []
        if line.startswith(_REJECTED):
            asked = line[len(_REJECTED) :].removesuffix("; auto-rejecting")
            tool = asked.split(" ", 1)[0]
            self.note_denied(tool)
            why = f"permission mode {self.spec.mode}"
            return [events.approval(self.at, "", tool, asked, None, allowed=False, mode=self.spec.mode, reason=why)]
        failure = opencode.stream_error(line)
        if failure:
            return [events.log(self.at, f"the model failed: {failure}", "warning")]
        return [events.log(self.at, line, "debug", "stderr")]

    def on_exit(self) -> list[AgentEvent]:
        """Denied, it goes without a last step: it has said all that it had to say."""
        if self.end is End.NONE and self.gave_up:
            self.end, self.error = End.OK, None
        return []


# --- gemini -----------------------------------------------------------------------------------------

_GEMINI_KINDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("read_file", "read_many_files", "list_directory"), "read"),
    **dict.fromkeys(("write_file", "replace", "edit"), "edit"),
    "run_shell_command": "execute",
    **dict.fromkeys(("glob", "search_file_content", "grep_search", "google_web_search"), "search"),
    "web_fetch": "fetch",
}
_GEMINI_MODES: Final[Mapping[PermissionMode, str]] = {
    PermissionMode.DEFAULT: "default",
    PermissionMode.ACCEPT_EDITS: "auto_edit",
    PermissionMode.PLAN: "plan",
    PermissionMode.BYPASS: "yolo",
    PermissionMode.DENY: "default",
}
_DENIALS: Final = frozenset({"policy_violation", "tool_not_registered"})


class GeminiOnce(_Once):
    """`gemini --output-format stream-json`. Tools that would ask are not there at all: the model hears so.

    Without `--skip-trust` it does not start. In this mode it reads the settings before that counts and not again, so
    the repository's hooks and MCP servers stay away, and the guard hides its `.env`.
    """

    def __init__(self, spec: RunSpec) -> None:
        super().__init__(spec)
        self._words = Answer()

    def launch(self) -> Launch:
        spec = self.spec
        argv = [spec.executable, "--output-format", "stream-json", "--skip-trust"]
        argv += ["--approval-mode", _GEMINI_MODES[spec.mode], *(("-m", spec.model) if spec.model else ())]
        return Launch(
            argv=tuple(argv),
            env=gemini.environment(spec),
            files=gemini.files(spec),
            stdin_mode=StdinMode.ONCE,
            stdin=_prompt(spec),
            stdout_to_file=True,
            first_output_s=30.0,
        )

    def on_event(self, kind: str, said: Mapping[str, Any]) -> list[AgentEvent]:
        match kind:
            case "init":
                self.session_id = text(said.get("session_id"))
            case "message" if said.get("role") == "assistant":
                words = text(said.get("content"))
                self._words.add(words)
                return [events.message(self.at, words, delta=True)] if words else []
            case "tool_use":
                return [*self._settle(), self._on_call(said)]
            case "tool_result":
                return self._on_tool_result(said)
            case "result":
                return [*self._settle(), *self._on_result(said)]
        return []

    def _settle(self) -> list[AgentEvent]:
        words = self._words.take()
        if not words:
            return []
        self.answer = words
        return [events.message(self.at, words, delta=False)]

    def _on_call(self, said: Mapping[str, Any]) -> AgentEvent:
        call_id, name = text(said.get("tool_id")), text(said.get("tool_name")) or "tool"
        arguments, kind = fields(said.get("parameters")), _GEMINI_KINDS.get(name, "other")
        self._calls.put(call_id, ToolCall(name, kind, kept(arguments)))
        return events.tool_call(self.at, call_id, name, kind, events.title_of(name, arguments), arguments)

    def _on_tool_result(self, said: Mapping[str, Any]) -> list[AgentEvent]:
        call_id, ok, fault = text(said.get("tool_id")), said.get("status") == "success", fields(said.get("error"))
        call = self._calls.pop(call_id, ToolCall("tool", "other"))
        made = []
        if text(fault.get("type")) in _DENIALS:
            self.note_denied(call.name)
            why = text(fault.get("message")) or f"permission mode {self.spec.mode}"
            given, mode = call.arguments, self.spec.mode
            title, reason = events.title_of(call.name, given), events.one_line(why)
            made.append(
                events.approval(self.at, call_id, call.name, title, given, allowed=False, mode=mode, reason=reason)
            )
        output = text(said.get("output")) or text(fault.get("message"))
        made.append(events.tool_result(self.at, call_id, output, ok=ok))
        if ok:
            self.note_success()
            if call.kind == "edit":
                made += self._changed(call.arguments)
        return made

    def _on_result(self, said: Mapping[str, Any]) -> list[AgentEvent]:
        self._over = True
        stats, fault = fields(said.get("stats")), fields(said.get("error"))
        made = []
        if stats:
            self.usage = events.used(
                whole(stats.get("input_tokens")),
                whole(stats.get("output_tokens")),
                whole(stats.get("cached")),
                model=self.spec.model or "",
            )
            made.append(events.usage(self.at, self.usage))
        if said.get("status") == "success":
            self.end = End.OK
        else:
            sentence = provider_words(text(fault.get("message"))) or "gemini reported an error."
            reason = reason_of(sentence, None, text(fault.get("type")))
            made.append(self.fail(reason, sentence, retryable=reason in RETRYABLE))
        return made

    def on_error_line(self, line: str) -> list[AgentEvent]:
        line = self.keep_error(line)
        return [events.log(self.at, line, "debug", "stderr")] if line else []

    def on_exit(self) -> list[AgentEvent]:
        return self._settle()


# --- kinds ------------------------------------------------------------------------------------------


class ClaudeOnceKind(claude.ClaudeKind):
    def driver(self, spec: RunSpec) -> Driver:
        return ClaudeOnce(spec)


class OpencodeOnceKind(opencode.OpencodeKind):
    def driver(self, spec: RunSpec) -> Driver:
        return OpencodeOnce(spec)


class GeminiOnceKind(gemini.GeminiKind):
    instruction_files = ()  # it trusts the repository enough to read them

    def driver(self, spec: RunSpec) -> Driver:
        return GeminiOnce(spec)


KINDS: Final[Mapping[str, AgentKind]] = {
    kind.name: kind for kind in (ClaudeOnceKind(), OpencodeOnceKind(), GeminiOnceKind())
}
