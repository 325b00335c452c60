"""The gateway put together: the only file that knows every part.

    one task group    crew.run        runners, one for each attempt
                      uplink.run      the socket to the manager
                      inventory.watch, vitals.watch
                      warm.run         keepers that wait for an attempt
                      notifier.run     signs of life for a service manager
                      _obey_signals   cancels the group, and so ends the gateway

How it ends
    SIGTERM, SIGINT   no new work; waits GATEWAY_DRAIN_TIMEOUT (default: not at all) for what runs, heartbeats go on;
                      then leaves. What still runs goes on under its keeper, and the next gateway adopts it: so a
                      restart, an upgrade or a crash costs no task anything.
    the same again,   stops every task (ask, TERM, grace, KILL), waits until the manager has their ends, at most
    or SIGQUIT        STOP_S, then leaves.
    revoked           exit code 77; settings that are wrong: 78; another gateway lives in this home: 75.
SIGHUP looks for agents again.
"""

import fcntl
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final
from uuid import uuid4

import anyio
import structlog
from anyio import CancelScope
from anyio.abc import TaskStatus

from gateway.agents.catalogue import with_commands
from gateway.core.link import Link
from gateway.core.policy import Limits, Policy
from gateway.errors import BadSettings, GatewayError, Revoked
from gateway.runtime import logs
from gateway.runtime.cgroups import Cgroups
from gateway.runtime.clock import SystemClock
from gateway.runtime.crew import Crew, Identity, Rules
from gateway.runtime.inventory import Inventory
from gateway.runtime.notify import Notifier
from gateway.runtime.uplink import Uplink, is_loopback
from gateway.runtime.vitals import VitalSigns
from gateway.runtime.warm import WarmKeepers
from gateway.settings import Settings, load
from shared_types import __version__

STOP_S: Final = 30.0
LEAVE_S: Final = 10.0  # what it takes to hang up and go
EX_OK, EX_BUSY, EX_REVOKED, EX_CONFIG = 0, 75, 77, 78

_log = structlog.get_logger(__name__)


class HomeTaken(GatewayError):
    """Another gateway lives in this home."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    try:
        settings = load(sys.argv[1:] if argv is None else argv, os.environ)
        logs.configure(settings.log_level)
        with _home(settings.home):
            return anyio.run(serve, settings)
    except BadSettings as error:
        return _give_up(error, EX_CONFIG)
    except HomeTaken as error:
        return _give_up(error, EX_BUSY)


def _give_up(error: Exception, code: int) -> int:
    sys.stderr.write(f"fleetgate gateway: {error}\n")
    return code


@contextmanager
def _home(home: Path) -> Iterator[None]:
    """Ours alone, while we live: two gateways that adopt the same attempts would both speak for them."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        (home / "attempts").mkdir(mode=0o700, exist_ok=True)
        lock = (home / "gateway.lock").open("a")
    except OSError as error:
        raise BadSettings("FLEETGATE_HOME", f"{home} cannot be used: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HomeTaken(f"another gateway lives in {home}") from error
        yield


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts that live as long as the gateway does."""

    link: Link
    crew: Crew
    uplink: Uplink
    inventory: Inventory
    vitals: VitalSigns
    warm: WarmKeepers
    notifier: Notifier

    async def live(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Until it is cancelled. Raises Revoked. `started` when it is about to dial: what an earlier gateway left is
        minded again by then. For a service manager we are ready, too: a manager that is away is not this host's
        fault, and to be started again would not bring it back.
        """
        async with anyio.create_task_group() as group:
            group.start_soon(self.notifier.run)
            await self.inventory.look()
            await self.vitals.look()
            await group.start(self.crew.run)
            self.inventory.changed = self.uplink.redial
            group.start_soon(self.inventory.watch)
            group.start_soon(self.vitals.watch)
            group.start_soon(self.warm.run)
            group.start_soon(self.uplink.run)
            self.notifier.say("READY=1", "STATUS=minds its agents and keeps in touch with the manager")
            task_status.started()


def put_together(settings: Settings, environ: Mapping[str, str], random: Random) -> Gateway:
    """Nothing runs yet."""
    clock = SystemClock()
    kinds = with_commands(settings.command_agents, settings.agent_profiles)
    chosen = {name: kind for name, kind in kinds.items() if not settings.only_agents or name in settings.only_agents}
    vitals = VitalSigns(settings.home, settings.journal_quota)
    inventory = Inventory(chosen, environ, settings.agent_env)
    warm = WarmKeepers(settings.home, settings.warm_keepers)
    link = Link(settings.host_id)
    crew = Crew(
        link,
        Identity(
            host_id=settings.host_id,
            name=settings.host_name,
            version=__version__,
            boot_id=_boot_id(),
            instance=uuid4().hex,
        ),
        Rules(
            cwd=settings.cwd,
            roots=settings.allowed_project_roots,
            task_env=settings.task_env,
            modes=settings.permission_modes,
        ),
        Policy(Limits(settings.max_concurrent, settings.task_timeout_ms, settings.labels)),
        home=settings.home,
        inventory=inventory,
        vitals=vitals,
        warm=warm,
        cgroups=Cgroups(settings.home, is_wanted=settings.cgroups),
        secrets=(settings.auth_token.value,),
        clock=clock,
    )
    uplink = Uplink(
        settings.server_url,
        settings.auth_token.value,
        link,
        crew,
        host_id=settings.host_id,
        clock=clock,
        vitals=vitals,
        random=random,
        on_welcome=_Ready(settings, inventory) if settings.print_ready else None,
    )
    crew.nudge = uplink.nudge
    return Gateway(link, crew, uplink, inventory, vitals, warm, Notifier(environ))


async def serve(settings: Settings) -> int:
    """Until it is told to end. The exit code."""
    if settings.server_url.startswith("ws://") and not is_loopback(settings.server_url):
        _log.warning("manager.unencrypted", url=settings.server_url, hint="use wss:// beyond this machine")
    gateway = put_together(settings, os.environ, Random())  # noqa: S311 - only spreads our knocking
    code = EX_OK
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_obey_signals, group.cancel_scope, settings, gateway)
            group.start_soon(gateway.live)
    except* Revoked as revoked:
        _log.error("manager.revoked", why=str(_first(revoked)), hint="join again: fleetgate join URL CODE")
        gateway.notifier.say("STOPPING=1", "STATUS=the manager revoked this host's token")
        code = EX_REVOKED
    _log.info("gateway.left", running=gateway.crew.alive)
    return code


