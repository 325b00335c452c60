"""Any agent that speaks the Agent Client Protocol (https://agentclientprotocol.com, version 1): JSON-RPC in lines.

    initialize -> session/new -> what the agent still has to be told (`setup`) -> session/prompt -> ... -> its answer

The part of the protocol that we need is small, and is here as plain JSON: no SDK, because the program is started
and listened to by a keeper. We offer nothing (`fs`, `terminal` are false), so an agent can ask only for permission;
whatever else it asks is answered with an error (opencode tells an editor of each edit that was allowed, and does
not need it), and no ask stays without an answer.

The id of each request is the key of its write, so the journal alone says which answers are still to come.
Follow-up input waits until the turn is over: one agent would throw the running turn away for it, another sometimes
never answers it. Texts come in pieces without an end; a message ends when something else begins.

Invariant: after the answer to the last prompt, with no input left, the conversation is over.
"""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from gateway.agents import events
from gateway.agents.base import End, RunSpec
from gateway.agents.fold import SAY, Answer, Fold, Names, ToolCall, ToolCalls, kept
from gateway.agents.lines import decode
from gateway.agents.loose import fields, items, number, parse, text, unparse, whole
from gateway.agents.reasons import RETRYABLE, provider_words, reason_of
from shared_types.events import AgentEvent, EventType
from shared_types.tasks import PermissionMode, Reason

PROTOCOL_VERSION: Final = 1
INITIALIZE, NEW, SETUP, PROMPT, CANCEL, GIVE_UP = "initialize", "new", "setup", "prompt", "cancel", "give-up"
METHOD_NOT_FOUND: Final = -32601
AUTH_REQUIRED: Final = -32000

KINDS: Final[Mapping[str, str]] = {
    **{kind: kind for kind in ("read", "edit", "execute", "search", "fetch", "think")},
    "delete": "edit",
    "move": "edit",
}
_PROGRESS: Final = frozenset({"agent_message_chunk", "agent_thought_chunk", "tool_call", "tool_call_update"})
# What is chosen among the options of an ask, best first.
_CHOICES: Final[Mapping[bool, tuple[str, ...]]] = {
    True: ("allow_once", "allow_always"),
    False: ("reject_once", "reject_always"),
}


@dataclass(slots=True)
class _Open:
    """A message or thought that may go on."""

    kind: str = ""
    name: str = ""  # the agent's own id of it, where it has one
    words: Answer = field(default_factory=Answer)


