"""The manager's settings: flags > environment > file > defaults, each checked at start with a message that names it.

One table (the struct below) is the truth: flags, environment names, the file's keys, `describe()` and
docs/settings.md all come from it. Every text setting has a `<NAME>_FILE` twin in the environment that names a file
to read it from. It opens nothing but those files.
"""

import argparse
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, get_type_hints

import msgspec
from msgspec import Meta

from manager.errors import FleetError

EXIT_CODE: Final = 78  # EX_CONFIG: do not restart, mend the settings
FASTEST_HEARTBEAT_S: Final = 1.0  # of our gateways, whatever they are asked for
Seconds = Annotated[float, Meta(gt=0, le=366 * 24 * 3600)]


class BadSettings(FleetError):
    """A setting is wrong. `key` is as the person wrote it: the flag, the variable or the file's key."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the manager can be told. The description of each is what docs/settings.md shows."""

    home: Annotated[
        str,
        Meta(min_length=1, description="Where the manager keeps its files (0700).", extra={"env": "FLEETGATE_HOME"}),
    ] = "~/.fleetgate"
    host: Annotated[
        str,
        Meta(min_length=1, description="The address to listen on.", extra={"env": "MANAGER_HOST"}),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Meta(ge=0, le=65535, description="The port to listen on; 0 takes a free one.", extra={"env": "MANAGER_PORT"}),
    ] = 3001
    insecure_listen: Annotated[
        bool,
        Meta(
            description="Listen beyond loopback although the connection is not encrypted (put a TLS proxy in front).",
            extra={"env": "MANAGER_INSECURE_LISTEN"},
        ),
    ] = False
    database_url: Annotated[
        str,
        Meta(
            description="`sqlite:///PATH`. Empty: `manager.db` in the home.",
            extra={"env": "DATABASE_URL"},
        ),
    ] = ""
    public_url: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[^/?#\s]+/?)?$",
            description="How hosts reach this manager (`https://fleet.example`). Empty: as their request came.",
            extra={"env": "MANAGER_PUBLIC_URL"},
        ),
    ] = ""
    origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Origins of browsers that may write and open sockets beside our own, comma separated.",
            extra={"env": "MANAGER_ORIGINS"},
        ),
    ] = ()
    default_agent: Annotated[
        str,
        Meta(
            pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$",
            description="The agent for a `user:message` on /ws that names none. Empty: it must name one.",
            extra={"env": "MANAGER_DEFAULT_AGENT"},
        ),
    ] = ""
    max_queued: Annotated[
        int,
        Meta(ge=1, le=100_000_000, description="Tasks that may wait for a host.", extra={"env": "MANAGER_MAX_QUEUED"}),
    ] = 100_000
    queue_ttl_s: Annotated[
        Seconds,
        Meta(description="How long a task waits for a host unless it says so.", extra={"env": "MANAGER_QUEUE_TTL_S"}),
    ] = 24 * 3600.0
    heartbeat_s: Annotated[
        Seconds, Meta(description="How often a host gives a sign of life.", extra={"env": "MANAGER_HEARTBEAT_S"})
    ] = 15.0
    host_ttl_s: Annotated[
        Seconds,
        Meta(
            description="Silence after which a host counts as gone, and how long its lease lasts; at least three "
            "heartbeats, and 3 s.",
            extra={"env": "MANAGER_HOST_TTL_S"},
        ),
    ] = 90.0
    host_grace_s: Annotated[
        Seconds,
        Meta(
            description="How long an agent may go on after the lease of its host is over. Then its host ends it, and a "
            "little later its task is `lost`.",
            extra={"env": "MANAGER_HOST_GRACE_S"},
        ),
    ] = 900.0
    accept_s: Annotated[
        Seconds,
        Meta(description="How long a host may take to accept a task.", extra={"env": "MANAGER_ACCEPT_S"}),
    ] = 30.0
    drain_s: Annotated[
        Seconds,
        Meta(description="How long open streams have to end when the manager stops.", extra={"env": "MANAGER_DRAIN_S"}),
    ] = 5.0
    one_processor: Annotated[
        bool,
        Meta(
            description="Keep the event loop and the thread that writes on one processor, which changes when others "
            "crowd it. They share an interpreter, and on two they mostly wait for each other.",
            extra={"env": "MANAGER_ONE_PROCESSOR"},
        ),
    ] = True
    log_level: Annotated[
        str,
        Meta(
            pattern="^(debug|info|warning|error)$",
            description="debug, info, warning or error.",
            extra={"env": "LOG_LEVEL"},
        ),
    ] = "info"
    log_format: Annotated[
        str,
        Meta(
            pattern="^(auto|json|text)$",
            description="json, text, or auto: text on a terminal, else json.",
            extra={"env": "LOG_FORMAT"},
        ),
    ] = "auto"
    log_requests: Annotated[
        bool,
        Meta(
            description="Log every request, not only those that were refused or failed.",
            extra={"env": "MANAGER_LOG_REQUESTS"},
        ),
    ] = False
    bootstrap_token_file: Annotated[
        str,
        Meta(
            description="When there is no personal token yet: make one and write it to this file (0600).",
            extra={"env": "MANAGER_BOOTSTRAP_TOKEN_FILE"},
        ),
    ] = ""

    @property
    def home_path(self) -> Path:
        return Path(self.home).expanduser()

    @property
    def token_path(self) -> Path | None:
        return Path(self.bootstrap_token_file).expanduser() if self.bootstrap_token_file else None


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """One row of docs/settings.md."""

    key: str  # in the file
    flag: str
    env: str
    type: str
    default: str
    doc: str