def _first(error: BaseException) -> BaseException:
    """The error itself, out of the task groups that it came through."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _Ready:
    """Prints one line when the manager welcomes us for the first time: who waits for us can go on."""

    def __init__(self, settings: Settings, inventory: Inventory) -> None:
        self._settings = settings
        self._inventory = inventory
        self._was_said = False

    async def __call__(self) -> None:
        if self._was_said:
            return
        self._was_said = True
        facts = {
            "ready": True,
            "hostId": self._settings.host_id,
            "url": self._settings.server_url,
            "agents": self._inventory.offered,
            "pid": os.getpid(),
        }
        logs.Outlet(1).write(json.dumps(facts) + "\n")


# --- the end ------------------------------------------------------------------------------------------


async def _obey_signals(scope: CancelScope, settings: Settings, gateway: Gateway) -> None:
    """Until the end, which it brings by cancelling `scope`."""
    crew = gateway.crew
    is_leaving = False
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
    with anyio.open_signal_receiver(*numbers) as signals:
        async with anyio.create_task_group() as group:
            async for number in signals:
                if number == signal.SIGHUP:
                    gateway.inventory.look_again()
                    continue
                crew.drain()
                gateway.uplink.beat()
                if number == signal.SIGQUIT or is_leaving:
                    _log.warning("gateway.stops_tasks", running=crew.alive, within_s=STOP_S)
                    gateway.notifier.stopping("stops its tasks", STOP_S + LEAVE_S)
                    crew.stop_all()
                    group.start_soon(_leave, scope, crew, STOP_S)
                elif not is_leaving:
                    is_leaving = True
                    _log.info("gateway.drains", running=crew.alive, within_s=settings.drain_timeout_ms / 1000)
                    gateway.notifier.stopping("waits for its tasks", settings.drain_timeout_ms / 1000 + LEAVE_S)
                    group.start_soon(_leave, scope, crew, settings.drain_timeout_ms / 1000)


async def _leave(scope: CancelScope, crew: Crew, within_s: float) -> None:
    with anyio.move_on_after(within_s):
        await crew.wait_idle()
    scope.cancel()


# --- this machine -------------------------------------------------------------------------------------


def _boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() or None
    except OSError:
        return None  # not Linux
