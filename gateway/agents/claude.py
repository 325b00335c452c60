"""Claude Code by its own stream-json protocol: a conversation in lines of JSON on stdin and stdout.

How it is started, and why:
* The prompt is a line on stdin with `client_composed`: it reaches the model as it was written, without `@file` and
  `/command`. Raw text on this stdin would kill the process; everything is wrapped here.
* `--setting-sources user --strict-mcp-config`: hooks, MCP servers and settings of a stranger's repository are not
  loaded. So CLAUDE.md is not either; its text (advice, not code) comes back as `RunSpec.instructions`. What the
  host's owner has under `~/.claude` counts, the login too: no private configuration directory hides it.
* `--permission-prompt-tool stdio`: what it asks comes as a `control_request`, is answered at once by the task's
  permission mode, and is an `approval` event. No ask stays without an answer, also none of a kind we do not know.
* Background jobs are off: a job would hold the process after the last result for as long as it likes.
* Retries of the model's failures are bounded (its own ten take three minutes), unless the owner set them.
* As root it refuses to bypass permissions unless IS_SANDBOX=1: that is the owner's to say, never ours.

The end of the work is a `result` after which nothing we wrote is open; then stdin is closed and it exits.
Follow-up input is written at once: during a tool it is folded into the turn, else it is the next turn.
"""

import posixpath
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from gateway.agents import events
from gateway.agents.base import Driver, End, Launch, RunSpec
from gateway.agents.fold import SAY, Fold, ToolCall, ToolCalls
from gateway.agents.lines import decode
from gateway.agents.loose import fields, items, number, parse, text, unparse, whole
from gateway.agents.reasons import RETRYABLE, reason_of
from shared_types.events import AgentEvent
from shared_types.tasks import PermissionMode, Reason

MAX_RETRIES: Final = "4"
PROMPT: Final = "prompt"
CANCEL: Final = "cancel"

