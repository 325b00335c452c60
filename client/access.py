"""Where the manager is and which token opens it: flag, environment, file, default. There is no default token.

    FLEETGATE_HOME        ~/.fleetgate, 0700
    FLEETGATE_URL         http://127.0.0.1:3001
    FLEETGATE_TOKEN       or FLEETGATE_TOKEN_FILE
    <home>/client.toml    url, token: written by `fleetgate up` and `fleetgate login`, 0600

The token of the file is sent to the url of the file and to nobody else.
"""

import ipaddress
import json
import os
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from client.errors import BadConfig, BadUsage

DEFAULT_PORT: Final = 3001
DEFAULT_URL: Final = f"http://127.0.0.1:{DEFAULT_PORT}"
LOGIN_HINT: Final = "On the manager's machine `fleetgate up` keeps one; elsewhere: fleetgate login {url}"


@dataclass(frozen=True, slots=True)
class Access:
    """`url_from` and `token_from` say where each came from."""

    url: str
    token: str | None
    url_from: str
    token_from: str


def home_of(environ: Mapping[str, str] = os.environ) -> Path:
    named = environ.get("FLEETGATE_HOME")
    return Path(named).expanduser().absolute() if named else Path.home() / ".fleetgate"


def make_home(home: Path) -> None:
    """0700, also when it was there with less. Raises BadConfig."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.chmod(0o700)
    except OSError as error:
        raise BadConfig(f"{home} cannot be used: {error.strerror}", hint="Set FLEETGATE_HOME.") from error


def find_access(url: str | None = None, environ: Mapping[str, str] = os.environ) -> Access:
    """Raises BadConfig, BadUsage."""
    file = home_of(environ) / "client.toml"
    kept = read_toml(file)
    kept_url, kept_token = (str(kept[name]) if name in kept else None for name in ("url", "token"))
    for given, source in (
        (url, "--url"),
        (environ.get("FLEETGATE_URL"), "FLEETGATE_URL"),
        (kept_url, str(file)),
        (DEFAULT_URL, "default"),
    ):
        if given:
            found, url_from = normal_url(given), source
            break
    token, token_from = environ.get("FLEETGATE_TOKEN"), "FLEETGATE_TOKEN"
    if not token and (token_file := environ.get("FLEETGATE_TOKEN_FILE")):
        token, token_from = _read_token(Path(token_file).expanduser()), f"FLEETGATE_TOKEN_FILE {token_file}"
    if not token and kept_token and kept_url and normal_url(kept_url) == found:
        token, token_from = kept_token, str(file)
    return Access(found, token or None, url_from, token_from if token else "none")


def _read_token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"FLEETGATE_TOKEN_FILE: {path} cannot be read: {error}") from error


def normal_url(text: str) -> str:
    """An address as people type it, as http(s)://host:port without a slash at the end. Raises BadUsage.

    >>> normal_url("box:3001"), normal_url("wss://fleet.example/"), normal_url("127.0.0.1")
    ('http://box:3001', 'https://fleet.example', 'http://127.0.0.1')
    """
    whole = text.strip() if "://" in text else f"http://{text.strip()}"
    try:
        parts = urlsplit(whole)
        port = parts.port
    except ValueError as error:
        raise BadUsage(f"{text} is not an address: {error}") from error
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    if scheme not in ("http", "https") or not parts.hostname:
        raise BadUsage(f"{text} is not the address of a manager", hint=f"It looks like {DEFAULT_URL}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise BadUsage("an address has no user, password, query or fragment", hint="Tokens never stand in a URL.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return urlunsplit((scheme, f"{host}:{port}" if port else host, parts.path.rstrip("/"), "", ""))


def link_url(url: str) -> str:
    """Where a gateway dials.

    >>> link_url("https://fleet.example"), link_url("http://127.0.0.1:3001")
    ('wss://fleet.example', 'ws://127.0.0.1:3001')
    """
    return "ws" + normal_url(url).removeprefix("http")


def is_loopback(url: str) -> bool:
    """
    >>> is_loopback("http://127.0.0.1:3001"), is_loopback("http://localhost"), is_loopback("http://10.0.0.5")
    (True, True, False)
    """
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# --- files ------------------------------------------------------------------------------------------


def read_toml(path: Path) -> dict[str, object]:
    """Empty when it is not there. Raises BadConfig."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadConfig(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path} is not TOML: {error}", hint="Mend it, or remove it.") from error


def write_secret(path: Path, text: str) -> None:
    """Whole or not at all, and readable by nobody else at any moment. Raises BadConfig."""
    try:
        handle, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, path)
        except BaseException:
            Path(fresh).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise BadConfig(f"{path} cannot be written: {error.strerror}") from error


def set_keys(text: str, values: Mapping[str, str]) -> str:
    r"""A TOML text with these top-level strings set; everything else, comments too, stays as it is.

    >>> set_keys('# mine\nurl = "a"\n[agents.x]\nurl = "stays"\n', {"url": "b", "token": "t"})
    '# mine\ntoken = "t"\nurl = "b"\n[agents.x]\nurl = "stays"\n'
    """
    wanted = {**tomllib.loads(text), **values}
    lines = text.splitlines()
    top = next((at for at, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    missing = dict(values)
    for at in range(top):
        name = lines[at].partition("=")[0].strip()
        if name in missing:
            lines[at] = f"{name} = {_toml_string(missing.pop(name))}"
    insert = next((at for at in range(top) if lines[at].strip() and not lines[at].lstrip().startswith("#")), top)
    lines[insert:insert] = [f"{name} = {_toml_string(value)}" for name, value in missing.items()]
    edited = "\n".join(lines) + "\n"
    if tomllib.loads(edited) != wanted:  # a string of several lines that looks like keys
        raise BadConfig(f"{', '.join(values)} cannot be set in this file without harm", hint="Set them by hand.")
    return edited


def _toml_string(value: str) -> str:
    """JSON's strings are TOML's basic strings, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def keep_access(home: Path, url: str, token: str) -> Path:
    """Write client.toml; what else stands there stays."""
    make_home(home)
    path = home / "client.toml"
    text = path.read_text(encoding="utf-8") if read_toml(path) else ""
    write_secret(path, set_keys(text, {"url": url, "token": token}))
    return path
