"""What people type, as values: NAME=VALUE pairs, prompts, directories, hosts by id, name or a beginning of one."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from client.errors import BadUsage, NotThere

if TYPE_CHECKING:
    from client.sdk import AsyncFleetgate


def pairs(texts: tuple[str, ...], option: str) -> dict[str, str]:
    """`k=v` as given several times."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise BadUsage(f"{option} {text!r} is not NAME=VALUE")
        found[name] = value
    return found


def host_directory(cwd: str | None) -> str | None:
    """`.` and `./x` are meant on this machine; anything else as the host has it."""
    return os.path.abspath(cwd) if cwd and cwd.startswith(".") else cwd


def prompt_of(text: str) -> str:
    """`-` is stdin."""
    if text == "-":
        text = sys.stdin.buffer.read().decode("utf-8", "replace")
    if not text.strip():
        raise BadUsage("the prompt is empty")
    return text


def pick(names: Sequence[tuple[str, str]], wanted: str, kind: str) -> str:
    """The id meant: an id, a name, or a unique beginning of one. `names` are (id, name).

    >>> pick([("h1", "laptop"), ("h2", "lab")], "lap", "host")
    'h1'
    """
    for at in (0, 1):
        exact = [one[0] for one in names if one[at] == wanted]
        if len(exact) == 1:
            return exact[0]
    found = sorted({one[0] for one in names if one[0].startswith(wanted) or one[1].startswith(wanted)})
    if len(found) == 1 and wanted:
        return found[0]
    known = ", ".join(sorted({name for _, name in names})[:10]) or "none"
    if found:
        raise NotThere(f"{wanted} may be {', '.join(found[:5])}: say more of it")
    raise NotThere(f"there is no {kind} {wanted}", hint=f"Known: {known}")


async def host_id_of(fleet: "AsyncFleetgate", wanted: str) -> str:
    return pick([(host.host_id, host.name) for host in await fleet.hosts()], wanted, "host")
