"""The settings of a gateway: flags > environment > `$FLEETGATE_HOME/gateway.toml` > defaults.

`describe()` is the one list of them; the parser, the environment, the file and docs/settings.md are made from it.
A wrong value is `BadSettings` with the key as its owner wrote it. Nothing here opens anything but the settings
file and the token file.
"""

import os
import re
import socket
import stat
import tomllib
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit, urlunsplit

import msgspec

from gateway.agents.catalogue import KINDS, PROFILES
from gateway.agents.command import CommandAgent
from gateway.core.slots import Quota
from gateway.errors import BadSettings
from shared_types.hosts import HostId, canonical_agent
from shared_types.tasks import PermissionMode

LINK_PATH: Final = "/agent/ws"
_UNITS: Final = {"ms": 1, "": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that shows itself to nobody by accident."""

    value: str

    def __repr__(self) -> str:
        return "Secret('***')"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    home: Path
    server_url: str
    host_id: str
    host_name: str
    auth_token: Secret
    max_concurrent: int
    cwd: Path
    labels: dict[str, str]
    allowed_project_roots: tuple[Path, ...]
    only_agents: tuple[str, ...]  # empty: all
    agent_profiles: dict[str, str]  # agent -> another way to drive it
    agent_env: tuple[str, ...]
    task_env: tuple[str, ...] | None
    permission_modes: frozenset[PermissionMode]
    task_timeout_ms: int
    drain_timeout_ms: int
    warm_keepers: int
    cgroups: bool
    journal_quota: Quota
    log_level: str
    command_agents: tuple[CommandAgent, ...]  # `[agents.NAME]` of the file
    print_ready: bool = False


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """One setting, as docs/settings.md shows it; `key` is "" for the one that is not in the file."""

    key: str
    env: str
    flag: str
    default: str
    doc: str
    secret: bool = False


@dataclass(frozen=True, slots=True)
class _Setting:
    name: str  # of the field, and in the file
    env: str
    default: str
    doc: str
    read: Callable[[str], Any]
    secret: bool = False

    @property
    def flag(self) -> str:
        return "--" + self.name.removesuffix("_ms").replace("_", "-")

    @property
    def key(self) -> str:
        return self.name.removesuffix("_ms")


# --- reading one value --------------------------------------------------------------------------------


def duration_ms(text: str) -> int:
    """Milliseconds, or a number with a unit.

    >>> duration_ms("1500"), duration_ms("90s"), duration_ms("24h")
    (1500, 90000, 86400000)
    """
    match = re.fullmatch(r"(\d+)\s*(ms|s|m|h|d|)", text.strip())
    if match is None:
        raise ValueError("is not a duration like 30s, 5m or 24h")
    return int(match[1]) * _UNITS[match[2]]


def _some_duration(text: str) -> int:
    ms = duration_ms(text)
    if ms <= 0:
        raise ValueError("must be longer than nothing")
    return ms


def _count(text: str) -> int:
    if not text.strip().isdigit() or not 0 <= int(text) <= 10_000:
        raise ValueError("is not a number from 0 to 10000")
    return int(text)


def _few(text: str) -> int:
    if text.strip() not in ("0", "1", "2", "3", "4"):
        raise ValueError("is not a number from 0 to 4")
    return int(text)


def _quota(text: str) -> Quota:
    match = re.fullmatch(r"(\d+)\s*(%|MiB|GiB|TiB)", text.strip())
    if match is None or not int(match[1]) or (match[2] == "%" and int(match[1]) > 100):
        raise ValueError("is neither a share like 10% nor a size like 20GiB")
    if match[2] == "%":
        return Quota(share=int(match[1]) / 100)
    return Quota(size=int(match[1]) * {"MiB": 2**20, "GiB": 2**30, "TiB": 2**40}[match[2]])


def _auto(text: str) -> bool:
    if text.strip() not in ("auto", "off"):
        raise ValueError("is neither auto nor off")
    return text.strip() == "auto"


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _optional_words(text: str) -> tuple[str, ...] | None:
    return None if text.strip() == "*" else _words(text)


def _pairs(text: str) -> dict[str, str]:
    pairs = {}
    for word in _words(text):
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"has {word!r}, which is not name=value")
        pairs[name.strip()] = value.strip()
    return pairs


def _agents(text: str) -> tuple[str, ...]:
    return tuple(canonical_agent(word) for word in _words(text))


def _profiles(text: str) -> dict[str, str]:
    """By the agents' canonical names."""
    chosen = {canonical_agent(agent): profile for agent, profile in _pairs(text).items()}
    for agent, profile in chosen.items():
        if agent not in PROFILES.get(profile, {}):
            raise ValueError(f"has {agent}={profile}; profiles are {', '.join(PROFILES)}, agents {', '.join(KINDS)}")
    return chosen


def _absolute(text: str) -> Path:
    path = Path(os.path.abspath(Path(text).expanduser()))
    if not path.is_dir():
        raise ValueError(f"names {path}, which is not a directory")
    return path


def _roots(text: str) -> tuple[Path, ...]:
    return tuple(_absolute(word) for word in _words(text))


def _host_id(text: str) -> str:
    try:
        return msgspec.convert(text, HostId)
    except msgspec.ValidationError:
        raise ValueError("may have letters, digits and . _ : - only, and at most 128 of them") from None


def _name(text: str) -> str:
    if not 1 <= len(text) <= 128:
        raise ValueError("must have 1 to 128 characters")
    return text


def _modes(text: str) -> frozenset[PermissionMode]:
    try:
        return frozenset(PermissionMode(word) for word in _words(text))
    except ValueError:
        raise ValueError(f"has a mode that is none of {', '.join(PermissionMode)}") from None


def _level(text: str) -> str:
    if text.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError("is none of debug, info, warning, error")
    return text.lower()


def link_url(text: str) -> str:
    """The address to dial.

    >>> link_url("ws://localhost:3001"), link_url("https://fleet.example/x/")
    ('ws://localhost:3001/agent/ws', 'wss://fleet.example/x/agent/ws')
    """
    parts = urlsplit(text.strip())
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError("is not an address like ws://host:3001 or wss://host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("may not carry a user, a query or a fragment: a token belongs in GATEWAY_AUTH_TOKEN")
    path = parts.path.rstrip("/").removesuffix(LINK_PATH)
    return urlunsplit((scheme, parts.netloc, path + LINK_PATH, "", ""))


# --- the list -----------------------------------------------------------------------------------------

_SETTINGS: Final = (
    _Setting("server_url", "GATEWAY_SERVER_URL", "ws://localhost:3001", "Where the manager listens.", link_url),
    _Setting("host_id", "GATEWAY_HOST_ID", "the machine's name", "This host's id; its token is bound to it.", _host_id),
    _Setting("host_name", "GATEWAY_HOST_NAME", "the machine's name", "This host's name for people.", _name),
    _Setting(
        *("auth_token", "GATEWAY_AUTH_TOKEN", "none; needed"),
        "The host's token (`fleetgate join` writes it to the file). `GATEWAY_AUTH_TOKEN_FILE` names a file with it.",
        lambda text: Secret(text.strip()),
        secret=True,
    ),
    _Setting("max_concurrent", "GATEWAY_MAX_CONCURRENT", "2", "How many tasks run here at a time.", _count),
    _Setting("cwd", "GATEWAY_CWD", "the current directory", "Where a task without a directory runs.", _absolute),
    _Setting("labels", "GATEWAY_LABELS", "none", "name=value,name=value: what tasks may require or avoid.", _pairs),
    _Setting(
        *("allowed_project_roots", "GATEWAY_ALLOWED_PROJECT_ROOTS", "the value of cwd"),
        "Directories, separated by commas: tasks run in them and below, nowhere else. Symlinks are resolved.",
        _roots,
    ),
    _Setting(
        *("only_agents", "GATEWAY_ONLY_AGENTS", "all that are found"),
        "Names of the agents to offer, separated by commas; others are not even looked for.",
        _agents,
    ),
    _Setting(
        *("agent_profiles", "GATEWAY_AGENT_PROFILES", "none"),
        "agent=oneshot,agent=oneshot: agents to run in their one-shot mode, when a release breaks their protocol."
        " Without follow-up input, and with what an agent asks decided by itself.",
        _profiles,
    ),
    _Setting(
        *("agent_env", "GATEWAY_AGENT_ENV", "none"),
        "Names of the gateway's own environment that agents may see, besides PATH, HOME, the locale and each agent's"
        " own keys; a name may end with `*`.",
        _words,
    ),
    _Setting(
        *("task_env", "GATEWAY_TASK_ENV", "*"),
        "Names that a task's `env` may set. `*`: any that is not refused everywhere (docs/running.md).",
        _optional_words,
    ),
    _Setting(
        *("permission_modes", "GATEWAY_PERMISSION_MODES", ",".join(PermissionMode)),
        "The permission modes that tasks may have on this host.",
        _modes,
    ),
    _Setting(
        *("task_timeout_ms", "GATEWAY_TASK_TIMEOUT", "24h"),
        "The longest that a task may run here, whatever it or the manager asks.",
        _some_duration,
    ),
    _Setting(
        *("drain_timeout_ms", "GATEWAY_DRAIN_TIMEOUT", "0s"),
        "How long a gateway that is told to end (SIGTERM, SIGINT) waits for running tasks, taking no new ones. What"
        " still runs then goes on under its keeper, and the next gateway adopts it. A second signal stops the tasks.",
        duration_ms,
    ),
    _Setting(
        *("warm_keepers", "GATEWAY_WARM_KEEPERS", "1"),
        "How many keepers wait for a task, 0 to 4. Each takes 10 MB and saves a start some 20 ms.",
        _few,
    ),
    _Setting(
        *("cgroups", "GATEWAY_CGROUPS", "auto"),
        "auto: each agent gets a cgroup (v2) of its own where the gateway may make some, so that all of it can be ended"
        " whatever it did to hide. off: none.",
        _auto,
    ),
    _Setting(
        *("journal_quota", "GATEWAY_JOURNAL_QUOTA", "10%"),
        "How much of their disk the journals of attempts may take: a share of it (never more than 10 GiB), or a size"
        " like 20GiB. Above 80 % of it new tasks are refused (`disk_full`); one attempt takes 1 GiB at most.",
        _quota,
    ),
    _Setting("log_level", "LOG_LEVEL", "info", "debug, info, warning or error; the log goes to stderr.", _level),
)
_HOME: Final = _Setting(
    "home", "FLEETGATE_HOME", "~/.fleetgate", "Where settings and running attempts are kept (0700).", Path
)


def describe() -> list[Described]:
    """Every setting, for docs/settings.md and for `--help`."""
    return [
        Described(
            key="" if s is _HOME else s.key, env=s.env, flag=s.flag, default=s.default, doc=s.doc, secret=s.secret
        )
        for s in (_HOME, *_SETTINGS)
    ]


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadSettings("flags", f"{message}; `fleetgate gateway --help` lists them")


def parser() -> ArgumentParser:
    flags = _Parser(
        prog="fleetgate gateway",
        description="Runs coding agents on this machine for a manager.",
        allow_abbrev=False,
    )
    for setting in (_HOME, *_SETTINGS):
        if not setting.secret:  # an argument can be read by everybody on the machine
            flags.add_argument(setting.flag, dest=setting.name, metavar="VALUE", help=setting.doc.replace("%", "%%"))
    flags.add_argument("--print-ready", action="store_true", help="print one line of JSON when the manager welcomed us")
    return flags


# --- putting them together ----------------------------------------------------------------------------


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Raises BadSettings."""
    flags = parser().parse_args(argv)
    home = Path(flags.home or environ.get(_HOME.env) or "~/.fleetgate").expanduser().absolute()
    file = home / "gateway.toml"
    written = _read_file(file)
    command_agents = written.pop("agents", {})
    values = {setting.name: _value(setting, flags, environ, written, file) for setting in _SETTINGS}
    for key in written:
        raise BadSettings(f"{file}: {key}", "there is no such setting")
    return _complete(home, values, command_agents, print_ready=flags.print_ready)


def _complete(home: Path, values: dict[str, Any], command_agents: Any, *, print_ready: bool) -> Settings:
    machine = re.sub(r"[^A-Za-z0-9._:-]", "-", socket.gethostname()).strip("-._:") or "host"
    values["host_id"] = values["host_id"] or machine
    values["host_name"] = values["host_name"] or values["host_id"]
    values["cwd"] = values["cwd"] or Path.cwd()
    values["allowed_project_roots"] = values["allowed_project_roots"] or (values["cwd"],)
    values["labels"] = values["labels"] or {}
    values["only_agents"] = values["only_agents"] or ()
    values["agent_profiles"] = values["agent_profiles"] or {}
    values["agent_env"] = values["agent_env"] or ()
    if values["auth_token"] is None or not values["auth_token"].value:
        raise BadSettings("GATEWAY_AUTH_TOKEN", "is not set; `fleetgate join URL CODE` gets a token for this host")
    declared = _declared(command_agents, home / "gateway.toml")
    for name in {*values["only_agents"]} - {*KINDS, *(agent.name for agent in declared)}:
        raise BadSettings("GATEWAY_ONLY_AGENTS", f"{name} is neither an agent that we know nor one that is declared")
    return Settings(home=home, command_agents=declared, print_ready=print_ready, **values)


def _declared(tables: Any, file: Path) -> tuple[CommandAgent, ...]:
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise BadSettings(f"{file}: agents", "must be tables like [agents.my-script]")
    agents = []
    for name, table in tables.items():
        try:
            agents.append(msgspec.convert({"name": name, **table}, CommandAgent))
        except msgspec.ValidationError as error:
            raise BadSettings(f"{file}: agents.{name}", str(error)) from error
    return tuple(agents)


def _value(setting: _Setting, flags: Namespace, environ: Mapping[str, str], written: dict[str, Any], file: Path) -> Any:
    """The first source that has it; None when only a default that depends on the machine is left."""
    in_file = written.pop(setting.key, None)
    path_in_file = written.pop(f"{setting.key}_file", None) if setting.secret else None
    if (text := getattr(flags, setting.name, None)) is not None:
        return _parsed(setting, text, setting.flag)
    if setting.env in environ:
        return _parsed(setting, environ[setting.env], setting.env)
    if setting.secret and (path := environ.get(f"{setting.env}_FILE")):
        return _parsed(setting, _secret_file(path, f"{setting.env}_FILE"), f"{setting.env}_FILE")
    if in_file is not None:
        return _parsed(setting, _as_text(in_file), f"{file}: {setting.key}")
    if path_in_file is not None:
        key = f"{file}: {setting.key}_file"
        return _parsed(setting, _secret_file(str(path_in_file), key), key)
    try:
        return setting.read(setting.default) if setting.name in _FIXED_DEFAULTS else None
    except ValueError as error:
        raise BadSettings(setting.env, str(error)) from error


_FIXED_DEFAULTS: Final = frozenset(
    {
        *("server_url", "max_concurrent", "task_env", "permission_modes"),
        *("task_timeout_ms", "drain_timeout_ms", "warm_keepers", "cgroups", "journal_quota", "log_level"),
    }
)


def _parsed(setting: _Setting, text: str, key: str) -> Any:
    try:
        return setting.read(text)
    except ValueError as error:
        raise BadSettings(key, str(error)) from error


def _as_text(value: Any) -> str:
    """A value of the file as it would stand in the environment."""
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    if isinstance(value, dict):
        return ",".join(f"{name}={item}" for name, item in value.items())
    return str(value)


def _secret_file(path: str, key: str) -> str:
    try:
        return Path(path).expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(key, f"cannot be read: {error}") from error


def _read_file(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text()
        mode = file.stat().st_mode
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(str(file), f"cannot be read: {error}") from error
    try:
        written = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSettings(str(file), str(error)) from error
    if "auth_token" in written and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BadSettings(f"{file}: auth_token", "can be read by others: chmod 600 the file")
    return written
