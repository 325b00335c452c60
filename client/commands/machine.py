"""What runs on a machine: up, demo, manager, gateway."""

import os
import sys
from typing import TYPE_CHECKING, Final, NoReturn

import rich_click as click

from client.desk import Desk, command

if TYPE_CHECKING:
    from client.supervisor import Child

STOPPING: Final = "stopping; running tasks go on and the next `up` takes them up (Ctrl-C again stops them too)"
AS_IT_IS: Final = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


def become(program: str, arguments: list[str]) -> NoReturn:
    """Take this process's place. `-P`: a directory of the same name where we stand is never imported."""
    from client.supervisor import check_installed

    check_installed(program)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", program, *arguments])  # noqa: S606 - no shell


@command("manager", url=False, json=False, context_settings=AS_IT_IS, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def manager(desk: Desk, arguments: tuple[str, ...]) -> None:
    """Run the manager alone. Its own flags: fleetgate manager --help."""
    become("manager", list(arguments))


@command("gateway", url=False, json=False, context_settings=AS_IT_IS, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def gateway(desk: Desk, arguments: tuple[str, ...]) -> None:
    """Run this machine's gateway, after `join`. Its own flags: fleetgate gateway --help."""
    become("gateway", list(arguments))


def default_port() -> int:
    """MANAGER_PORT, as the manager itself reads it."""
    from client.access import DEFAULT_PORT
    from client.errors import BadConfig

    said = os.environ.get("MANAGER_PORT") or str(DEFAULT_PORT)
    if not said.isdigit():
        raise BadConfig(f"MANAGER_PORT: {said!r} is not a number")
    return int(said)


@command("up", url=False, quiet="Only the address.")
@click.option("--port", type=click.IntRange(0, 65535), help="Where the manager listens (3001); 0 takes a free port.")
@click.option("--insecure-listen", metavar="ADDRESS", help="Listen beyond this machine, without encryption.")
@click.option("--cwd", metavar="DIR", help="Where tasks without a directory run; the current directory otherwise.")
@click.option("-v", "--verbose", is_flag=True, help="Show the logs of both here instead of keeping files.")
async def up(desk: Desk, port: int | None, insecure_listen: str | None, cwd: str | None, verbose: bool) -> int:
    """A manager and a gateway on this machine, until Ctrl-C."""
    import anyio

    from client.access import home_of
    from client.arguments import host_directory
    from client.house import Plan, opened, until_told
    from client.welcome import introduce

    plan = Plan(
        home=home_of(),
        host=insecure_listen or os.environ.get("MANAGER_HOST") or "127.0.0.1",
        port=default_port() if port is None else port,
        insecure=insecure_listen is not None,
        cwd=host_directory(cwd),
        verbose=verbose,
    )
    async with anyio.create_task_group() as signals:
        family: list[Child] = []
        with anyio.CancelScope() as stay:
            signals.start_soon(until_told, stay, family, desk.console, STOPPING)
            async with opened(plan, desk.console, children=family) as house:
                await introduce(desk, house, show_token=house.token_is_new and desk.console.out_is_terminal)
                await anyio.sleep_forever()
        signals.cancel_scope.cancel()
    desk.console.say("stopped")
    return 0


@command("demo", url=False)
@click.option("--home", metavar="DIR", help="Keep everything there; a temporary directory otherwise.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="A free one otherwise.")
@click.option("--once", is_flag=True, help="Do not stay up after the sample task.")
async def demo(desk: Desk, home: str | None, port: int, once: bool) -> int:
    """Everything at once: a manager, a gateway, and one real task shown live; then it stays up."""
    from client.demo import show

    return await show(desk, home, port, once=once)
