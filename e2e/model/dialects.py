"""Three providers' words for the same script: how a request is read, and how an answer is framed.

Each dialect: `turns(body)` reads the conversation, `frames(acts)` makes the pieces of a stream, `whole(acts)` the
answer of a request that does not stream, `error(status)` the body of a failure. Nothing here does IO.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar, TypeAlias

from e2e.model.script import Act, Call, Say, Turn

Json: TypeAlias = dict[str, Any]
MODEL = "scripted"
STEERED = "The user sent a new message while you were working"  # how claude passes on input during a turn


@dataclass(frozen=True)
class Frame:
    """Bytes of a stream, and how long to wait before they are sent."""

    data: bytes
    delay_s: float = 0.0


def encode(value: Any) -> bytes:
    """JSON as servers write it; a lone surrogate is a byte that is not UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape")


def _blocks(content: Any) -> list[Json]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content or [])


def _text(blocks: Sequence[Json]) -> str:
    return "\n".join(str(block["text"]) for block in blocks if "text" in block)


def _says(acts: Sequence[Act], *, thought: bool) -> str:
    return "".join(p for act in acts if isinstance(act, Say) and act.is_thought == thought for p in act.pieces)


def _calls(acts: Sequence[Act]) -> list[Call]:
    return [act for act in acts if isinstance(act, Call)]


class Dialect:
    """What the dialects share: the tools' names and arguments."""

    name: ClassVar[str]
    tools: ClassVar[dict[str, tuple[str, tuple[str, ...], Json]]]  # ours: (name, arguments in order, constant ones)

    def tool(self, call: Call) -> tuple[str, Json]:
        if call.arguments is not None:
            return call.kind, call.arguments
        name, keys, constant = self.tools[call.kind]
        return name, {**dict(zip(keys, call.parts, strict=True)), **constant}