def _meta(hint: Any) -> tuple[Any, Meta]:
    """The plain type and the description; nested Annotated types are flattened by Python, the last one is ours."""
    metas = [one for one in hint.__metadata__ if isinstance(one, Meta)]
    return hint.__origin__, metas[-1]


_FIELDS: Final = {
    field.name: _meta(get_type_hints(Settings, include_extras=True)[field.name])
    for field in msgspec.structs.fields(Settings)
}
_NAMES: Final = {int: "number", float: "number", bool: "yes or no", str: "text"}


def env_name(key: str) -> str:
    return str((_FIELDS[key][1].extra or {})["env"])


def flag_name(key: str) -> str:
    return "--" + key.replace("_", "-")


def describe() -> list[Described]:
    """Every setting, in the order of the table."""
    rows = []
    for field in msgspec.structs.fields(Settings):
        kind, meta = _FIELDS[field.name]
        default = field.default
        shown = ",".join(default) if isinstance(default, tuple) else str(default)
        rows.append(
            Described(
                key=field.name,
                flag=flag_name(field.name),
                env=env_name(field.name),
                type=_NAMES.get(kind, "list"),
                default=("yes" if default else "no") if isinstance(default, bool) else shown,
                doc=meta.description or "",
            )
        )
    return rows


def load(flags: Mapping[str, str], environ: Mapping[str, str], config: str | None = None) -> Settings:
    """Settings from all sources. `flags` are texts by key. Raises BadSettings."""
    values: dict[str, tuple[str, Any]] = {}  # key -> (where it was said, value)
    if config is not None:
        values |= _from_file(Path(config))
    for key in _FIELDS:
        said = _from_environment(env_name(key), environ)
        if said is not None:
            values[key] = said
    for key, text in flags.items():
        if key not in _FIELDS:
            raise BadSettings(flag_name(key), "there is no such setting")
        values[key] = (flag_name(key), text)
    settings = Settings(**{key: _convert(key, name, value) for key, (name, value) in values.items()})
    _check(settings, {key: name for key, (name, _) in values.items()})
    return settings


