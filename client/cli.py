"""`fleetgate`: one program for all roles. Sub-commands are imported when they are used, so `--version` is quick.

Exit codes: 0 ok, 1 the task failed, 2 usage, 3 not found, 4 denied, 69 manager unreachable, 78 configuration,
124 timeout, 130 interrupted.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import rich_click as click

from client.desk import ReaderLeft
from shared_types import __version__

INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141  # as if SIGPIPE had ended us
TEXTS: Final = frozenset({"prompt", "text"})  # arguments that may begin with a dash
EVERYWHERE: Final = frozenset({"--url", "--json", "-q", "--quiet"})  # options of nearly every command

_HOME: Final = {
    "tasks": ["ls", "show", "send", "stop", "kill", "retry", "wait", "why"],
    "running": ["run", "attach"],
    "logs": ["logs"],
    "hosts": ["hosts", "drain", "resume", "invite", "join"],
    "access": ["login", "token", "config"],
    "machine": ["up", "demo", "manager", "gateway"],
    "doctor": ["doctor"],
    "about": ["version", "completion"],
}
COMMANDS: Final = {name: f"client.commands.{module}" for module, names in _HOME.items() for name in names}

GROUPS: Final = {
    "Start": ["up", "demo", "join", "gateway", "manager"],
    "Tasks": ["run", "ls", "show", "logs", "attach", "send", "stop", "kill", "retry", "wait", "why"],
    "Hosts": ["hosts", "drain", "resume", "invite"],
    "Access": ["login", "token", "config"],
    "This program": ["doctor", "completion", "version"],
}


class Lazy(click.RichGroup):
    """Knows its commands by name and imports a module when one of its commands is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found = getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name.replace("-", "_"))
        assert isinstance(found, click.Command)
        return found


@click.group(
    cls=Lazy,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Where the manager is: --url, FLEETGATE_URL, `fleetgate login`. A unique beginning of an id is enough.",
)
@click.version_option(__version__, prog_name="fleetgate", message="%(prog)s %(version)s")
@click.rich_config(
    help_config=click.RichHelpConfiguration(
        theme="default-nu",
        command_groups={"fleetgate": [{"name": name, "commands": commands} for name, commands in GROUPS.items()]},
    )
)
def fleetgate() -> None:
    """Send work to coding agents on every machine you own, and watch it live."""


def run(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    try:
        result = fleetgate.main(
            args=list(arguments) if arguments is not None else None, prog_name="fleetgate", standalone_mode=False
        )
        sys.stdout.flush()
    except click.ClickException as error:
        return _misused(error)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except ReaderLeft:
        # https://docs.python.org/3/library/signal.html#note-on-sigpipe: the flush at exit must not complain again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except Exception as error:
        return _explain(error)
    return result if isinstance(result, int) else 0


def _misused(error: click.ClickException) -> int:
    """Told as any other error: a sentence, and what to do."""
    from client.console import Console

    ctx = error.ctx if isinstance(error, click.UsageError) else None
    detail, hint = (error.format_message(), None) if ctx is None else _sentences(error, ctx)
    Console().complain(detail, hint)
    return error.exit_code


def _sentences(error: click.ClickException, ctx: click.Context) -> tuple[str, str]:
    from difflib import get_close_matches

    command, path = ctx.command, ctx.command_path
    if isinstance(error, click.NoSuchOption):
        name = error.option_name
        if error.possibilities:
            return error.message, f"Did you mean {' or '.join(error.possibilities[:2])}?"
        if any(parameter.name in TEXTS for parameter in command.params):
            return error.message, f"A text that begins with - needs a -- before it: -- '{name}...'"
        if ctx.parent is None and name in EVERYWHERE:
            return error.message, f"Options stand behind the command: {path} ls {name}"
    if isinstance(command, click.Group):
        wanted = getattr(error, "command_name", "")  # click 8.4 has it
        for near in get_close_matches(wanted, command.list_commands(ctx), n=1):
            return error.message, f"Did you mean {path} {near}?"
    return error.format_message(), f"See {path} --help."


def _explain(error: Exception) -> int:
    from client.console import Console
    from client.errors import ApiError, FleetgateError

    if not isinstance(error, FleetgateError):
        raise error
    console = Console()
    console.complain(error.detail, error.hint)
    if isinstance(error, ApiError):
        for field in error.fields:
            if field.message not in error.detail:
                console.complain(f"{field.key}: {field.message}")
    return error.exit_code


def main() -> NoReturn:
    sys.exit(run())
