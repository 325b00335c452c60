"""`fleetgate demo`: the main job of Fleetgate in one command, with what this machine has.

The sample task goes to a coding agent that is installed and logged in, or of which that cannot be told; where none
does it, to `survey`, a `command` agent that is declared for the demo and looks at the directory itself. Which one it
is, is said plainly.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import anyio

from client.access import make_home, read_toml, write_secret
from client.desk import Desk
from client.house import House, Plan, opened, until_told
from client.live import Live, exit_code, say_the_end
from client.supervisor import Child
from client.welcome import introduce
from shared_types.api import TaskCreate
from shared_types.hosts import AgentInfo
from shared_types.tasks import Task

CODING_AGENTS: Final = ("claude-code", "opencode", "gemini")
SURVEY: Final = "survey"
PROMPT: Final = (
    "Look at the files in this directory and say in at most three sentences what this is. Do not change anything."
)
TIMEOUT_MS: Final = 5 * 60 * 1000
TRIAL_MS: Final = 60 * 1000  # for an agent that may not be logged in


@contextmanager
def demo_home(named: str | None) -> Iterator[Path]:
    """The given directory, or one that is gone afterwards."""
    if named is not None:
        yield Path(named).expanduser().absolute()
        return
    with tempfile.TemporaryDirectory(prefix="fleetgate-demo-", ignore_cleanup_errors=True) as made:
        yield Path(made)


def declare_survey(home: Path) -> None:
    """`[agents.survey]` in the gateway's settings, unless it stands there already."""
    make_home(home)
    file = home / "gateway.toml"
    kept = read_toml(file)
    agents = kept.get("agents")
    if isinstance(agents, dict) and SURVEY in agents:
        return
    program = Path(__file__).with_name("survey.py")
    argv = ", ".join(f"'{part}'" for part in (sys.executable, "-I", str(program)))
    text = file.read_text(encoding="utf-8") if kept else ""
    write_secret(file, f'{text}\n[agents.{SURVEY}]\nargv = [{argv}]\noutput = "jsonl"\n')


def usable(found: tuple[AgentInfo, ...]) -> list[AgentInfo]:
    """Coding agents to try: those that are known to be logged in, then those of which that cannot be told (a key in
    a configuration, a helper that fetches one), best first.

    >>> there = AgentInfo(agent="opencode", path="/o"), AgentInfo(agent="gemini", path="/g", auth_ok=True)
    >>> [info.agent for info in usable(there)]
    ['gemini', 'opencode']
    """
    installed = {info.agent: info for info in found if info.path}
    there = [installed[name] for name in CODING_AGENTS if name in installed]
    return [info for auth_ok in (True, None) for info in there if info.auth_ok is auth_ok]


async def show(desk: Desk, named_home: str | None, port: int, *, once: bool) -> int:
    """The exit code: of the sample task, when it does not stay up."""
    code = 0
    with demo_home(named_home) as home:
        declare_survey(home)
        plan = Plan(home=home, port=port, stops_tasks=True)
        family: list[Child] = []
        async with anyio.create_task_group() as signals:
            with anyio.CancelScope() as stay:
                signals.start_soon(until_told, stay, family, desk.console, "stopping")
                async with opened(plan, desk.console, children=family) as house:
                    await introduce(desk, house, show_token=True, home=home)
                    code = await sample(desk, house)
                    if not once:
                        desk.console.say(f"\nIt stays up at {house.url}. Ctrl-C stops it.")
                        await anyio.sleep_forever()
            signals.cancel_scope.cancel()
    return code


async def sample(desk: Desk, house: House) -> int:
    """One real task, live; with the next agent when one turns out to be unusable."""
    found = (await house.host()).agents
    for info in usable(found):
        if info.auth_ok is None:
            desk.console.say(f"\nwhether {info.agent} is logged in cannot be told from outside: trying it")
        task = await one_task(desk, house, info.agent, TIMEOUT_MS if info.auth_ok else TRIAL_MS)
        if exit_code(task) == 0:
            return 0
        desk.console.say(f"{info.agent} could not do it", "warn")
    desk.console.say(f"{why_survey(found)}: the sample task runs with `{SURVEY}`, a program without a model.", "warn")
    return exit_code(await one_task(desk, house, SURVEY, TIMEOUT_MS))


def why_survey(found: tuple[AgentInfo, ...]) -> str:
    """
    >>> why_survey(()), why_survey((AgentInfo(agent="gemini", path="/g", auth_ok=False),))
    ('no coding agent is installed here (claude, opencode or gemini)', 'gemini is installed, but not logged in')
    """
    there = [info for info in found if info.agent in CODING_AGENTS]
    if not there:
        return "no coding agent is installed here (claude, opencode or gemini)"
    if all(info.auth_ok is False for info in there):
        verb = "is" if len(there) == 1 else "are"
        return f"{' and '.join(info.agent for info in there)} {verb} installed, but not logged in"
    return "no coding agent here could do it"


async def one_task(desk: Desk, house: House, agent: str, timeout_ms: int) -> Task:
    desk.console.say(f'\n$ fleetgate run -a {agent} "{PROMPT}"', "bold")
    task = await house.fleet.submit(TaskCreate(prompt=PROMPT, agent_type=agent, timeout=timeout_ms))
    live = Live(house.fleet, desk.console, task, hears_ctrl_c=False)
    await live.run()
    await say_the_end(house.fleet, desk.console, live)
    return live.task