def _from_file(path: Path) -> dict[str, tuple[str, Any]]:
    try:
        read = tomllib.loads(path.read_text())
    except OSError as error:
        raise BadSettings("--config", f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings("--config", f"{path} is not TOML: {error}") from error
    for key in read:
        if key not in _FIELDS:
            raise BadSettings(f"{path}: {key}", "there is no such setting")
    return {key: (f"{path}: {key}", value) for key, value in read.items()}


def _from_environment(name: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    if name in environ:
        return name, environ[name]
    twin = name + "_FILE"
    if twin not in environ:
        return None
    try:
        return twin, Path(environ[twin]).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(twin, f"cannot read {environ[twin]}: {error}") from error


_YES: Final = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _convert(key: str, name: str, value: Any) -> Any:
    """The value as its type, checked against its bounds. Texts are read, other types must fit as they are."""
    kind, _ = _FIELDS[key]
    if isinstance(value, str):
        if kind is bool:
            if value.strip().lower() not in _YES:
                raise BadSettings(name, f"{value!r} is neither yes nor no")
            value = _YES[value.strip().lower()]
        elif kind not in (str, int, float):
            value = [part.strip() for part in value.split(",") if part.strip()]
    hint = get_type_hints(Settings, include_extras=True)[key]
    try:
        return msgspec.convert(value, hint, strict=not (isinstance(value, str) and kind in (int, float)))
    except msgspec.ValidationError as error:
        raise BadSettings(name, f"{str(error).partition(' - at ')[0]}, got {value!r}") from error


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_ORIGIN: Final = re.compile(r"^https?://[^/?#\s]+$")


def _check(settings: Settings, names: Mapping[str, str]) -> None:
    """What the settings must be together. Raises BadSettings."""

    def name(key: str) -> str:
        return names.get(key, env_name(key))

    if not is_loopback(settings.host) and not settings.insecure_listen:
        raise BadSettings(
            name("host"),
            f"{settings.host} can be reached from other machines, and this connection is not encrypted. Put a proxy "
            "with TLS in front and listen on 127.0.0.1, or say --insecure-listen (MANAGER_INSECURE_LISTEN=1) if the "
            "network is yours.",
        )
    if settings.host_ttl_s < 3 * settings.heartbeat_s:
        raise BadSettings(
            name("host_ttl_s"),
            f"{settings.host_ttl_s:g} s is less than three heartbeats of {settings.heartbeat_s:g} s: one lost packet "
            "would take a host away",
        )
    if settings.host_ttl_s < 3 * FASTEST_HEARTBEAT_S:
        raise BadSettings(
            name("host_ttl_s"),
            f"{settings.host_ttl_s:g} s is less than three heartbeats: a host gives one a second at most",
        )
    for origin in settings.origins:
        if not _ORIGIN.match(origin):
            raise BadSettings(name("origins"), f"{origin!r} is not an origin such as https://fleet.example")
    url = settings.database_url
    if url and not (url.startswith("sqlite:///") and url.removeprefix("sqlite:///")):
        raise BadSettings(
            name("database_url"), f"{url.partition(':')[0]!r} is no database that we know: sqlite:///PATH"
        )


class Chosen(msgspec.Struct, frozen=True):
    """What a process was told: its settings, and who waits for the line that says it listens."""

    settings: Settings
    ready_descriptors: list[int]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadSettings("flags", f"{message}; `fleetgate manager --help` lists them")


def parser() -> argparse.ArgumentParser:
    """The flags: one for each setting, and those that are about this start alone."""
    flags = _Parser(
        prog="fleetgate manager",
        description="The manager: keeps the truth about hosts and tasks, and serves it.",
        epilog="Flags win over the environment, the environment over the file, the file over the defaults.",
        allow_abbrev=False,
    )
    flags.add_argument("--config", metavar="FILE", help="a TOML file of settings")
    flags.add_argument("--print-ready", action="store_true", help="one line of JSON on stdout when it listens")
    flags.add_argument("--ready-fd", type=int, metavar="N", help="the same line to this file descriptor")
    for row in describe():
        text = f"{row.doc} [{row.env}; {row.default or 'empty'}]".replace("%", "%%")
        if _FIELDS[row.key][0] is bool:
            flags.add_argument(row.flag, dest=f"setting:{row.key}", nargs="?", const="yes", metavar="YES", help=text)
        else:
            flags.add_argument(row.flag, dest=f"setting:{row.key}", metavar="VALUE", help=text)
    return flags


def from_process(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> Chosen:
    """Settings of this process. Raises BadSettings."""
    said = vars(parser().parse_args(arguments))
    flags = {
        name.removeprefix("setting:"): text
        for name, text in said.items()
        if name.startswith("setting:") and text is not None
    }
    descriptors = [1] if said["print_ready"] else []
    if said["ready_fd"] is not None:
        descriptors.append(said["ready_fd"])
    return Chosen(load(flags, environ, said["config"]), descriptors)
