"""The first words of `up` and `demo`: where it is, how to get in, what is here, how to add a machine."""

from pathlib import Path

from client.access import is_loopback
from client.desk import Desk
from client.house import House
from client.terminal.escapes import one_line
from client.terminal.words import ALONE, agent_words, join_line, program_words
from shared_types import __version__
from shared_types.hosts import HostStatus


async def introduce(desk: Desk, house: House, *, show_token: bool, home: Path | None = None) -> None:
    """Where it is, how to get in, what is here, how to add a machine."""
    console = desk.console
    host = await house.host()
    code = await house.fleet.join_code()
    line = join_line(house.reach, code.code)
    if console.as_json:
        console.line(
            {
                "url": house.url,
                "tokenFile": str(house.token_file),
                "hostId": house.host_id,
                "agents": host.agents,
                "join": line,
                "logs": None if house.logs is None else str(house.logs),
            }
        )
        return
    if console.quiet:
        console.put(house.url)
        return
    agents = ", ".join(one_line(agent_words(info)) for info in host.agents)
    console.put(f"Fleetgate {__version__} is up.", "bold")
    console.put()
    console.put(f"  URL       {house.url}")
    if show_token:
        console.put(f"  Token     {house.token}")
        console.put(f"            shown this once; kept in {house.token_file}", "dim")
    else:
        console.put(f"  Token     in {house.token_file}")
    console.put(f"  Host      {one_line(host.name)}, {host.slots} tasks at a time")
    console.put(f"  Agents    {agents or 'none found: install claude, opencode or gemini and log in'}")
    if house.logs is not None:
        console.put(f"  Logs      {house.logs}")
    console.put()
    console.put("  Run a task, in another terminal:")
    if home is not None:
        console.put(f"    export FLEETGATE_HOME={home}")
    console.put(f'    {program_words()} run "what is in this directory?"{_say_agent(host)}')
    console.put("  Add a machine; run there, once, within the hour:")
    console.put(f"    {line}")
    if is_loopback(house.reach):
        console.put(f"    {ALONE}", "dim")
    console.put()
    if home is None:
        console.say("Ctrl-C stops both.")


def _say_agent(host: HostStatus) -> str:
    usable = [info.agent for info in host.agents if info.auth_ok is not False]
    return f" -a {usable[0]}" if len(usable) > 1 else ""
