"""A model on loopback that does what the prompt says (e2e/model/script.py), for the real agent CLIs.

    async with ModelServer() as model:
        model.url                        http://127.0.0.1:PORT
        model.env("claude-code")         what points that agent at it
        model.requests                   every request, with its body as JSON
    python -m e2e.model_server --port 0 --print-ready        {"url": ...}; GET /requests lists what it saw

It speaks Anthropic's /v1/messages, OpenAI's /v1/chat/completions and Gemini's generateContent, streamed or not.
Invariant: the same conversation gets the same answer; only `http` and `cut` count how often they have failed.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import anyio
from aiohttp import web

from e2e.model.dialects import Anthropic, AnyDialect, Gemini, Json, OpenAI, encode, numbers
from e2e.model.script import CUT, Act, Fail, Hang, Say, Turn, step_of

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_BODY: Final = 64 * 1024 * 1024
_GEMINI_PATH: Final = re.compile(r"/v1(?:beta)?/models/([^/:]+):(streamGenerateContent|generateContent)$")


@dataclass(frozen=True)
class Request:
    """One request as the model saw it."""

    dialect: str
    path: str
    body: Json
    turns: tuple[Turn, ...] = ()
    has_tools: bool = False

    def as_json(self) -> Json:
        return {"dialect": self.dialect, "path": self.path, "body": self.body}


@web.middleware
async def _until_gone(http: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(http)
    except ConnectionError:
        return web.Response(status=499)  # the agent was stopped: nobody reads this


@dataclass
class ModelServer:
    """A model that runs while its block does; answers that hang end with it. `requests` forgets nothing."""

    port: int = 0
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    _failed: Counter[tuple[str, int]] = field(default_factory=Counter)
    _ids: Iterator[int] = field(default_factory=numbers)
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> "ModelServer":
        app = web.Application(client_max_size=MAX_BODY, middlewares=[_until_gone])
        app.router.add_route("*", "/{path:.*}", self.handle)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        with anyio.CancelScope(shield=True):
            await self._runner.cleanup()

    def env(self, agent: str) -> dict[str, str]:
        """What points an agent at this model, and nothing else."""
        return environment(agent, self.url)

    def saw(self, text: str) -> list[Request]:
        """Requests in which a user's message holds exactly this text somewhere."""
        return [seen for seen in self.requests if any(turn.role == "user" and text in turn.text for turn in seen.turns)]

    # --- serving ------------------------------------------------------------------------------------

    async def handle(self, http: web.Request) -> web.StreamResponse:
        if http.path == "/requests" and http.method == "GET":
            return web.json_response([seen.as_json() for seen in self.requests])
        dialect, streams = self._dialect(http)
        body = json.loads(await http.read() or b"{}")
        if dialect is None:
            self.requests.append(Request("unknown", http.path_qs, body))
            return web.json_response({"error": f"nobody answers {http.path}"}, status=404)
        turns, has_tools = tuple(dialect.turns(body)), dialect.has_tools(body)
        self.requests.append(Request(dialect.name, http.path_qs, body, turns, has_tools))
        if isinstance(dialect, Gemini) and (routed := dialect.routed(body)) is not None:
            return web.json_response(routed)
        # A request without tools is for a title or a summary: the script is not meant for it.
        script, acts = step_of(turns if has_tools else ())
        streams = body.get("stream", False) if streams is None else streams
        return await self._answer(http, dialect, script, acts, streams=streams)

    def _dialect(self, http: web.Request) -> tuple[AnyDialect | None, bool | None]:
        """The dialect of a path, and whether it streams (None: the body says)."""
        if http.method == "POST":
            if http.path == "/v1/messages":
                return Anthropic(), None
            if http.path == "/v1/chat/completions":
                return OpenAI(), None
            found = _GEMINI_PATH.search(http.path)
            if found:
                return Gemini(), found.group(2) == "streamGenerateContent"
        return None, None

    def _fails_now(self, script: str, fail: Fail) -> bool:
        if fail.times is None:
            return True
        self._failed[script, fail.status] += 1
        return self._failed[script, fail.status] <= fail.times

    async def _answer(
        self, http: web.Request, dialect: AnyDialect, script: str, acts: list[Act], *, streams: bool
    ) -> web.StreamResponse:
        failing = next((act for act in acts if isinstance(act, Fail) and self._fails_now(script, act)), None)
        if failing is not None and failing.status != CUT:
            return web.json_response(dialect.error(failing.status), status=failing.status)
        if any(isinstance(act, Hang) for act in acts):
            await anyio.sleep_forever()  # ended by the peer, or by our own end
        if not streams and failing is None:
            return web.Response(body=encode(dialect.whole(acts, self._ids)), content_type="application/json")
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await answer.prepare(http)
        if failing is not None:
            return await self._cut(http, answer, dialect)
        for frame in dialect.frames(acts, self._ids):
            if frame.delay_s:
                await anyio.sleep(frame.delay_s)
            await answer.write(frame.data)
        await answer.write_eof()
        return answer

    async def _cut(self, http: web.Request, answer: web.StreamResponse, dialect: AnyDialect) -> web.StreamResponse:
        """Half an answer, then nothing: the connection is gone."""
        frames = list(dialect.frames([Say(["half of an ans", "wer"])], self._ids))
        for frame in frames[: max(1, len(frames) // 3)]:
            await answer.write(frame.data)
        if http.transport is not None:
            http.transport.abort()
        return answer


# --- pointing agents at it --------------------------------------------------------------------------


def environment(agent: str, url: str) -> dict[str, str]:
    """The environment that a host's owner would set for an agent with a model of their own."""
    match agent:
        case "claude-code":
            return {
                "ANTHROPIC_BASE_URL": url,
                "ANTHROPIC_API_KEY": "scripted-key",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            }
        case "opencode":
            return {
                "OPENCODE_CONFIG_CONTENT": json.dumps(opencode_config(url)),
                "OPENCODE_DISABLE_MODELS_FETCH": "1",
                "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
                "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
            }
        case "gemini":
            return {"GOOGLE_GEMINI_BASE_URL": url, "GEMINI_API_KEY": "scripted-key"}
    raise ValueError(agent)


def home_files(agent: str) -> dict[str, str]:
    """What must stand in the home of an owner who does without a login: gemini's choice to use a key."""
    if agent != "gemini":
        return {}
    settings = {"security": {"auth": {"selectedType": "gemini-api-key"}}, "general": {"enableAutoUpdate": False}}
    return {".gemini/settings.json": json.dumps(settings)}


def opencode_config(url: str) -> Json:
    model = {"name": "Scripted", "limit": {"context": 200000, "output": 8000}, "tool_call": True, "reasoning": True}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Scripted",
        "options": {"baseURL": f"{url}/v1", "apiKey": "scripted-key"},
        "models": {"m1": model},
    }
    return {"model": "scripted/m1", "small_model": "scripted/m1", "provider": {"scripted": provider}}


def main() -> None:
    parser = argparse.ArgumentParser(prog="e2e.model_server", description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--print-ready", action="store_true", help="print one line of JSON with the url")
    arguments = parser.parse_args()

    async def run() -> None:
        async with ModelServer(arguments.port) as model:
            print(json.dumps({"url": model.url}) if arguments.print_ready else model.url, flush=True)
            await anyio.sleep_forever()

    try:
        anyio.run(run)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
