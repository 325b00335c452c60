"""A manager and a gateway on this machine as one program: what `fleetgate up` is.

They are processes of their own, started by `python -P -m` and spoken to by HTTP like any other: this file imports
neither. The manager's address and a token for people are kept in `<home>/client.toml`, the gateway's identity in
`<home>/up.toml` and `<home>/up-host.token`, all 0600. Started again it finds what it had.
"""

import errno
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import anyio

from client.access import is_loopback, keep_access, link_url, make_home, read_toml, set_keys, write_secret
from client.console import Console
from client.errors import BadConfig, Denied
from client.joining import host_id_for
from client.sdk import AsyncFleetgate
from client.supervisor import Child, Program, check_installed, kept_running, tend_logs
from shared_types.api import TokenKind
from shared_types.hosts import HostStatus


@dataclass(frozen=True, slots=True)
class Plan:
    """How to open the house."""

    home: Path
    host: str = "127.0.0.1"
    port: int = 3001
    insecure: bool = False  # listen beyond loopback
    cwd: str | None = None
    verbose: bool = False  # the programs' logs go to stderr
    stops_tasks: bool = False  # at the end; otherwise what still runs goes on, and the next `up` takes it up


@dataclass(frozen=True, slots=True)
class House:
    """Open: a manager that answers and a gateway that is connected to it."""

    url: str
    reach: str  # the same for other machines
    token: str
    token_is_new: bool
    token_file: Path
    host_id: str
    logs: Path | None  # where they are; None: the programs write to our stderr
    fleet: AsyncFleetgate
    children: list[Child]

    async def host(self) -> HostStatus:
        return await self.fleet.host(self.host_id)


MANAGER: Final = ("manager", "--print-ready")
GATEWAY: Final = ("gateway", "--print-ready")


def check_port(host: str, port: int) -> None:
    """Raises BadConfig when somebody listens there already."""
    if port == 0:
        return
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise BadConfig(
                f"port {port} on {host} is in use",
                hint="If that is a Fleetgate, use it: fleetgate ls. "
                "To start another: FLEETGATE_HOME=~/other fleetgate up --port 0",
            ) from error
        raise BadConfig(f"cannot listen on {host} port {port}: {error.strerror}") from error


@asynccontextmanager
async def opened(
    plan: Plan,
    console: Console,
    environ: Mapping[str, str] = os.environ,
    *,
    children: list[Child] | None = None,
) -> AsyncIterator[House]:
    """Both are up; leaving ends the gateway, then the manager. Raises BadConfig, ChildEnded and what the SDK raises."""
    check_installed("manager")
    make_home(plan.home)
    check_port(plan.host, plan.port)
    family: list[Child] = [] if children is None else children
    bootstrap = plan.home / "manager.token"
    manager = Program("manager", MANAGER, log=_log(plan, "manager"))
    manager.env = {
        "FLEETGATE_HOME": str(plan.home),
        "MANAGER_HOST": plan.host,
        "MANAGER_PORT": str(plan.port),
        "MANAGER_BOOTSTRAP_TOKEN_FILE": str(bootstrap),
        **({"MANAGER_INSECURE_LISTEN": "yes"} if plan.insecure else {}),
    }
    async with kept_running(manager, console.say, environ) as child:
        family.append(child)
        url = near(str(child.ready["url"]).rstrip("/"))
        manager.env["MANAGER_PORT"] = str(urlsplit(url).port)  # started again, it is found where it was
        said = child.ready.get("token")
        token, is_new = await find_token(plan.home, url, said if isinstance(said, str) else None, bootstrap)
        _tell_of_change(plan.home, url, console)
        token_file = keep_access(plan.home, url, token)
        async with AsyncFleetgate(url, token) as fleet:
            host_id, secret_file = await identity(fleet, plan.home)
            end = signal.SIGQUIT if plan.stops_tasks else signal.SIGTERM  # gateway/app.py, "How it ends"
            gateway = Program("gateway", GATEWAY, log=_log(plan, "gateway"), end_with=end)
            gateway.env = {
                "FLEETGATE_HOME": str(plan.home),
                "GATEWAY_SERVER_URL": link_url(url),
                "GATEWAY_HOST_ID": host_id,
                "GATEWAY_HOST_NAME": environ.get("GATEWAY_HOST_NAME") or socket.gethostname(),
                "GATEWAY_AUTH_TOKEN_FILE": str(secret_file),
                **({"GATEWAY_CWD": plan.cwd} if plan.cwd else {}),
            }
            others = {name: value for name, value in environ.items() if name != "GATEWAY_AUTH_TOKEN"}
            async with kept_running(gateway, console.say, others) as second, anyio.create_task_group() as group:
                family.append(second)
                group.start_soon(tend_logs, tuple(log for log in (manager.log, gateway.log) if log is not None))
                logs = None if plan.verbose else plan.home / "logs"
                yield House(url, far(url, plan.host), token, is_new, token_file, host_id, logs, fleet, family)
                group.cancel_scope.cancel()


