"""Which agents are installed here, in which version, and whether somebody is logged in.

An agent that is found but not logged in is listed with a hint and not offered: a task for it waits in the queue,
where `why` can say so, instead of being sent to a host that must refuse it. One whose login cannot be told is
offered. Looked for at the start, every EVERY_S, and on SIGHUP (`look_again`).
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import anyio
import structlog

from gateway.agents.base import AgentKind
from gateway.core.environment import FIXED, of_host
from shared_types.hosts import AgentInfo

EVERY_S: Final = 300.0
VERSION_S: Final = 15.0
FIRST_S: Final = 60.0
MAX_SAID: Final = 64 * 1024

_log = structlog.get_logger(__name__)


class Unusable(Exception):
    """A program that is there and cannot be run."""


class Inventory:
    """`found` is what was found last, by the agent's name. `changed` is called when it is another than before."""

    def __init__(self, kinds: Mapping[str, AgentKind], environ: Mapping[str, str], allowed: Sequence[str] = ()) -> None:
        self.kinds = kinds
        self.found: dict[str, AgentInfo] = {}
        self.changed: Callable[[], None] = lambda: None
        self.environ = environ
        self._allowed = allowed
        self._again = anyio.Event()
        self._begun: set[str] = set()  # programs whose first run was made

    @property
    def infos(self) -> tuple[AgentInfo, ...]:
        return tuple(self.found[name] for name in sorted(self.found))

    @property
    def offered(self) -> tuple[str, ...]:
        """Names of the agents that tasks may be given to."""
        return tuple(info.agent for info in self.infos if info.path is not None and info.auth_ok is not False)

    def environment(self, kind: AgentKind) -> dict[str, str]:
        """What of this host's environment the agent may see."""
        return of_host(self.environ, (*kind.env_names, *self._allowed))

    async def look(self) -> None:
        """One agent after the other: programs that take a second each need not fight for the processor."""
        found = {}
        for name, kind in self.kinds.items():
            info = await self._look_at(kind)
            if info is not None:
                found[name] = info
        if found != self.found:
            self.found = found
            _log.info("agents.found", agents={i.agent: i.version or "?" for i in self.infos}, offered=self.offered)
            self.changed()

    def look_again(self) -> None:
        self._again.set()

    async def watch(self) -> None:
        """For as long as the gateway lives. The first look is the caller's."""
        while True:
            with anyio.move_on_after(EVERY_S):
                await self._again.wait()
            self._again = anyio.Event()
            await self.look()

    async def _look_at(self, kind: AgentKind) -> AgentInfo | None:
        env = self.environment(kind)
        path = self._executable(kind, env)
        if path is None:
            return None
        auth_ok = kind.logged_in(env, _existing(kind.login_files, env.get("HOME", "/nonexistent")))
        try:
            version, hint = await self._version(kind, path, env), None
        except Unusable as error:
            return AgentInfo(agent=kind.name, auth_ok=auth_ok, hint=str(error))
        await self._begin(kind, path, env)
        if auth_ok is False:
            hint = f"{kind.name} is installed but not logged in: log in as the user that runs the gateway"
        return AgentInfo(agent=kind.name, version=version, path=path, auth_ok=auth_ok, hint=hint)

    def _executable(self, kind: AgentKind, env: Mapping[str, str]) -> str | None:
        for name in kind.executables:
            if (path := shutil.which(name, path=env.get("PATH", os.defpath))) is not None:
                return os.path.abspath(path)
        return None

    async def _begin(self, kind: AgentKind, path: str, env: Mapping[str, str]) -> None:
        """The run that must be made once, alone. A failure is no verdict: the agent may be fine, or say why later."""
        if not kind.first_argv or path in self._begun:
            return
        try:
            with tempfile.TemporaryDirectory(prefix="fleetgate-", ignore_cleanup_errors=True) as tmp:
                with anyio.fail_after(FIRST_S):
                    code, said = await _run([path, *kind.first_argv], {**env, **FIXED, "TMPDIR": tmp}, tmp)
        except (TimeoutError, OSError) as error:
            _log.warning("agent.first_run_failed", agent=kind.name, path=path, error=str(error) or "it took too long")
            return
        if code != 0:
            _log.warning("agent.first_run_failed", agent=kind.name, path=path, code=code, said=said[-300:])
            return
        self._begun.add(path)

    async def _version(self, kind: AgentKind, path: str, env: Mapping[str, str]) -> str | None:
        """Raises Unusable when the program does not even tell that."""
        if not kind.version_argv:
            return None
        try:
            with tempfile.TemporaryDirectory(prefix="fleetgate-", ignore_cleanup_errors=True) as tmp:
                with anyio.fail_after(VERSION_S):
                    code, said = await _run([path, *kind.version_argv], {**env, **FIXED, "TMPDIR": tmp}, tmp)
        except TimeoutError as error:
            raise Unusable(f"{path} did not tell its version within {VERSION_S:.0f} s") from error
        except OSError as error:
            raise Unusable(f"{path} cannot be run: {error.strerror}") from error
        version = kind.parse_version(said.decode(errors="replace"))
        if version is None and code != 0:
            raise Unusable(f"{path} {' '.join(kind.version_argv)} failed with exit code {code}")
        return version


def _existing(names: Iterable[str], home: str) -> frozenset[str]:
    """What may not be looked at does not exist for us."""
    return frozenset(name for name in names if os.path.exists(os.path.join(home, name)))


async def _run(argv: Sequence[str], env: Mapping[str, str], cwd: str) -> tuple[int, bytes]:
    """The exit code and the beginning of what it says. Nothing of its process group is left afterwards."""
    process = await anyio.open_process(
        argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True
    )
    assert process.stdout is not None
    said = b""
    try:
        async for chunk in process.stdout:
            said = (said + chunk)[:MAX_SAID]
        return await process.wait(), said
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with anyio.CancelScope(shield=True):
            await process.aclose()