class Anthropic(Dialect):
    name = "anthropic"
    tools: ClassVar = {
        "write": ("Write", ("file_path", "content"), {}),
        "edit": ("Edit", ("file_path", "old_string", "new_string"), {}),
        "read": ("Read", ("file_path",), {}),
        "sh": ("Bash", ("command",), {"description": "run a command"}),
    }

    def has_tools(self, body: Json) -> bool:
        return bool(body.get("tools"))

    def turns(self, body: Json) -> list[Turn]:
        made = []
        for message in body.get("messages", []):
            blocks = _blocks(message.get("content"))
            if message.get("role") == "system" and STEERED not in _text(blocks):
                continue  # the agent's own words, which may quote the user's
            is_model = message.get("role") == "assistant"
            calls = any(block.get("type") == "tool_use" for block in blocks)
            made.append(Turn("model" if is_model else "user", _text(blocks), is_model and calls))
        return made

    def _content(self, acts: Sequence[Act], ids: Iterator[int]) -> list[Json]:
        content: list[Json] = []
        for act in acts:
            if isinstance(act, Say) and act.is_thought:
                content.append({"type": "thinking", "thinking": "".join(act.pieces), "signature": "c2lnbmVk"})
            elif isinstance(act, Say):
                content.append({"type": "text", "text": "".join(act.pieces)})
            elif isinstance(act, Call):
                name, arguments = self.tool(act)
                content.append({"type": "tool_use", "id": f"toolu_{next(ids):06d}", "name": name, "input": arguments})
        return content

    def _message(self, number: int) -> Json:
        usage = {"input_tokens": 10, "output_tokens": 1, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 2}
        head = {"id": f"msg_{number:06d}", "type": "message", "role": "assistant", "model": MODEL}
        return {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}

    def whole(self, acts: Sequence[Act], ids: Iterator[int]) -> Json:
        content = self._content(acts, ids)
        stop = "tool_use" if _calls(acts) else "end_turn"
        return {**self._message(next(ids)), "content": content, "stop_reason": stop}

    def frames(self, acts: Sequence[Act], ids: Iterator[int]) -> Iterator[Frame]:
        def frame(kind: str, delay_s: float = 0.0, **more: Any) -> Frame:
            return Frame(b"event: %b\ndata: %b\n\n" % (kind.encode(), encode({"type": kind, **more})), delay_s)

        yield frame("message_start", message=self._message(next(ids)))
        index = 0
        for act in acts:
            if not isinstance(act, Say | Call):
                continue
            block = self._content([act], ids)[0]
            empty = {key: value for key, value in block.items() if key in ("type", "id", "name")}
            empty |= {"tool_use": {"input": {}}, "text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}}[
                block["type"]
            ]
            yield frame("content_block_start", index=index, content_block=empty)
            if isinstance(act, Say):
                kind = "thinking" if act.is_thought else "text"
                for piece in act.pieces:
                    delta = {"type": f"{kind}_delta", kind: piece}
                    yield frame("content_block_delta", act.delay_s, index=index, delta=delta)
                if act.is_thought:
                    signed = {"type": "signature_delta", "signature": block["signature"]}
                    yield frame("content_block_delta", index=index, delta=signed)
            else:
                text = json.dumps(block["input"])
                for part in (text[: len(text) // 2], text[len(text) // 2 :]):
                    delta = {"type": "input_json_delta", "partial_json": part}
                    yield frame("content_block_delta", index=index, delta=delta)
            yield frame("content_block_stop", index=index)
            index += 1
        stop = "tool_use" if _calls(acts) else "end_turn"
        yield frame("message_delta", delta={"stop_reason": stop, "stop_sequence": None}, usage={"output_tokens": 7})
        yield frame("message_stop")

    def error(self, status: int) -> Json:
        kinds = {
            400: ("invalid_request_error", "messages: at least one message is required"),
            401: ("authentication_error", "invalid x-api-key"),
            429: ("rate_limit_error", "This request would exceed your organization's rate limit"),
        }
        kind, message = kinds.get(status, ("api_error", "Internal server error"))
        return {"type": "error", "error": {"type": kind, "message": message}}


class OpenAI(Dialect):
    name = "openai"
    tools: ClassVar = {
        "write": ("write", ("filePath", "content"), {}),
        "edit": ("edit", ("filePath", "oldString", "newString"), {}),
        "read": ("read", ("filePath",), {}),
        "sh": ("bash", ("command",), {"description": "run a command"}),
    }
    usage: ClassVar = {"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17}

    def has_tools(self, body: Json) -> bool:
        return bool(body.get("tools"))

    def turns(self, body: Json) -> list[Turn]:
        made = []
        for message in body.get("messages", []):
            role, text = message.get("role"), _text(_blocks(message.get("content")))
            if role == "assistant":
                made.append(Turn("model", text, bool(message.get("tool_calls"))))
            elif role == "user":
                made.append(Turn("user", text))
            elif role == "tool":
                made.append(Turn("user"))
        return made

    def _tool_calls(self, acts: Sequence[Act], ids: Iterator[int]) -> list[Json]:
        named = [self.tool(call) for call in _calls(acts)]
        return [
            {
                "index": index,
                "id": f"call_{next(ids):06d}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for index, (name, arguments) in enumerate(named)
        ]

    def whole(self, acts: Sequence[Act], ids: Iterator[int]) -> Json:
        message: Json = {"role": "assistant", "content": _says(acts, thought=False)}
        calls = self._tool_calls(acts, ids)
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
        return {"id": f"chat_{next(ids):06d}", "object": "chat.completion", "created": 1, "model": MODEL} | {
            "choices": [choice],
            "usage": self.usage,
        }

    def frames(self, acts: Sequence[Act], ids: Iterator[int]) -> Iterator[Frame]:
        head = {"id": f"chat_{next(ids):06d}", "object": "chat.completion.chunk", "created": 1, "model": MODEL}

        def frame(delta: Json, delay_s: float = 0.0, finish: str | None = None) -> Frame:
            chunk = {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
            return Frame(b"data: %b\n\n" % encode(chunk), delay_s)

        yield frame({"role": "assistant", "content": ""})
        for act in acts:
            if isinstance(act, Say):
                key = "reasoning_content" if act.is_thought else "content"
                for piece in act.pieces:
                    yield frame({key: piece}, act.delay_s)
        calls = self._tool_calls(acts, ids)
        for call in calls:
            yield frame({"tool_calls": [call]})
        yield frame({}, finish="tool_calls" if calls else "stop")
        yield Frame(b"data: %b\n\n" % encode({**head, "choices": [], "usage": self.usage}))
        yield Frame(b"data: [DONE]\n\n")

    def error(self, status: int) -> Json:
        kinds = {
            400: ("invalid_request_error", "Invalid value for 'messages'"),
            401: ("invalid_request_error", "Incorrect API key provided: scripted. You can find yours at example.com."),
            429: ("requests", "Rate limit reached for scripted in organization org-1 on requests per min"),
        }
        kind, message = kinds.get(status, ("server_error", "The server had an error while processing your request."))
        return {"error": {"message": message, "type": kind, "param": None, "code": None}}


class Gemini(Dialect):
    name = "gemini"
    tools: ClassVar = {
        "write": ("write_file", ("file_path", "content"), {}),
        "edit": ("replace", ("file_path", "old_string", "new_string"), {"instruction": "change it"}),
        "read": ("read_file", ("file_path",), {}),
        "sh": ("run_shell_command", ("command",), {"description": "run a command"}),
    }
    usage: ClassVar = {"promptTokenCount": 10, "candidatesTokenCount": 7, "totalTokenCount": 17}

    def has_tools(self, body: Json) -> bool:
        return bool(body.get("tools"))

    def turns(self, body: Json) -> list[Turn]:
        made = []
        for content in body.get("contents", []):
            parts = content.get("parts", [])
            is_model = content.get("role") == "model"
            made.append(
                Turn(
                    "model" if is_model else "user", _text(parts), is_model and any("functionCall" in p for p in parts)
                )
            )
        return made

    @staticmethod
    def _event(answer: Json) -> bytes:
        """As Google's servers do: U+2028 and its like are spelled out (gemini's reader takes them for line ends)."""
        data = encode(answer)
        for separator in ("\u2028", "\u2029"):
            data = data.replace(separator.encode(), b"\\u%04x" % ord(separator))
        return b"data: %b\n\n" % data

    def _answer(self, parts: list[Json], *, last: bool) -> Json:
        candidate: Json = {"content": {"role": "model", "parts": parts}, "index": 0}
        if last:
            candidate["finishReason"] = "STOP"
        return {"candidates": [candidate], "usageMetadata": self.usage, "modelVersion": MODEL}

    def _call_parts(self, acts: Sequence[Act], ids: Iterator[int]) -> list[Json]:
        named = [self.tool(call) for call in _calls(acts)]
        return [
            {"functionCall": {"name": name, "args": arguments, "id": f"fc_{next(ids):06d}"}}
            for name, arguments in named
        ]

    def whole(self, acts: Sequence[Act], ids: Iterator[int]) -> Json:
        return self._answer([{"text": _says(acts, thought=False)}, *self._call_parts(acts, ids)], last=True)

    def frames(self, acts: Sequence[Act], ids: Iterator[int]) -> Iterator[Frame]:
        for act in acts:
            if isinstance(act, Say):
                for piece in act.pieces:
                    part = {"text": piece, "thought": True} if act.is_thought else {"text": piece}
                    yield Frame(self._event(self._answer([part], last=False)), act.delay_s)
        calls = self._call_parts(acts, ids)
        yield Frame(self._event(self._answer(calls or [{"text": ""}], last=True)))

    def error(self, status: int) -> Json:
        kinds = {
            400: ("INVALID_ARGUMENT", "Request contains an invalid argument."),
            401: ("UNAUTHENTICATED", "Request had invalid authentication credentials."),
            429: ("RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
        }
        name, message = kinds.get(status, ("INTERNAL", "An internal error has occurred. Please retry."))
        return {"error": {"code": status, "message": message, "status": name}}

    def routed(self, body: Json) -> Json | None:
        """The answer for gemini's own question which model to take; None when it is another question."""
        config = body.get("generationConfig", {})
        schema = json.dumps(config.get("responseJsonSchema") or config.get("responseSchema") or {})
        if "complexity_score" not in schema:
            return None
        chosen = json.dumps({"complexity_reasoning": "x", "reasoning": "x", "complexity_score": 1})
        return self._answer([{"text": chosen}], last=True)


AnyDialect: TypeAlias = Anthropic | OpenAI | Gemini


def numbers() -> Iterator[int]:
    return count(1)
