"""`fleetgate demo`: the main job of Fleetgate in one command, with what this machine has.

The sample task goes to a coding agent that is installed and logged in; where there is none, to `survey`, a
`command` agent that is declared for the demo and looks at the directory itself. Which one it is, is said plainly.
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


def usable(found: tuple[AgentInfo, ...]) -> list[str]:
    """Coding agents that are installed and known to be logged in, best first.

    >>> usable((AgentInfo(agent="gemini", path="/g", auth_ok=True), AgentInfo(agent="opencode", path="/o")))
    ['gemini']
    """
    ready = {info.agent for info in found if info.path and info.auth_ok is True}
    return [name for name in CODING_AGENTS if name in ready]


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
    agents = usable(found)
    if not agents:
        there = ", ".join(info.agent for info in found if info.agent in CODING_AGENTS)
        missing = f"{there} is installed, but not known to be logged in" if there else "no coding agent was found here"
        desk.console.say(
            f"{missing} (claude, opencode or gemini): so the sample task runs with `{SURVEY}`,"
            " a program without a model that looks at this directory.",
            "warn",
        )
    for agent in (*agents, SURVEY):
        task = await one_task(desk, house, agent)
        if exit_code(task) == 0 or agent == SURVEY:
            return exit_code(task)
        desk.console.say(f"{agent} could not do it; trying another", "warn")
    raise AssertionError("the survey is always there")


async def one_task(desk: Desk, house: House, agent: str) -> Task:
    desk.console.say(f'\n$ fleetgate run -a {agent} "{PROMPT}"', "bold")
    task = await house.fleet.submit(TaskCreate(prompt=PROMPT, agent_type=agent, timeout=TIMEOUT_MS))
    live = Live(house.fleet, desk.console, task, hears_ctrl_c=False)
    await live.run()
    await say_the_end(house.fleet, desk.console, live)
    return live.task
