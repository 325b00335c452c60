"""What every command works at: the console, the way to the manager, and the shape of a command.

    @command("ls", json=True, quiet=True)
    @click.option(...)
    async def ls(desk: Desk, ...) -> int | None: ...

Adds `--url`, `--json` and `-q` where they make sense, runs the coroutine, and gives its number as the exit code.
Heavy imports (httpx, anyio) happen when a command runs, not when its help is shown.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import rich_click as click

if TYPE_CHECKING:
    from client.console import Console
    from client.sdk import AsyncFleetgate


class ReaderLeft(Exception):
    """Whoever read our stdout has gone (`| head`): there is nothing more to say."""


class Desk:
    def __init__(self, *, url: str | None = None, as_json: bool = False, quiet: bool = False) -> None:
        self._url = url
        self._as_json = as_json
        self._quiet = quiet

    @functools.cached_property
    def console(self) -> Console:
        from client.console import Console

        return Console(as_json=self._as_json, quiet=self._quiet)

    def fleet(self) -> AsyncFleetgate:
        """The manager, from --url, the environment or what `login` and `up` keep. Use as a context manager."""
        from client.sdk import AsyncFleetgate

        return AsyncFleetgate(self._url)

    @property
    def url(self) -> str | None:
        """What --url said."""
        return self._url


Body = Callable[..., Any]


def command(
    name: str, *, url: bool = True, json: bool = True, quiet: str | None = None, **settings: Any
) -> Callable[[Body], click.Command]:
    """`quiet` is the help of `-q`; without it there is none."""

    def decorate(body: Body) -> click.Command:
        @functools.wraps(body)
        def run(**given: Any) -> Any:
            desk = Desk(
                url=given.pop("manager_url", None), as_json=given.pop("as_json", False), quiet=given.pop("quiet", False)
            )
            try:
                if not inspect.iscoroutinefunction(body):
                    return body(desk, **given)
                import anyio

                return anyio.run(functools.partial(_alone, body, desk, given))
            except BrokenPipeError as error:  # click would make it exit code 1, which is that of a failed task
                raise ReaderLeft from error

        options: list[Any] = []
        if quiet:
            options.append(click.option("-q", "--quiet", is_flag=True, help=quiet))
        if json:
            options.append(click.option("--json", "as_json", is_flag=True, help="For programs: JSON on stdout."))
        if url:
            help_text = "The manager; else FLEETGATE_URL or what is kept."
            options.append(click.option("--url", "manager_url", metavar="URL", help=help_text))
        wrapped: Any = functools.reduce(lambda inner, option: option(inner), options, run)
        make: Any = click.command(name, **settings)
        made: click.Command = make(wrapped)
        return made

    return decorate


async def _alone(body: Body, desk: Desk, given: dict[str, Any]) -> Any:
    """A group of one error is that error: people want the sentence, not the structure."""
    try:
        return await body(desk, **given)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None
