"""Machines: hosts, drain, resume; and how one becomes a host: invite, join."""

import socket
from typing import TYPE_CHECKING, Final

import rich_click as click

from client.clock import now_ms
from client.desk import Desk, command

if TYPE_CHECKING:
    from shared_types.hosts import HostStatus

LONGEST_CODE_MS: Final = 24 * 3600 * 1000


@command("hosts", quiet="Ids only.")
async def hosts(desk: Desk) -> None:
    """List hosts, their agents and how busy they are."""
    async with desk.fleet() as fleet:
        found = await fleet.hosts()
    console = desk.console
    if console.as_json:
        console.document(found)
    elif console.quiet:
        for host in found:
            console.put(host.host_id)
    elif not found:
        console.say("no hosts yet; add one: fleetgate invite")
    else:
        show_hosts(desk, found)


def show_hosts(desk: Desk, hosts: "list[HostStatus]") -> None:
    from client.terminal.columns import Cell, Column, Row
    from client.terminal.escapes import one_line
    from client.terminal.styles import HOST_SIGN, HOST_STYLE
    from client.terminal.times import ago
    from client.terminal.words import agent_words, host_words

    now, names = now_ms(), host_words(hosts)
    rows: list[Row] = []
    for host in hosts:
        agents = [agent_words(info) for info in host.agents] or list(host.capabilities.agents)
        status = f"{HOST_SIGN[host.status]} {host.status}{' (draining)' if host.draining else ''}"
        labels = ",".join(f"{name}={value}" for name, value in host.labels.items())
        disk = f"{host.vitals.disk:.0%}" if host.vitals else "-"
        rows.append(
            [
                one_line(names[host.host_id]),
                Cell(status, HOST_STYLE[host.status]),
                f"{host.slots_used}/{host.slots}",
                disk,
                ago(host.last_heartbeat, now),
                one_line(labels) or "-",
                one_line(", ".join(agents)) or "none found",
            ]
        )
    columns = [
        Column("HOST", shrinks=True),
        Column("STATUS"),
        Column("SLOTS", right=True),
        Column("DISK", right=True, leaves=4),
        Column("SEEN", right=True, leaves=3),
        Column("LABELS", shrinks=True, leaves=2),
        Column("AGENTS", folds=True),
    ]
    desk.console.table(columns, rows)


@command("drain")
@click.argument("host")
async def drain(desk: Desk, host: str) -> None:
    """No new tasks for HOST; what runs there goes on."""
    from client.arguments import host_id_of

    async with desk.fleet() as fleet:
        status = await fleet.drain(await host_id_of(fleet, host))
    if desk.console.as_json:
        desk.console.document(status)
    else:
        running = len(status.active_tasks)
        desk.console.say(f"{status.name} takes no new tasks; {running} still running there")


@command("resume")
@click.argument("host")
async def resume(desk: Desk, host: str) -> None:
    """New tasks for HOST again."""
    from client.arguments import host_id_of

    async with desk.fleet() as fleet:
        status = await fleet.resume(await host_id_of(fleet, host))
    if desk.console.as_json:
        desk.console.document(status)
    else:
        desk.console.say(f"{status.name} takes tasks again")


@command("invite", quiet="The code only.")
@click.option("--ttl", default="1h", metavar="TIME", help="How long the code is good for; at most a day.")
@click.option("-l", "--label", "labels", multiple=True, metavar="K=V", help="Labels for the new host; repeatable.")
async def invite(desk: Desk, ttl: str, labels: tuple[str, ...]) -> None:
    """A code with which one more machine becomes a host."""
    from client.access import is_loopback
    from client.arguments import pairs
    from client.errors import BadUsage
    from client.terminal.times import duration_ms, lasted
    from client.terminal.words import ALONE, join_line
    from shared_types.api import JoinCodeCreate

    ttl_ms = duration_ms(ttl)
    if not 1_000 <= ttl_ms <= LONGEST_CODE_MS:
        raise BadUsage(f"--ttl {ttl}: a code is good for at least a second and at most a day")
    async with desk.fleet() as fleet:
        wish = JoinCodeCreate(ttl=ttl_ms, labels=pairs(labels, "-l"))
        code = await fleet.join_code(wish)
        url = fleet.url
    console = desk.console
    line = join_line(url, code.code)
    if console.as_json:
        console.document({"code": code.code, "expiresAt": code.expires_at, "url": url, "command": line})
        return
    console.put(code.code if console.quiet else line)
    console.say(f"run it on the new machine; good once, for {lasted(wish.ttl)}")
    if is_loopback(url):
        console.say(ALONE, "warn")


@command("join", url=False)
@click.argument("url")
@click.argument("code")
@click.option("--name", metavar="NAME", help="What people call this machine; its host name otherwise.")
@click.option("--host-id", metavar="ID", help="Ask for this id, as a machine that was a host before.")
@click.option("--force", is_flag=True, help="Also when this machine is a host of another manager already.")
async def join(desk: Desk, url: str, code: str, name: str | None, host_id: str | None, force: bool) -> None:
    """Make this machine a host of the manager at URL, with a CODE from `fleetgate invite`."""
    from client.access import home_of, make_home, normal_url
    from client.errors import BadConfig
    from client.joining import become_host, gateway_file, joined_elsewhere, write_gateway
    from client.sdk import AsyncFleetgate

    home = home_of()
    make_home(home)
    before = joined_elsewhere(home, url)
    if before and not force:
        raise BadConfig(
            f"this machine is a host of {before} already",
            hint="Join anyway with --force, or keep both with another FLEETGATE_HOME.",
        )
    async with AsyncFleetgate(normal_url(url), "") as fleet:
        joined = await become_host(fleet, code, name or socket.gethostname(), host_id)
        write_gateway(home, fleet.url, joined, name or socket.gethostname())
    console = desk.console
    if console.as_json:
        console.document({"hostId": joined.host_id, "url": joined.url, "file": str(gateway_file(home))})
        return
    console.say(f"this machine is host {joined.host_id} now; its token is in {gateway_file(home)}")
    console.put("now run: fleetgate gateway")
