"""Gemini CLI, by ACP (acp.py).

How it is started, and why:
* GEMINI_CLI_TRUST_WORKSPACE=false: nothing of a stranger's repository is executed. `--skip-trust` is no such promise:
  once it counts, settings that are read again (later than 10 s after the first time, or by another name of the
  directory) bring the repository's hooks and MCP servers with them. What it costs: GEMINI.md is not read, and its
  text comes back in front of the prompt; the owner's MCP servers are not started either; and every mode but plan is
  gemini's `default`, in which it asks, so that modes are what we answer (acp.py).
* GUARD, a script that node runs before gemini: gemini loads `.env` and `.gemini/.env` of the directory and of all
  above it into its own environment. Trusted it takes LD_PRELOAD or GOOGLE_GEMINI_BASE_URL from there, untrusted still
  an API key. No setting of ours can stop it, so for gemini those files are not there. The owner's own, in HOME, is
  read by the script.
* GEMINI_CLI_NO_RELAUNCH: it starts a second node process otherwise.
* Its settings are the owner's. It tries ten times at a failing model, and only settings could change that; ours
  would have to be a file that root owns, or a private home that hides the owner's login. So we count what it says
  of its tries, and after `max_failures` the turn is ended.
* GEMINI_DEBUG_LOG_FILE=/dev/stderr: in this mode it holds what it has for stderr back until its end, except its
  debug log.

It never tells what a tool was given, and a prompt while it is busy would throw the running turn away.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from gateway.agents import events
from gateway.agents.acp import AcpDriver
from gateway.agents.base import Driver, Launch, RunSpec
from gateway.agents.loose import text
from gateway.agents.reasons import provider_words
from shared_types.events import AgentEvent
from shared_types.tasks import PermissionMode

_ENTRY: Final = re.compile(r"\[\d{4}-[\d:.TZ-]+\] \[(?P<level>[A-Z]+)\] (?P<what>.*)")
_ATTEMPT: Final = re.compile(r"Attempt \d+ failed with status (?P<status>\d{3})\b[^_{]*(?P<what>.*)")
SETTINGS: Final = ".gemini/settings.json"
CREDENTIALS: Final = (".gemini/oauth_creds.json", ".gemini/gemini-credentials.json", ".gemini/google_accounts.json")

_KEYS: Final = ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GENAI_USE_GCA")
ENV_NAMES: Final = (
    *_KEYS,
    *("GOOGLE_GEMINI_BASE_URL", "GOOGLE_VERTEX_BASE_URL", "GEMINI_MODEL", "GEMINI_CLI_HOME"),
    *("GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_PROJECT_ID", "GOOGLE_CLOUD_LOCATION", "GOOGLE_CLOUD_ACCESS_TOKEN"),
    *("GOOGLE_APPLICATION_CREDENTIALS", "GEMINI_SANDBOX", "GEMINI_CLI_CUSTOM_HEADERS"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"),
)
NODE_OPTIONS: Final = "NODE_OPTIONS"

# Only functions that wait are changed: gemini looks for these files with them, and its tools use others.
GUARD: Final = """\
'use strict'
const fs = require('node:fs'), { homedir } = require('node:os'), { basename, join } = require('node:path')
const { parseEnv } = require('node:util'), { NAMES, NODE_OPTIONS } = WORDS
if (NODE_OPTIONS) process.env.NODE_OPTIONS = NODE_OPTIONS
else delete process.env.NODE_OPTIONS
const { existsSync, readFileSync } = fs
const own = ['.gemini/.env', '.env'].map(name => join(process.env.GEMINI_CLI_HOME || homedir(), name)).find(existsSync)
const said = own ? parseEnv(readFileSync(own, 'utf8')) : {}
for (const name of NAMES) if (name in said && !(name in process.env)) process.env[name] = said[name]
const isHidden = file => typeof file === 'string' && basename(file) === '.env'
fs.existsSync = file => !isHidden(file) && existsSync(file)
fs.readFileSync = (file, ...more) => readFileSync(isHidden(file) ? file + '/is-hidden' : file, ...more)
require('node:module').syncBuiltinESMExports()
"""

ADVICE: Final = "GEMINI.md of this repository says:"


class GeminiKind:
    """Gemini CLI, as the catalogue knows it."""

    name = "gemini"
    executables: tuple[str, ...] = ("gemini",)
    version_argv: tuple[str, ...] = ("--version",)
    first_argv: tuple[str, ...] = ()
    env_names: tuple[str, ...] = (*ENV_NAMES, NODE_OPTIONS)
    login_files: tuple[str, ...] = (*CREDENTIALS, SETTINGS)
    instruction_files: tuple[str, ...] = ("GEMINI.md",)

    def parse_version(self, output: str) -> str | None:
        found = re.search(r"\b\d+\.\d+\.\d+\S*", output)
        return found.group() if found else None

    def logged_in(self, env: Mapping[str, str], existing: frozenset[str]) -> bool | None:
        """A key may be in the keyring of a desktop: with settings, nobody can tell."""
        if existing & set(CREDENTIALS) or any(env.get(name) for name in _KEYS):
            return True
        return None if SETTINGS in existing or env.get("GEMINI_CLI_HOME") else False

    def supports(self, mode: PermissionMode, *, is_root: bool, env: Mapping[str, str] | None = None) -> str | None:
        return None

    def driver(self, spec: RunSpec) -> Driver:
        return GeminiDriver(spec)


def files(spec: RunSpec) -> dict[str, bytes]:
    words = {"NAMES": ENV_NAMES, NODE_OPTIONS: spec.host_env.get(NODE_OPTIONS, "")}
    return {"guard.cjs": GUARD.replace("WORDS", json.dumps(words)).encode()}


def environment(spec: RunSpec) -> dict[str, str]:
    """What every way of starting gemini needs."""
    options = (spec.host_env.get(NODE_OPTIONS, ""), '--require="{private}/guard.cjs"')
    return {"GEMINI_CLI_NO_RELAUNCH": "true", NODE_OPTIONS: " ".join(filter(None, options))}


class GeminiDriver(AcpDriver):
    """One session with gemini."""

    max_failures = 4

    def __init__(self, spec: RunSpec) -> None:
        super().__init__(spec)
        self._has_log = False

    def launch(self) -> Launch:
        spec = self.spec
        argv = (spec.executable, "--acp", "--approval-mode", "default", *(("-m", spec.model) if spec.model else ()))
        cautious = {"GEMINI_CLI_TRUST_WORKSPACE": "false", "GEMINI_DEBUG_LOG_FILE": "/dev/stderr"}
        return Launch(argv=argv, env=environment(spec) | cautious, files=files(spec))

    def setup(self, session: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        return [("session/set_mode", {"modeId": "plan"})] if self.spec.mode is PermissionMode.PLAN else []

    def preface(self) -> str:
        return f"{ADVICE}\n\n{self.spec.instructions}" if self.spec.instructions else ""

    def tool_name(self, call: Mapping[str, Any]) -> str:
        """It stands before the two underscores of a call's id."""
        name, found, _ = text(call.get("toolCallId")).rpartition("__")
        return name if found and name else super().tool_name(call)

    def is_refusal(self, output: str) -> bool:
        return output.endswith("denied by policy.")

    def on_error_line(self, line: str) -> list[AgentEvent]:
        """Its tries at the model are for people, its other warnings for those who look for a fault. What it says
        before its log begins (that an argument or a login is wrong) may be all it ever says. The lines that belong
        to an entry of the log are nobody's.
        """
        entry = _ENTRY.match(line)
        if entry is None:
            if self._has_log:
                return []
            line = self.keep_error(line)
            return [events.log(self.at, line, "debug", "stderr")] if line else []
        self._has_log = True
        if entry["level"] not in ("WARN", "ERROR"):
            return []
        failed = _ATTEMPT.match(entry["what"])
        if failed:
            return self.model_failed(provider_words(failed["what"])[:500], int(failed["status"]))
        line = self.keep_error(entry["what"])
        return [events.log(self.at, line, "debug", "stderr")] if line else []


KIND: Final = GeminiKind()
