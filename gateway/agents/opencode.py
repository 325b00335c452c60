"""OpenCode, by ACP (acp.py).

How it is started, and why:
* OPENCODE_DISABLE_PROJECT_CONFIG: plugins and MCP servers of a stranger's repository are not started. So AGENTS.md
  is not read either; its text (advice, not code) comes back as an instructions file of ours.
* OPENCODE_SERVER_PASSWORD: it opens an HTTP server on loopback, for anybody on the host unless there is a password.
  Ours is made from the session's random name, which opencode itself never hears or says.
* By itself it allows everything inside the directory. So OPENCODE_PERMISSION lets it ask, in `default` as the other
  agents do, and the mode answers (acp.py); a denied ask ends its turn. Rules that the owner has in the gateway's
  environment count before `default` and `acceptEdits`, and after `plan` and `deny`.
* `--print-logs --log-level ERROR`: it retries a failing model for more than a minute without a word of it in the
  protocol; on stderr it says so, and so do we. After `max_failures` of them the turn is ended.
* The owner's configuration, login and models stay where they are: HOME and XDG directories are theirs.

It does not tell how much a turn used, only its last request; and it writes files without saying what was there.
Its first start ever makes its database, and must not run beside another first start: `opencode db path` goes before.
"""

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from gateway.agents import events
from gateway.agents.acp import AcpDriver
from gateway.agents.base import Driver, Launch, RunSpec
from gateway.agents.loose import fields, items, parse, text, unparse
from shared_types.events import AgentEvent
from shared_types.tasks import PermissionMode

INSTRUCTIONS: Final = "{private}/instructions.md"
CREDENTIALS: Final = ".local/share/opencode/auth.json"