ENV_NAMES: Final = (
    *("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_CUSTOM_HEADERS"),
    *("ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL"),
    *("ANTHROPIC_DEFAULT_OPUS_MODEL", "ANTHROPIC_DEFAULT_SONNET_MODEL", "ANTHROPIC_BEDROCK_BASE_URL"),
    *("ANTHROPIC_VERTEX_BASE_URL", "ANTHROPIC_VERTEX_PROJECT_ID", "CLOUD_ML_REGION", "AWS_REGION", "AWS_PROFILE"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK"),
    *("GOOGLE_APPLICATION_CREDENTIALS", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CODE_USE_BEDROCK"),
    *("CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_MAX_RETRIES", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"),
    *("CLAUDE_CONFIG_DIR", "API_TIMEOUT_MS", "IS_SANDBOX"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"),
)
_KEYS: Final = (
    *("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"),
    *("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX"),
)
CREDENTIALS: Final = ".claude/.credentials.json"
SETTINGS: Final = ".claude/settings.json"

MODES: Final[Mapping[PermissionMode, str]] = {
    PermissionMode.DEFAULT: "default",
    PermissionMode.ACCEPT_EDITS: "acceptEdits",
    PermissionMode.PLAN: "plan",
    PermissionMode.BYPASS: "bypassPermissions",
    # Not its `dontAsk`: an ask that we deny is one that everybody can see.
    PermissionMode.DENY: "default",
}

KINDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("Read", "NotebookRead", "LS"), "read"),
    **dict.fromkeys(("Write", "Edit", "MultiEdit", "NotebookEdit"), "edit"),
    **dict.fromkeys(("Bash", "BashOutput", "KillShell"), "execute"),
    **dict.fromkeys(("Glob", "Grep", "WebSearch", "ToolSearch"), "search"),
    "WebFetch": "fetch",
    **dict.fromkeys(("Task", "Agent", "TodoWrite", "ExitPlanMode", "EnterPlanMode"), "think"),
}

# Asks that are questions to a person, not needs: an answer exists when nobody is there.
_NOBODY: Final[Mapping[str, str]] = {
    "AskUserQuestion": "Nobody is here to answer. Decide yourself, and say what you assumed.",
    "ExitPlanMode": "Nobody is here to approve the plan, and nothing may be changed. Give the plan as your answer.",
}
_EXIT_CODE: Final = re.compile(r"Exit code (\d{1,3})\b")


class ClaudeKind:
    """Claude Code, as the catalogue knows it."""

    name = "claude-code"
    executables: tuple[str, ...] = ("claude",)
    version_argv: tuple[str, ...] = ("--version",)
    first_argv: tuple[str, ...] = ()
    env_names: tuple[str, ...] = ENV_NAMES
    login_files: tuple[str, ...] = (CREDENTIALS, SETTINGS)
    instruction_files: tuple[str, ...] = ("CLAUDE.md", ".claude/CLAUDE.md")

    def parse_version(self, output: str) -> str | None:
        """
        >>> ClaudeKind().parse_version("2.1.329 (Claude Code)")
        '2.1.329'
        """
        found = re.search(r"\b\d+\.\d+\.\d+\S*", output)
        return found.group() if found else None

    def logged_in(self, env: Mapping[str, str], existing: frozenset[str]) -> bool | None:
        """Settings may name a helper that fetches a key, so with them nobody can tell."""
        if CREDENTIALS in existing or any(env.get(name) for name in _KEYS):
            return True
        return None if SETTINGS in existing or env.get("CLAUDE_CONFIG_DIR") else False

    def supports(self, mode: PermissionMode, *, is_root: bool, env: Mapping[str, str] | None = None) -> str | None:
        if mode is PermissionMode.BYPASS and is_root and (env or {}).get("IS_SANDBOX") != "1":
            return (
                "claude refuses to bypass permissions as root: run the gateway as a normal user, or, where root can "
                "do no harm, set IS_SANDBOX=1 in the gateway's environment"
            )
        return None

    def driver(self, spec: RunSpec) -> Driver:
        return ClaudeDriver(spec)


class ClaudeDriver(Fold):
    """One conversation with Claude Code."""

    def __init__(self, spec: RunSpec) -> None:
        super().__init__(spec)
        self.session_id = spec.session_uuid
        self._open: dict[str, str] = {}  # what we wrote and it has not finished: uuid -> key
        self._inputs: dict[str, tuple[str, str]] = {}  # written and not taken: uuid -> (input id, text)
        self._calls = ToolCalls()
        self._asks = 0
        self._asked: dict[str, str] = {}  # asks whose answer is not in the journal: request id -> key
        self._greeted = False
        self._turn_is_over = False
        self._queued = 0
        self._failure = ""  # its name for the failure of the model, said before the result
        self.write(PROMPT, self._user_turn(PROMPT, spec.prompt))

    def launch(self) -> Launch:
        spec = self.spec
        argv = [
            *(spec.executable, "-p", "--verbose", "--input-format", "stream-json", "--output-format", "stream-json"),
            *("--include-partial-messages", "--permission-prompt-tool", "stdio"),
            *("--permission-mode", MODES[spec.mode], "--session-id", spec.session_uuid),
            *("--setting-sources", "user", "--strict-mcp-config"),
        ]
        files: dict[str, bytes] = {}
        if spec.model:
            argv += ["--model", spec.model]
        if spec.instructions:
            files["instructions.md"] = spec.instructions.encode("utf-8", "replace")
            argv += ["--append-system-prompt-file", "{private}/instructions.md"]
        env = {
            "DISABLE_AUTOUPDATER": "1",
            "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
            "CLAUDE_CODE_MAX_RETRIES": spec.host_env.get("CLAUDE_CODE_MAX_RETRIES", MAX_RETRIES),
        }
        return Launch(argv=tuple(argv), env=env, files=files)

    # --- what we write ------------------------------------------------------------------------------

    def _uuid(self, key: str) -> str:
        """The name of a user's turn; always the same, so that a new gateway knows it too."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.spec.session_uuid}/{key}"))

    def _user_turn(self, key: str, content: str) -> bytes:
        message = {"role": "user", "content": content}
        turn = {"type": "user", "message": message, "uuid": self._uuid(key), "client_composed": True}
        return unparse(turn) + b"\n"

    def said(self) -> None:
        for input_id, content in self._says.items():
            self.write(f"{SAY}{input_id}", self._user_turn(f"{SAY}{input_id}", content))

    def on_cancel(self) -> None:
        """An interrupt ends the turn; what was not written yet is not written any more."""
        for write in self.to_write():
            if write.key == PROMPT or write.key.startswith(SAY):
                self.unwrite(write.key)
        if self.was_written(PROMPT):
            request = {"type": "control_request", "request_id": CANCEL, "request": {"subtype": "interrupt"}}
            self.write(CANCEL, unparse(request) + b"\n")

    def on_written(self, key: str, data: bytes) -> list[AgentEvent]:
        if key == CANCEL:
            self.cancelling = True
        if key == PROMPT or key.startswith(SAY):
            self._open[self._uuid(key)] = key
        if key.startswith(SAY):
            said = fields(fields(parse(decode(data))).get("message"))
            self._inputs[self._uuid(key)] = (key[len(SAY) :], text(said.get("content")))
        if key.startswith("answer:"):
            self._asked = {ask: its for ask, its in self._asked.items() if its != key}
        return []

    @property
    def is_done(self) -> bool:
        if self.cancelling and not self.was_written(PROMPT):
            return True
        if not self._turn_is_over:
            return False
        return self.cancelling or not (self._open or self._says or self._queued)

    # --- hearing ------------------------------------------------------------------------------------

    def on_line(self, line: str) -> list[AgentEvent]:
        said = parse(line)
        if not isinstance(said, dict):
            return [events.log(self.at, line)] if line.strip() else []
        handler = _HEARD.get(text(said.get("type")))
        if handler is None:
            return [events.log(self.at, f"claude said something new: {line[:500]}", "debug")]
        return handler(self, said)

    def _on_nothing(self, said: Mapping[str, Any]) -> list[AgentEvent]:
        """Known, and nothing anybody needs to see."""
        return []

    def _on_progress(self, said: Mapping[str, Any]) -> list[AgentEvent]:
        seconds = whole(said.get("elapsed_time_seconds"))
        return [events.log(self.at, f"{text(said.get('tool_name'))} runs for {seconds} s", "debug")]

    def _on_withdrawn(self, said: Mapping[str, Any]) -> list[AgentEvent]:
        self.unwrite(self._asked.pop(text(said.get("request_id")), ""))
        return []

    def _on_delta(self, said: Mapping[str, Any]) -> list[AgentEvent]:
        if said.get("parent_tool_use_id") is not None:
            return []  # of an agent of the agent: its whole texts are logged
        delta = fields(fields(said.get("event")).get("delta"))
        match delta.get("type"):
            case "text_delta" if delta.get("text"):
                return [events.message(self.at, text(delta["text"]), delta=True)]
            case "thinking_delta" if delta.get("thinking"):
                return [events.thinking(self.at, text(delta["thinking"]), delta=True)]
        return []

    def _on_assistant(self, said: Mapping[str, Any]) -> list[AgentEvent]:
        if isinstance(said.get("error"), str):  # not the model's words; the result says it again
            self._failure = said["error"]
            return []
        helper = said.get("parent_tool_use_id") is not None
        made: list[AgentEvent] = []
        for block in map(fields, items(fields(said.get("message")).get("content"))):
            match block.get("type"):
                case "text" if helper:
                    made.append(events.log(self.at, text(block.get("text")), "debug"))
                case "text":
                    self.answer = text(block.get("text"))
                    made.append(events.message(self.at, self.answer, delta=False))
                case "thinking" if text(block.get("thinking")) and not helper:
                    made.append(events.thinking(self.at, text(block.get("thinking")), delta=False))
                case "tool_use":
                    made.append(self._tool_call(block))
        return made

    def _tool_call(self, block: Mapping[str, Any]) -> AgentEvent:
        call_id, name, arguments = text(block.get("id")), text(block.get("name")) or "tool", block.get("input")
        kind = KINDS.get(name, "other")
        self._calls.put(call_id, ToolCall(name, kind))
        return events.tool_call(self.at, call_id, name, kind, events.title_of(name, arguments), arguments)

    def _on_tool_results(self, said: Mapping[str, Any]) -> list[AgentEvent]:
        if said.get("isReplay") is True:
            return []
        made: list[AgentEvent] = []
        for block in map(fields, items(fields(said.get("message")).get("content"))):
            if block.get("type") != "tool_result":
                continue
            call_id, ok = text(block.get("tool_use_id")), block.get("is_error") is not True
            output = _output(block.get("content"))
            call = self._calls.pop(call_id, None)
            code = _EXIT_CODE.match(output) if not ok and call is not None and call.kind == "execute" else None
            exit_code = int(code.group(1)) if code else None
            made.append(events.tool_result(self.at, call_id, output, ok=ok, exit_code=exit_code))
            if ok:
                self.note_success()
        return made + self._file_change(fields(said.get("tool_use_result")))

    def _file_change(self, result: Mapping[str, Any]) -> list[AgentEvent]:
        op, path = result.get("type"), text(result.get("filePath"))
        if not path or (op not in ("create", "update", None)) or (op is None and "structuredPatch" not in result):
            return []
        path = events.within(self.spec.cwd, posixpath.join(self.spec.cwd, path))
        self.files.add(path)
        hunks = [hunk for hunk in map(_hunk, items(result.get("structuredPatch"))) if hunk]
        content = text(result.get("content"))
        diff = events.from_hunks(path, hunks) if hunks else events.unified(path, "", content) if content else None
        return [events.file_change(self.at, path, "create" if op == "create" else "update", diff)]

    def _on_system(self, said: Mapping[str, Any]) -> list[AgentEvent]:
        match said.get("subtype"):
            case "init":
                return self._on_init(said)
            case "api_retry":
                return [events.log(self.at, _retry(said), "warning")]
            case "permission_denied":
                return [self._denied_by_rule(said)]
            case "informational":
                return [events.log(self.at, text(said.get("content")))]
            case "task_started" | "task_notification" as kind:
                words = text(said.get("description")) or text(said.get("summary")) or text(said.get("status"))
                return [events.log(self.at, f"{kind}: {words}", "debug")]
        return []

    def _on_init(self, said: Mapping[str, Any]) -> list[AgentEvent]:
        self._turn_is_over = False
        self.session_id = text(said.get("session_id")) or self.session_id
        if self._greeted:
            return []
        self._greeted = True
        words = f"claude {text(said.get('claude_code_version'))}, model {text(said.get('model'))}"
        made = [events.log(self.at, words)]
        for server in map(fields, items(said.get("mcp_servers"))):
            if server.get("status") == "failed":
                words = f"MCP server {text(server.get('name'))} did not start"
                made.append(events.log(self.at, words, "warning"))
        return made

    def _on_lifecycle(self, said: Mapping[str, Any]) -> list[AgentEvent]:
        name, state = text(said.get("command_uuid")), said.get("state")
        if state == "started":
            self._turn_is_over = False
        if state == "completed":
            self._open.pop(name, None)
        return self._taken(name) if state in ("started", "completed") else []

    def _taken(self, name: str) -> list[AgentEvent]:
        taken = self._inputs.pop(name, None)
        return [events.input_taken(self.at, *taken)] if taken else []

    # --- what it asks -------------------------------------------------------------------------------

    def _on_ask(self, said: Mapping[str, Any]) -> list[AgentEvent]:
        self._asks += 1
        key, request_id, request = f"answer:{self._asks}", said.get("request_id"), fields(said.get("request"))
        if request.get("subtype") != "can_use_tool":
            subtype = text(request.get("subtype"))
            self._answer(key, request_id, subtype="error", error=f"{subtype or 'this'} is not supported here")
            return [events.log(self.at, f"claude asked for {subtype}, which is not supported", "warning")]
        tool, arguments = text(request.get("tool_name")) or "tool", request.get("input")
        mode = self.spec.mode
        if mode is PermissionMode.BYPASS and tool != "AskUserQuestion":
            allowed, why = True, "permission mode bypass"
            response: dict[str, Any] = {"behavior": "allow", "updatedInput": arguments}
        else:
            allowed, why = False, _NOBODY.get(tool, _refusal(mode))
            response = {"behavior": "deny", "message": why}
            if tool not in _NOBODY:
                self.note_denied(tool)
        self._answer(key, request_id, subtype="success", response=response)
        ask_id = text(request.get("tool_use_id")) or text(request_id)
        title = events.title_of(tool, arguments)
        return [events.approval(self.at, ask_id, tool, title, arguments, allowed=allowed, mode=mode, reason=why)]

    def _answer(self, key: str, request_id: object, **body: Any) -> None:
        response = {"type": "control_response", "response": {"request_id": request_id, **body}}
        if self.write(key, unparse(response) + b"\n") and isinstance(request_id, str):
            self._asked[request_id] = key

    def _denied_by_rule(self, said: Mapping[str, Any]) -> AgentEvent:
        """Denied without an ask: by a rule of the owner's, or because nobody can be asked."""
        tool = text(said.get("tool_name")) or "tool"
        self.note_denied(tool)
        why = text(said.get("message")) or text(said.get("decision_reason_type"))
        call_id = text(said.get("tool_use_id"))
        return events.approval(
            self.at, call_id, tool, tool, None, allowed=False, mode=self.spec.mode, reason=events.one_line(why)
        )

    def _on_response(self, said: Mapping[str, Any]) -> list[AgentEvent]:
        response = fields(said.get("response"))
        if response.get("subtype") == "error":
            return [events.log(self.at, f"claude refused a request: {text(response.get('error'))}", "warning")]
        return []

    # --- the end of a turn --------------------------------------------------------------------------

    def _on_result(self, said: Mapping[str, Any]) -> list[AgentEvent]:
        self._turn_is_over = True
        self._queued = whole(said.get("queued_turn_count")) or 0
        self.session_id = text(said.get("session_id")) or self.session_id
        answered = [text(name) for name in items(said.get("user_message_uuids"))] or list(self._open)
        made: list[AgentEvent] = []
        for name in answered:
            made += self._taken(name)
            self._open.pop(name, None)
        made += self._usage(said)
        self._note_denials(items(said.get("permission_denials")))
        if text(said.get("terminal_reason")).startswith("aborted") or (
            self.cancelling and said.get("is_error") is True
        ):
            self.end, self.reason, self.error = End.CANCELLED, None, None
        elif said.get("is_error") is True or said.get("subtype") != "success":
            made.append(self._failed(said))
        elif said.get("stop_reason") == "refusal":
            made.append(self.fail(Reason.REFUSAL, text(said.get("result")) or "The model refused."))
        else:
            self.end, self.reason, self.error = End.OK, None, None
            self.answer = text(said.get("result")) or self.answer
        self._failure = ""
        return made

    def _failed(self, said: Mapping[str, Any]) -> AgentEvent:
        told = "; ".join(filter(None, map(text, items(said.get("errors")))))
        sentence = text(said.get("result")) or told or f"claude ended its turn with {text(said.get('subtype'))}"
        if said.get("subtype") == "error_max_turns":
            reason = Reason.MAX_TURNS
        else:
            reason = reason_of(sentence, whole(said.get("api_error_status")), self._failure)
        return self.fail(reason, sentence, retryable=reason in RETRYABLE)

    def _note_denials(self, denials: Sequence[Any]) -> None:
        """Those that were not seen when they happened, if any."""
        for denial in map(fields, denials):
            tool = text(denial.get("tool_name")) or "tool"
            if tool not in self.denied and tool not in _NOBODY:
                self.note_denied(tool)

    def _usage(self, said: Mapping[str, Any]) -> list[AgentEvent]:
        models = fields(said.get("modelUsage"))
        if not models:
            return []
        counts = [fields(used) for used in models.values()]

        def total(key: str) -> int:
            return sum(whole(used.get(key)) or 0 for used in counts)

        fresh, cached = total("inputTokens"), total("cacheReadInputTokens")
        self.usage = events.used(
            fresh + cached + total("cacheCreationInputTokens"),
            total("outputTokens"),
            cached,
            number(said.get("total_cost_usd")),
            text(next(iter(models))),
        )
        return [events.usage(self.at, self.usage)]


# Its lines by their `type`; what becomes of each is a row in docs/agents.md.
_HEARD: Final[Mapping[str, Callable[[ClaudeDriver, Mapping[str, Any]], list[AgentEvent]]]] = {
    "stream_event": ClaudeDriver._on_delta,
    "assistant": ClaudeDriver._on_assistant,
    "user": ClaudeDriver._on_tool_results,
    "system": ClaudeDriver._on_system,
    "control_request": ClaudeDriver._on_ask,
    "control_cancel_request": ClaudeDriver._on_withdrawn,
    "control_response": ClaudeDriver._on_response,
    "command_lifecycle": ClaudeDriver._on_lifecycle,
    "tool_progress": ClaudeDriver._on_progress,
    "result": ClaudeDriver._on_result,
    "keep_alive": ClaudeDriver._on_nothing,
    "conversation_reset": ClaudeDriver._on_nothing,
}


def _refusal(mode: PermissionMode) -> str:
    return (
        f"Denied: this task runs in permission mode {mode} and nobody is asked. Do without it, or say what is missing."
    )


def _output(content: Any) -> str:
    """The text of a tool's result; what is not text is named."""
    if isinstance(content, str):
        return text(content)
    blocks = [fields(block) for block in items(content)]
    return "\n".join(text(b["text"]) if "text" in b else f"[{text(b.get('type')) or 'something'}]" for b in blocks)


def _hunk(value: Any) -> tuple[int, int, int, int, list[str]] | None:
    hunk = fields(value)
    numbers = [whole(hunk.get(name)) for name in ("oldStart", "oldLines", "newStart", "newLines")]
    old, olds, new, news = (n if n is not None else -1 for n in numbers)
    lines = [text(line) for line in items(hunk.get("lines"))]
    return (old, olds, new, news, lines) if min(old, olds, new, news) >= 0 and lines else None


def _retry(said: Mapping[str, Any]) -> str:
    status, tries = whole(said.get("error_status")), f"{whole(said.get('attempt'))} of {whole(said.get('max_retries'))}"
    what = f"answered {status}" if status is not None else "did not answer"
    wait = whole(said.get("retry_delay_ms")) or number(said.get("retry_delay_ms"))
    return f"the model {what} ({text(said.get('error'))}); try {tries} again in {round(wait or 0)} ms"


KIND: Final = ClaudeKind()
