"""Phrases that several commands use."""

import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from shared_types.hosts import AgentInfo, HostStatus

ALONE: Final = "Only from this machine: others need `--insecure-listen`, or a TLS proxy."


def agent_words(info: AgentInfo) -> str:
    """
    >>> agent_words(AgentInfo(agent="gemini", version="0.61.0", auth_ok=False))
    'gemini 0.61.0 (not logged in)'
    """
    version = f" {info.version}" if info.version else ""
    return f"{info.agent}{version}{' (not logged in)' if info.auth_ok is False else ''}"


def join_line(url: str, code: str) -> str:
    return f"fleetgate join {url} {code}"


def host_words(hosts: Sequence[HostStatus]) -> Mapping[str, str]:
    """What to call each host, by id: its name, and its id too where others are called the same."""
    called = Counter(host.name for host in hosts)
    return {
        host.host_id: host.name
        if called[host.name] == 1 or host.name == host.host_id
        else f"{host.name} {host.host_id}"
        for host in hosts
    }


def beginnings(names: Iterable[str], least: int) -> Mapping[str, str]:
    """For each name its shortest beginning that no other one has.

    >>> beginnings(["tok_aaaa", "tok_aabb", "tok_c"], least=5)
    {'tok_aaaa': 'tok_aaa', 'tok_aabb': 'tok_aab', 'tok_c': 'tok_c'}
    """
    ordered = sorted(names)
    found = {}
    for at, name in enumerate(ordered):
        neighbours = ordered[max(0, at - 1) : at] + ordered[at + 1 : at + 2]
        shared = max((_shared(name, other) for other in neighbours), default=0)
        found[name] = name[: max(least, shared + 1)]
    return found


def _shared(one: str, other: str) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def program_words() -> str:
    """How to call this program in a shell: by its name where that finds it, else by its path."""
    ours = Path(sys.executable).with_name("fleetgate")
    found = shutil.which("fleetgate")
    if not ours.exists() or (found is not None and Path(found).resolve() == ours.resolve()):
        return "fleetgate"
    return shlex.quote(str(ours))