def _log(plan: Plan, name: str) -> Path | None:
    return None if plan.verbose else plan.home / "logs" / f"{name}.log"


def near(url: str) -> str:
    """Where this machine finds a manager that listens on all its addresses.

    >>> near("http://0.0.0.0:3001"), near("http://[::]:80"), near("http://10.0.0.5:1")
    ('http://127.0.0.1:3001', 'http://[::1]:80', 'http://10.0.0.5:1')
    """
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def far(url: str, listens_on: str) -> str:
    """Where others find a manager that listens on all addresses of this machine: at the one we go out with."""
    family = {"0.0.0.0": socket.AF_INET, "::": socket.AF_INET6}.get(listens_on)  # noqa: S104 - recognised, not bound
    if family is None:
        return url
    somewhere = "192.0.2.1" if family is socket.AF_INET else "2001:db8::1"  # RFC 5737 and 3849: nobody is there
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((somewhere, 9))  # of a datagram socket: chooses a route and sends nothing
        except OSError:
            return url  # this machine is connected to nothing
        ours = probe.getsockname()[0]
    return f"http://{f'[{ours}]' if ':' in ours else ours}:{urlsplit(url).port}"


async def find_token(home: Path, url: str, said: str | None, bootstrap: Path) -> tuple[str, bool]:
    """A token for people that works, and whether it is another than we had. Raises BadConfig."""
    kept = read_toml(home / "client.toml").get("token")
    for token in (kept, said, _written(bootstrap)):
        if not isinstance(token, str) or not token:
            continue
        async with AsyncFleetgate(url, token) as fleet:
            try:
                await fleet.tokens()
            except Denied:
                continue
        return token, token != kept
    raise BadConfig(
        f"the manager of {home} has tokens and none of them is kept here",
        hint="Log in with one of them (`fleetgate login`), or start with an empty FLEETGATE_HOME.",
    )


def _written(file: Path) -> str | None:
    return file.read_text().strip() if file.exists() else None


def _tell_of_change(home: Path, url: str, console: Console) -> None:
    before = read_toml(home / "client.toml").get("url")
    if isinstance(before, str) and before != url and not is_loopback(before):
        console.say(f"commands on this machine went to {before}; from now on they go to {url}", "warn")


async def identity(fleet: AsyncFleetgate, home: Path) -> tuple[str, Path]:
    """The host id of this machine's gateway, and the file with its token; made anew when the old one is not good."""
    file, secret_file = home / "up.toml", home / "up-host.token"
    kept = read_toml(file)
    host_id = str(kept.get("host_id") or host_id_for(socket.gethostname()))
    good = {one.id for one in await fleet.tokens() if one.revoked_at is None and one.host_id == host_id}
    if kept.get("token_id") in good and secret_file.exists():
        return host_id, secret_file
    made = await fleet.create_token(f"gateway of {host_id}", kind=TokenKind.HOST, host_id=host_id)
    write_secret(secret_file, made.token + "\n")
    write_secret(file, set_keys("", {"host_id": host_id, "token_id": made.info.id}))
    return host_id, secret_file


async def until_told(leave: anyio.CancelScope, family: list[Child], console: Console, word: str) -> None:
    """The first SIGINT or SIGTERM cancels `leave`; further ones hurry the programs that are still there."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        is_leaving = False
        async for _ in signals:
            if is_leaving:
                for child in reversed(family):
                    child.hurry()
            else:
                is_leaving = True
                console.say(word)
                leave.cancel()
