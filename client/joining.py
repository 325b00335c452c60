"""`gateway.toml`: what a machine keeps when it has become a host. The gateway reads it (gateway/settings.py)."""

import re
import secrets
import tomllib
from pathlib import Path

from client.access import link_url, make_home, normal_url, read_toml, set_keys, write_secret
from client.errors import BadUsage, Conflict
from client.sdk import AsyncFleetgate
from shared_types.api import Joined


def host_id_for(machine: str) -> str:
    """
    >>> host_id_for("my laptop.local"), host_id_for("---")
    ('my-laptop.local', 'host')
    """
    return re.sub(r"[^A-Za-z0-9._:-]", "-", machine).strip("-._:")[:100] or "host"


async def become_host(fleet: AsyncFleetgate, code: str, name: str, host_id: str | None) -> Joined:
    """Under the id that was asked for; else under one that is like the name, so that people know it again."""
    if host_id is not None:
        return await fleet.join(code, name, host_id=host_id)
    like_it = host_id_for(name)
    try:
        return await fleet.join(code, name, host_id=like_it)
    except Conflict as error:
        if error.code != "HOST_EXISTS":
            raise
    return await fleet.join(code, name, host_id=f"{like_it}-{secrets.token_hex(3)}")


def gateway_file(home: Path) -> Path:
    return home / "gateway.toml"


def dial_url(came_by: str, said: str) -> str:
    """Where the gateway dials: as the manager says, but never less safely than we came to it ourselves.

    >>> dial_url("https://fleet.example", "ws://fleet.example"), dial_url("http://10.0.0.5:3001", "ws://mgr:3001")
    ('wss://fleet.example', 'ws://mgr:3001')
    """
    ours = link_url(came_by)
    if ours.startswith("wss://") and not said.startswith("wss://"):
        return ours
    return said or ours


def joined_elsewhere(home: Path, url: str) -> str | None:
    """The manager that this machine is a host of, when it is another than `url`."""
    kept = read_toml(gateway_file(home))
    server = kept.get("server_url")
    if "auth_token" not in kept or not isinstance(server, str):
        return None
    try:
        same = normal_url(server) == normal_url(url)
    except BadUsage:
        same = False
    return None if same else server


def write_gateway(home: Path, came_by: str, joined: Joined, name: str) -> Path:
    """Set what the join gave; declared agents, roots and other settings stay as they are."""
    make_home(home)
    path = gateway_file(home)
    text = path.read_text(encoding="utf-8") if read_toml(path) else ""
    values = {
        "server_url": dial_url(came_by, joined.url),
        "host_id": joined.host_id,
        "host_name": name,
        "auth_token": joined.token,
    }
    if joined.labels and "labels" not in tomllib.loads(text):
        values["labels"] = ",".join(f"{key}={value}" for key, value in joined.labels.items())
    write_secret(path, set_keys(text, values))
    return path
