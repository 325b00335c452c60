"""`doctor`: what is not as it should be, and what to do about it."""

import os
import platform
import shutil
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from client.clock import now_ms
from client.desk import Desk, command

if TYPE_CHECKING:
    from shared_types.hosts import HostStatus

OK, WARN, FAIL = "ok", "warn", "fail"
MAX_SKEW_S: Final = 30.0
SILENT_MS: Final = 90_000
FULL: Final = 0.95
JOURNALS_FULL: Final = 0.8  # where a host takes no new tasks
LITTLE_BYTES: Final = 1_000_000_000
_SIGNS: Final = {OK: ("✓ ok  ", "good"), WARN: ("! warn", "warn"), FAIL: ("✗ fail", "bad")}


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line: `name` is stable, `found` a sentence, `hint` what to do."""

    name: str
    state: str
    found: str
    hint: str | None = None


@command("doctor")
async def doctor(desk: Desk) -> int:
    """Check this machine, the way to the manager, and the hosts. Exit code 1 when something fails."""
    from client.access import home_of

    findings = [python(), *home_findings(home_of()), disk(home_of())]
    findings += await manager_findings(desk)
    failed = any(finding.state == FAIL for finding in findings)
    if desk.console.as_json:
        desk.console.document({"ok": not failed, "checks": findings})
    else:
        show(desk, findings)
    return 1 if failed else 0


def show(desk: Desk, findings: list[Finding]) -> None:
    from client.terminal.columns import Cell, pad
    from client.terminal.escapes import harmless
    from client.terminal.styles import styled

    console = desk.console
    wide = max(len(finding.name) for finding in findings)
    lead = " " * (10 + wide)  # below what was found
    for finding in findings:
        sign = Cell(*_SIGNS[finding.state])
        shown = styled(sign.text, sign.style) if console.out_colours else sign.text
        found = console.folded(lead + harmless(finding.found), out=True).removeprefix(lead)
        console.put(f"{shown}  {pad(finding.name, wide)}  {found}")
        if finding.hint:
            console.put(console.folded(lead + harmless(finding.hint), out=True), "dim")


# --- this machine -----------------------------------------------------------------------------------


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    said = ".".join(map(str, version))
    if version < (3, 11):
        return Finding(name="python", state=FAIL, found=said, hint="Fleetgate needs Python 3.11 or newer.")
    return Finding(name="python", state=OK, found=f"{said} on {platform.system()} {platform.machine()}")


def home_findings(home: Path) -> list[Finding]:
    if not home.exists():
        return [Finding(name="home", state=OK, found=f"{home} is not there yet; it is made when it is needed")]
    findings = []
    for name, path in (("home", home), ("client.toml", home / "client.toml"), ("gateway.toml", home / "gateway.toml")):
        if not path.exists():
            continue
        facts = path.stat()
        mode = stat.S_IMODE(facts.st_mode)
        if facts.st_uid != os.geteuid():
            findings.append(Finding(name=name, state=WARN, found=f"{path} belongs to another user"))
        elif mode & 0o077:
            wanted = "700" if path.is_dir() else "600"
            hint = f"chmod {wanted} {path}"
            findings.append(Finding(name=name, state=WARN, found=f"{path} is open to others ({mode:o})", hint=hint))
        else:
            findings.append(Finding(name=name, state=OK, found=f"{path} is yours alone"))
    return findings


def disk(home: Path) -> Finding:
    from client.terminal.times import size

    place = next(path for path in (home, *home.parents) if path.exists())
    usage = shutil.disk_usage(place)
    found = f"{size(usage.free)} free of {size(usage.total)} below {place}"
    if usage.free < LITTLE_BYTES:
        return Finding(name="disk", state=WARN, found=found, hint="Events and journals need room.")
    return Finding(name="disk", state=OK, found=found)


# --- the manager and its hosts ----------------------------------------------------------------------


async def manager_findings(desk: Desk) -> list[Finding]:
    from client.errors import BadAnswer, FleetgateError, Unreachable
    from client.terminal.times import count
    from shared_types import __version__

    findings: list[Finding] = []
    async with desk.fleet() as fleet:
        try:
            health, skew_s, took_ms = await fleet.probe()
        except (Unreachable, BadAnswer) as error:
            return [Finding(name="manager", state=FAIL, found=error.detail, hint=error.hint), *port(fleet.url)]
        findings.append(
            Finding(
                name="manager", state=OK, found=f"{fleet.url} answers in {took_ms:.0f} ms, version {health.version}"
            )
        )
        findings += [
            Finding(name="manager", state=WARN, found=f"{part}: {what}") for part, what in health.degraded.items()
        ]
        if health.version != __version__:
            found = f"this client is {__version__}, the manager {health.version}"
            findings.append(Finding(name="version", state=WARN, found=found, hint="Use the same version on both."))
        if skew_s is not None:
            findings.append(clock(skew_s))
        try:
            await fleet.tokens()
            hosts = await fleet.hosts()
        except FleetgateError as error:
            return [*findings, Finding(name="token", state=FAIL, found=error.detail, hint=error.hint)]
        findings.append(Finding(name="token", state=OK, found=f"good (from {fleet.access.token_from})"))
        findings += hosts_findings(hosts, now_ms())
        if health.tasks_queued:
            found = f"{count(health.tasks_queued, 'task')} in the queue"
            findings.append(Finding(name="queue", state=OK, found=found, hint="fleetgate why ID says what for."))
    return findings


def clock(skew_s: float) -> Finding:
    if abs(skew_s) > MAX_SKEW_S:
        ahead = "ahead of" if skew_s > 0 else "behind"
        found = f"this machine's clock is {abs(skew_s):.0f} s {ahead} the manager's"
        return Finding(name="clock", state=WARN, found=found, hint="Times are shown wrong: set the clock (NTP).")
    return Finding(name="clock", state=OK, found="agrees with the manager's")


def port(url: str) -> list[Finding]:
    """Nobody answers: is the port free, or does something else sit there?"""
    from urllib.parse import urlsplit

    from client.access import is_loopback
    from client.errors import BadConfig
    from client.house import check_port

    parts = urlsplit(url)
    number = parts.port or 80
    if not is_loopback(url):
        return []
    try:
        check_port(parts.hostname or "127.0.0.1", number)
    except BadConfig as error:
        found = f"{error.detail}, by something that is no manager"
        return [Finding(name="port", state=FAIL, found=found, hint="fleetgate up --port 0 takes another one.")]
    return [Finding(name="port", state=OK, found=f"{number} is free: nothing runs there")]


def hosts_findings(hosts: "list[HostStatus]", now: int) -> list[Finding]:
    from client.terminal.words import host_words
    from shared_types.hosts import HostState

    if not hosts:
        return [Finding(name="hosts", state=WARN, found="no host has ever joined", hint="Add one: fleetgate invite")]
    findings = []
    if all(host.status is HostState.OFFLINE for host in hosts):
        findings.append(
            Finding(
                name="hosts",
                state=FAIL,
                found="none is connected: no task can run",
                hint="On a host: fleetgate gateway",
            )
        )
    names = host_words(hosts)
    for host in hosts:
        findings += host_findings(host, now, names[host.host_id])
    return findings


def host_findings(host: "HostStatus", now: int, called: str) -> list[Finding]:
    from client.terminal.times import ago
    from shared_types.hosts import HostState

    name = f"host {called}"
    if host.status is HostState.OFFLINE:
        found = f"offline; last seen {ago(host.last_heartbeat, now)}"
        return [Finding(name=name, state=WARN, found=found, hint="On that machine: fleetgate gateway")]
    findings = []
    words = f"{host.status}, {host.slots_used} of {host.slots} slots in use"
    if host.last_heartbeat is not None and now - host.last_heartbeat > SILENT_MS:
        findings.append(Finding(name=name, state=WARN, found=f"silent for {ago(host.last_heartbeat, now)[:-4]}"))
    elif host.draining:
        hint = f"fleetgate resume {host.host_id}"
        findings.append(Finding(name=name, state=WARN, found=f"{words}; it takes no new tasks", hint=hint))
    else:
        findings.append(Finding(name=name, state=OK, found=words))
    if host.vitals is not None and host.vitals.disk > FULL:
        findings.append(Finding(name=name, state=WARN, found=f"its disk is {host.vitals.disk:.0%} full"))
    if host.vitals is not None and host.vitals.journals is not None and host.vitals.journals > JOURNALS_FULL:
        found = f"its journals take {host.vitals.journals:.0%} of what they may; it takes no new tasks"
        hint = "It frees them when the manager has what they hold. More room: GATEWAY_JOURNAL_QUOTA"
        findings.append(Finding(name=name, state=WARN, found=found, hint=hint))
    usable = 0
    for agent in host.agents:
        what = f"{agent.agent} {agent.version or ''}".strip()
        if agent.auth_ok is False or agent.path is None:
            found = f"{what}: {'not logged in' if agent.auth_ok is False else 'cannot be run'}"
            findings.append(Finding(name=name, state=WARN, found=found, hint=agent.hint))
        else:
            usable += 1
            sure = "" if agent.auth_ok else " (could not tell whether it is logged in)"
            findings.append(Finding(name=name, state=OK, found=f"{what}{sure}"))
    if not usable and not (host.protocol == 1 and host.capabilities.agents):
        hint = "Install claude, opencode or gemini there and log in, or declare an agent in gateway.toml."
        findings.append(Finding(name=name, state=WARN, found="offers no agent", hint=hint))
    return findings