class AcpDriver(Fold):
    """One session with an agent that speaks ACP. A subclass knows how it is started, and its habits."""

    def __init__(self, spec: RunSpec) -> None:
        super().__init__(spec)
        self._open = _Open()
        self._calls = ToolCalls()
        self._denied_calls = Names()  # ids of calls that we denied: all is said of them
        self._asks = 0
        self._setup: list[tuple[str, dict[str, Any]]] = []  # requests before the prompt, in order
        self._setup_done = 0
        self._over = False  # the last turn, or the attempt to begin one
        self._ended: set[str] = set()  # prompts that were answered
        self._failures = 0
        self._gave_up = False
        self._tokens = [0, 0, 0]  # input, output, cached: of the turns so far
        self._cost: float | None = None
        capabilities = {"fs": {"readTextFile": False, "writeTextFile": False}, "terminal": False}
        client = {"name": "fleetgate", "title": "Fleetgate", "version": "1"}
        hello = {"protocolVersion": PROTOCOL_VERSION, "clientCapabilities": capabilities, "clientInfo": client}
        self._request(INITIALIZE, "initialize", hello)

    max_failures = 5  # of the model in a row, for agents that tell of them; then the turn is ended

    # --- habits -------------------------------------------------------------------------------------

    def setup(self, session: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """Requests (method, parameters beside the session's id) between session/new and the prompt."""
        return []

    def preface(self) -> str:
        """What the agent is told in front of the prompt, where it has no other place for it."""
        return ""

    def tool_name(self, call: Mapping[str, Any]) -> str:
        """The tool's own name, from the first that is heard of a call."""
        return text(call.get("title")) or text(call.get("kind")) or "tool"

    def is_refusal(self, output: str) -> bool:
        """A failed call that its own rules denied, without an ask."""
        return False

    # --- what we write ------------------------------------------------------------------------------

    def _send(self, key: str, body: Mapping[str, Any]) -> None:
        self.write(key, unparse({"jsonrpc": "2.0", **body}) + b"\n")

    def _request(self, key: str, method: str, params: Mapping[str, Any]) -> None:
        self._send(key, {"id": key, "method": method, "params": params})

    def _prompt(self, key: str, content: str, preface: str = "") -> None:
        prompt = [{"type": "text", "text": words} for words in ([preface] if preface else []) + [content]]
        self._request(key, "session/prompt", {"sessionId": self.session_id, "prompt": prompt})
        self._over = False

    def said(self) -> None:
        """The next input, when nothing runs."""
        if self._over and self._says:
            input_id, content = next(iter(self._says.items()))
            self._prompt(f"{SAY}{input_id}", content)

    def on_cancel(self) -> None:
        waiting = [write.key for write in self.to_write() if write.key == PROMPT or write.key.startswith(SAY)]
        for key in waiting:
            self.unwrite(key)
        if self.was_written(PROMPT) and not waiting:
            self._send(CANCEL, {"method": "session/cancel", "params": {"sessionId": self.session_id}})
        else:
            self._over = True  # nothing runs that could be cancelled

    def on_written(self, key: str, data: bytes) -> list[AgentEvent]:
        if key == CANCEL:
            self.cancelling = True
        if not key.startswith(SAY):
            return []
        self._over = key in self._ended
        sent = fields(fields(parse(decode(data))).get("params"))
        words = "".join(text(fields(block).get("text")) for block in items(sent.get("prompt")))
        return [events.input_taken(self.at, key[len(SAY) :], words)]

    @property
    def is_done(self) -> bool:
        return self._over and not self._says

    # --- hearing ------------------------------------------------------------------------------------

    def on_line(self, line: str) -> list[AgentEvent]:
        said = parse(line)
        if not isinstance(said, dict):
            return [events.log(self.at, line, "debug")] if line.strip() else []
        method = said.get("method")
        if isinstance(method, str):
            params = fields(said.get("params"))
            if method == "session/update":
                return self._on_update(params)
            return self._on_ask(said.get("id"), method, params) if "id" in said else []
        key = said.get("id")
        return self._on_answer(key, said) if isinstance(key, str) else []

    def on_exit(self) -> list[AgentEvent]:
        return self._settle()

    def _on_answer(self, key: str, said: Mapping[str, Any]) -> list[AgentEvent]:
        if not self.answered(key):
            return []  # nothing we asked
        fault, result = said.get("error"), fields(said.get("result"))
        if key == PROMPT or key.startswith(SAY):
            return self._on_turn_end(key, fields(fault) if fault is not None else None, result)
        if fault is not None:
            self._over = True
            return [self._failed(fields(fault))]
        if key == INITIALIZE:
            if whole(result.get("protocolVersion")) != PROTOCOL_VERSION:
                self._over = True
                return [self.fail(Reason.PROTOCOL_ERROR, "The agent speaks another version of its protocol.")]
            self._request(NEW, "session/new", {"cwd": self.spec.cwd, "mcpServers": []})
        elif key == NEW:
            self.session_id = text(result.get("sessionId"))
            self._setup = self.setup(result)
            self._set_up_next()
        elif key == f"{SETUP}:{self._setup_done}":
            self._set_up_next()
        return []

    def _set_up_next(self) -> None:
        if self.cancelling:
            self._over = True
        elif self._setup:
            self._setup_done += 1
            method, params = self._setup.pop(0)
            self._request(f"{SETUP}:{self._setup_done}", method, {"sessionId": self.session_id, **params})
        else:
            self._prompt(PROMPT, self.spec.prompt, self.preface())

    # --- the end of a turn --------------------------------------------------------------------------

    def _on_turn_end(self, key: str, fault: Mapping[str, Any] | None, result: Mapping[str, Any]) -> list[AgentEvent]:
        if fault is not None:
            self._open = _Open()  # it broke off: what was said of it is no answer
        made = self._settle()
        self._over = True
        self._ended.add(key)
        self._calls.clear()
        made += self._count(result)
        stop = text(result.get("stopReason"))
        if self._gave_up and not self.was_written(CANCEL):
            self._says.clear()  # the next turn would fail as well
        elif stop == "cancelled" or self.was_written(CANCEL):
            self.end, self.reason, self.error = End.CANCELLED, None, None
        elif fault is not None:
            made.append(self._failed(fault))
        elif stop == "end_turn":
            self.end, self.reason, self.error = End.OK, None, None
        elif stop == "refusal":
            made.append(self.fail(Reason.REFUSAL, "The model refused to go on."))
        elif stop == "max_turn_requests":
            made.append(self.fail(Reason.MAX_TURNS, "The agent used up the turns it may take."))
        else:
            made.append(self.fail(Reason.AGENT_ERROR, f"The agent ended its turn with {stop or 'no reason'}."))
        self.said()
        return made

    def _failed(self, fault: Mapping[str, Any]) -> AgentEvent:
        """A JSON-RPC error: its code may be an HTTP status, its data may say more."""
        code, data = whole(fault.get("code")), fault.get("data")
        more = fields(data)
        details = text(data) or text(more.get("details")) or text(more.get("message"))
        sentence = provider_words(text(fault.get("message"))) or "The agent reported an error."
        if details and details not in sentence:
            sentence = f"{sentence}: {details}"
        status = code if code is not None and 400 <= code < 600 else None
        reason = reason_of(sentence, status, text(more.get("errorName")))
        if code == AUTH_REQUIRED:
            reason = Reason.PROVIDER_AUTH
        return self.fail(reason, sentence, retryable=reason in RETRYABLE)

    def _count(self, result: Mapping[str, Any]) -> list[AgentEvent]:
        used = fields(result.get("usage"))
        quota = fields(fields(fields(result.get("_meta")).get("quota")).get("token_count"))
        counts = (
            whole(used.get("inputTokens")) or whole(quota.get("input_tokens")) or 0,
            whole(used.get("outputTokens")) or whole(quota.get("output_tokens")) or 0,
            whole(used.get("cachedReadTokens")) or 0,
        )
        if not any(counts):
            return []
        self._tokens = [before + now for before, now in zip(self._tokens, counts, strict=True)]
        asked, answered, cached = self._tokens
        self.usage = events.used(asked, answered, cached, self._cost, self.spec.model or "")
        return [events.usage(self.at, self.usage)]

    def model_failed(self, sentence: str, status: int | None = None) -> list[AgentEvent]:
        """The agent will try again by itself, longer than anybody should wait: after some tries we end the turn."""
        if self._over or self._gave_up:
            return []
        self._failures += 1
        if self._failures < self.max_failures:
            return [events.log(self.at, f"the model failed ({self._failures}): {sentence}", "warning")]
        self._gave_up = True
        self._send(GIVE_UP, {"method": "session/cancel", "params": {"sessionId": self.session_id}})
        reason = reason_of(sentence, status, "APIError")
        return [self.fail(reason, f"{sentence} (after {self._failures} tries)", retryable=reason in RETRYABLE)]

    # --- updates ------------------------------------------------------------------------------------

    def _on_update(self, params: Mapping[str, Any]) -> list[AgentEvent]:
        if self.was_written(NEW) and text(params.get("sessionId")) != self.session_id:
            return []  # of a session that the agent keeps for itself
        update = fields(params.get("update"))
        if text(update.get("sessionUpdate")) in _PROGRESS:
            self._failures = 0
        match update.get("sessionUpdate"):
            case "agent_message_chunk":
                return self._on_chunk(EventType.MESSAGE, update)
            case "agent_thought_chunk":
                return self._on_chunk(EventType.THINKING, update)
            case "tool_call" | "tool_call_update":
                return self._on_tool(update)
            case "usage_update":
                self._cost = number(fields(update.get("cost")).get("amount"))
            case "plan":
                steps = [fields(entry) for entry in items(update.get("entries"))]
                words = "; ".join(f"[{text(step.get('status'))}] {text(step.get('content'))}" for step in steps)
                return [events.log(self.at, f"plan: {words}", "debug")]
        return []

    def _on_chunk(self, kind: EventType, update: Mapping[str, Any]) -> list[AgentEvent]:
        words = text(fields(update.get("content")).get("text"))
        if not words or not self.was_written(PROMPT):
            return []
        name = text(update.get("messageId"))
        made = [] if (self._open.kind, self._open.name) == (kind, name) else self._settle()
        self._open.kind, self._open.name = kind, name
        self._open.words.add(words)
        say = events.message if kind is EventType.MESSAGE else events.thinking
        return [*made, say(self.at, words, delta=True)]

    def _settle(self) -> list[AgentEvent]:
        """What was said in pieces ends here, and is said whole."""
        kind, words = self._open.kind, self._open.words.take()
        self._open.kind = ""
        if not words:
            return []
        if kind == EventType.THINKING:
            return [events.thinking(self.at, words, delta=False)]
        self.answer = words
        return [events.message(self.at, words, delta=False)]

    # --- tools --------------------------------------------------------------------------------------

    def _on_tool(self, update: Mapping[str, Any]) -> list[AgentEvent]:
        """A call is said once, when its input is known or it runs; its result once, when it has ended."""
        call_id, status = text(update.get("toolCallId")), update.get("status")
        has_ended = status in ("completed", "failed")
        if call_id in self._denied_calls:
            return []
        call = self._calls.get(call_id) or self._new_call(update)
        given = fields(update.get("rawInput"))
        made = self._settle()
        if not call.said and (status != "pending" or has_ended):
            made.append(self._say_call(call_id, call, given, text(update.get("title"))))
            call = replace(call, said=True)
        call = replace(call, arguments=kept(given) or call.arguments)
        self._calls.put(call_id, call)
        if has_ended:
            self._calls.pop(call_id, None)
            made += self._end_call(call_id, call, update, ok=status == "completed")
        return made

    def _new_call(self, update: Mapping[str, Any]) -> ToolCall:
        kind = KINDS.get(text(update.get("kind")), "other")
        return ToolCall(self.tool_name(update), kind, said=False)

    def _say_call(self, call_id: str, call: ToolCall, given: Mapping[str, Any], title: str) -> AgentEvent:
        given = given or call.arguments
        best = events.title_of(call.name, given)
        if best == call.name and title and title != call.name:
            best = f"{call.name}: {title}"
        return events.tool_call(self.at, call_id, call.name, call.kind, best, given)

    def _end_call(self, call_id: str, call: ToolCall, update: Mapping[str, Any], *, ok: bool) -> list[AgentEvent]:
        raw = fields(update.get("rawOutput"))
        content = [fields(part) for part in items(update.get("content"))]
        words = "\n".join(text(fields(part.get("content")).get("text")) for part in content if "content" in part)
        output = text(raw.get("output")) or text(raw.get("error")) or words
        exit_code = whole(fields(raw.get("metadata")).get("exit"))
        ok = ok and not exit_code and not self.was_written(CANCEL)
        made = []
        if not ok and self.is_refusal(output):
            self.note_denied(call.name)
            asked, mode, why = events.title_of(call.name, call.arguments), self.spec.mode, events.one_line(output)
            made.append(
                events.approval(
                    self.at, call_id, call.name, asked, call.arguments, allowed=False, mode=mode, reason=why
                )
            )
        made.append(events.tool_result(self.at, call_id, output, ok=ok, exit_code=exit_code))
        if ok:
            self.note_success()
            diffs = [part for part in content if part.get("type") == "diff"]
            made += [self._diffed(part) for part in diffs]
            if not diffs and call.kind == "edit":
                made += self._edited(call, update)
        return made

    def _change(self, path: str, op: str, diff: str | None) -> AgentEvent:
        self.files.add(path)
        return events.file_change(self.at, path, op, diff)

    def _seen(self, path: str) -> str:
        return events.within(self.spec.cwd, posixpath.join(self.spec.cwd, path))

    def _diffed(self, part: Mapping[str, Any]) -> AgentEvent:
        path, old, new = self._seen(text(part.get("path"))), part.get("oldText"), text(part.get("newText"))
        is_new = fields(part.get("_meta")).get("kind") == "add" or not text(old)
        return self._change(path, "create" if is_new else "update", events.unified(path, text(old), new))

    def _edited(self, call: ToolCall, update: Mapping[str, Any]) -> list[AgentEvent]:
        """A change without a diff: all that is known are the call's own words."""
        given = call.arguments
        named = next((text(given[name]) for name in ("filePath", "file_path", "path") if text(given.get(name))), "")
        places = [text(fields(place).get("path")) for place in items(update.get("locations"))]
        path = named or next(filter(None, places), "")
        if not path:
            return []
        path = self._seen(path)
        existed = fields(fields(update.get("rawOutput")).get("metadata")).get("exists")
        content = text(given.get("content"))
        diff = events.unified(path, "", content) if existed is False and content else None
        return [self._change(path, "create" if existed is False else "update", diff)]

    # --- what it asks -------------------------------------------------------------------------------

    def _on_ask(self, ask: Any, method: str, params: Mapping[str, Any]) -> list[AgentEvent]:
        self._asks += 1
        key = f"answer:{self._asks}"
        if method != "session/request_permission":
            fault = {"code": METHOD_NOT_FOUND, "message": f"{method} is not offered"}
            self._send(key, {"id": ask, "error": fault})
            return [events.log(self.at, f"the agent asked for {method}, which is not offered", "debug")]
        update = fields(params.get("toolCall"))
        call_id = text(update.get("toolCallId"))
        made = self._settle()
        call = self._calls.get(call_id)
        if call is None or not call.said:
            call = call or self._new_call(update)
            given = fields(update.get("rawInput"))
            made.append(self._say_call(call_id, call, given, text(update.get("title"))))
            self._calls.put(call_id, replace(call, arguments=kept(given) or call.arguments, said=True))
        allowed = self._may(update)
        chosen = _choose(items(params.get("options")), allowed=allowed)
        outcome = {"outcome": "cancelled"} if chosen is None else {"outcome": "selected", "optionId": chosen}
        allowed = allowed and chosen is not None
        self._send(key, {"id": ask, "result": {"outcome": outcome}})
        reason = f"permission mode {self.spec.mode}"
        asked = update.get("rawInput") or call.arguments
        title = f"{call.name}: {text(update.get('title')) or 'no title'}"
        made.append(
            events.approval(
                *(self.at, call_id, call.name, title, asked), allowed=allowed, mode=self.spec.mode, reason=reason
            )
        )
        if not allowed:
            self.note_denied(call.name)
            self._calls.pop(call_id, None)
            self._denied_calls.add(call_id)
            made.append(events.tool_result(self.at, call_id, f"Denied: {reason}, and nobody is asked.", ok=False))
        return made

    def _may(self, update: Mapping[str, Any]) -> bool:
        """Whether the mode allows what is asked. An edit names every file that it touches. Links in the directory
        cannot be seen from here: gemini resolves them before it asks, opencode does not.
        """
        if self.spec.mode is not PermissionMode.ACCEPT_EDITS or update.get("kind") != "edit":
            return self.spec.mode is PermissionMode.BYPASS
        diffs = [part for part in map(fields, items(update.get("content"))) if part.get("type") == "diff"]
        paths = [text(named.get("path")) for named in (*diffs, *map(fields, items(update.get("locations"))))]
        return bool(paths) and all(path and self._is_ours_to_edit(path) for path in paths)

    def _is_ours_to_edit(self, path: str) -> bool:
        """Inside the working directory, and no file that git would run or obey."""
        seen = self._seen(path)
        return not seen.startswith(("/", "../")) and ".git" not in seen.lower().split("/")


def _choose(options: list[Any], *, allowed: bool) -> Any:
    """The id of the option to take; None when there is none of that kind."""
    offered = [fields(option) for option in options]
    for kind in _CHOICES[allowed]:
        for option in offered:
            if option.get("kind") == kind:
                return option.get("optionId")
    return None
