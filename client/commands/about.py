"""version, completion."""

import rich_click as click

from client.desk import Desk, command
from shared_types import __version__


@command("version")
async def version(desk: Desk) -> None:
    """The version of this program, and of the manager when it answers."""
    from client.errors import FleetgateError

    async with desk.fleet() as fleet:
        try:
            manager, trouble = (await fleet.health()).version, None
        except FleetgateError as error:
            manager, trouble = None, error.detail
    if desk.console.as_json:
        desk.console.document({"client": __version__, "manager": manager, "url": fleet.url})
        return
    desk.console.put(f"fleetgate {__version__}")
    if manager is not None:
        desk.console.put(f"manager   {manager} at {fleet.url}")
    else:
        desk.console.say(str(trouble))


HOW = {
    "bash": 'eval "$(fleetgate completion bash)"',
    "zsh": 'eval "$(fleetgate completion zsh)"',
    "fish": "fleetgate completion fish | source",
}


@command("completion", url=False, json=False)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(desk: Desk, shell: str) -> None:
    """Print what makes SHELL complete commands and options."""
    from click.shell_completion import get_completion_class

    from client.cli import fleetgate

    kind = get_completion_class(shell)
    assert kind is not None
    desk.console.put(kind(fleetgate, {}, "fleetgate", "_FLEETGATE_COMPLETE").source())
    if desk.console.out_is_terminal:
        desk.console.say(f"to use it, put this into your shell's start file: {HOW[shell]}")