_KEYS: Final = (
    *("OPENCODE_API_KEY", "OPENCODE_AUTH_CONTENT", "ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENROUTER_API_KEY"),
    *("GEMINI_API_KEY", "GOOGLE_GENERATIVE_AI_API_KEY", "GROQ_API_KEY", "MISTRAL_API_KEY", "DEEPSEEK_API_KEY"),
    *("XAI_API_KEY", "GITHUB_TOKEN", "AZURE_API_KEY", "AWS_BEARER_TOKEN_BEDROCK"),
)
ENV_NAMES: Final = (
    *_KEYS,
    *("OPENCODE_CONFIG", "OPENCODE_CONFIG_CONTENT", "OPENCODE_CONFIG_DIR", "OPENCODE_PERMISSION"),
    *("OPENCODE_DISABLE_MODELS_FETCH", "OPENCODE_DISABLE_LSP_DOWNLOAD", "OPENCODE_DISABLE_DEFAULT_PLUGINS"),
    *("OPENCODE_MODELS_URL", "OPENCODE_MODELS_PATH", "AZURE_RESOURCE_NAME"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_PROFILE"),
    *("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "VERTEX_LOCATION"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"),
)

_REACHING_OUT: Final = dict.fromkeys(("webfetch", "websearch", "codesearch", "external_directory", "doom_loop"), "ask")
# It splits a line into its commands and looks at each; the last rule that fits counts.
_LOOKING: Final = {"*": "ask", "pwd": "allow", "ls": "allow", "ls *": "allow", "*>*": "ask"}
_DEFAULT: Final[Mapping[str, Any]] = {"edit": "ask", "bash": _LOOKING, **_REACHING_OUT}
# What it must ask for in a mode. Not named: as the owner and its own defaults have it.
RULES: Final[Mapping[PermissionMode, Mapping[str, Any]]] = {
    PermissionMode.DEFAULT: _DEFAULT,
    PermissionMode.ACCEPT_EDITS: _DEFAULT,
    PermissionMode.PLAN: _DEFAULT,
    PermissionMode.BYPASS: {},
    PermissionMode.DENY: {**_DEFAULT, "bash": "ask", "task": "ask", "skill": "ask"},
}
_OWNER_FIRST: Final = frozenset({PermissionMode.DEFAULT, PermissionMode.ACCEPT_EDITS})
_STREAM_ERROR: Final = re.compile(r'message="stream error".* error\.error="((?:[^"\\]|\\.)*)"')


class OpencodeKind:
    """OpenCode, as the catalogue knows it."""

    name = "opencode"
    executables: tuple[str, ...] = ("opencode",)
    version_argv: tuple[str, ...] = ("--version",)
    first_argv: tuple[str, ...] = ("db", "path")
    env_names: tuple[str, ...] = ENV_NAMES
    login_files: tuple[str, ...] = (CREDENTIALS,)
    instruction_files: tuple[str, ...] = ("AGENTS.md", "CLAUDE.md", "CONTEXT.md")

    def parse_version(self, output: str) -> str | None:
        found = re.search(r"\b\d+\.\d+\.\d+\S*", output)
        return found.group() if found else None

    def logged_in(self, env: Mapping[str, str], existing: frozenset[str]) -> bool | None:
        """Models that need no login, or whose key stands in a configuration, cannot be seen from here."""
        return True if CREDENTIALS in existing or any(env.get(name) for name in _KEYS) else None

    def supports(self, mode: PermissionMode, *, is_root: bool, env: Mapping[str, str] | None = None) -> str | None:
        return None

    def driver(self, spec: RunSpec) -> Driver:
        return OpencodeDriver(spec)


def environment(spec: RunSpec, *, answers: bool = True) -> dict[str, str]:
    """What every way of starting opencode needs. `answers`: an ask gets an answer; else it is as good as denied."""
    env = {
        "OPENCODE_DISABLE_PROJECT_CONFIG": "1",
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_SHARE": "1",
        "OPENCODE_DISABLE_TERMINAL_TITLE": "1",
        "OPENCODE_SERVER_PASSWORD": sha256(f"opencode server of {spec.session_uuid}".encode()).hexdigest(),
    }
    config = dict(fields(parse(spec.host_env.get("OPENCODE_CONFIG_CONTENT", ""))))
    rules = dict(RULES[spec.mode])
    if spec.mode is PermissionMode.ACCEPT_EDITS and not answers:
        rules["edit"] = "allow"
    if rules:
        owned = {**fields(config.get("permission")), **fields(parse(spec.host_env.get("OPENCODE_PERMISSION", "")))}
        both = {**rules, **owned} if spec.mode in _OWNER_FIRST else {**owned, **rules}
        env["OPENCODE_PERMISSION"] = unparse(both).decode()
    if spec.instructions:
        config["instructions"] = [*items(config.get("instructions")), INSTRUCTIONS]
        env["OPENCODE_CONFIG_CONTENT"] = unparse(config).decode()
    return env


def files(spec: RunSpec) -> dict[str, bytes]:
    return {"instructions.md": spec.instructions.encode("utf-8", "replace")} if spec.instructions else {}


def stream_error(line: str) -> str:
    """How the model failed, when this line of its log says so."""
    found = _STREAM_ERROR.search(line)
    if not found:
        return ""
    return (text(parse(f'"{found.group(1)}"')) or found.group(1)).removeprefix("AI_APICallError: ")


class OpencodeDriver(AcpDriver):
    """One session with opencode."""

    def launch(self) -> Launch:
        argv = (self.spec.executable, "acp", "--print-logs", "--log-level", "ERROR")
        return Launch(argv=argv, env=environment(self.spec), files=files(self.spec), first_output_s=45.0)

    def setup(self, session: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        wanted = {"model": self.spec.model} if self.spec.model else {}
        if self.spec.mode is PermissionMode.PLAN:
            wanted["mode"] = "plan"
        return [("session/set_config_option", {"configId": name, "value": value}) for name, value in wanted.items()]

    def on_error_line(self, line: str) -> list[AgentEvent]:
        """Retries are for people; the rest of what it logs is for those who look for a fault."""
        line = self.keep_error(line)
        if not line:
            return []
        failure = stream_error(line)
        if failure:
            return self.model_failed(failure)
        return [events.log(self.at, line, "debug", "stderr")]


KIND: Final = OpencodeKind()
