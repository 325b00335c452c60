"""`run` and `attach`: a task, live."""

from typing import TYPE_CHECKING, Final

import rich_click as click

from client.desk import Desk, command

if TYPE_CHECKING:
    from client.sdk import AsyncFleetgate
    from shared_types.tasks import Task

INTERRUPTED: Final = 130
MODES: Final = ["default", "acceptEdits", "plan", "bypass", "deny"]


async def choose_agent(fleet: "AsyncFleetgate") -> str:
    """The one agent that hosts offer; with several, one must be named."""
    from client.errors import BadUsage
    from shared_types.hosts import HostState

    names = sorted(
        {
            info.agent
            for host in await fleet.hosts()
            if host.status is not HostState.OFFLINE
            for info in host.agents
            if info.auth_ok is not False
        }
        or {name for host in await fleet.hosts() for name in host.capabilities.agents}
    )
    if len(names) == 1:
        return names[0]
    if not names:
        raise BadUsage("no host offers an agent yet", hint="Name one with -a; the task then waits for a host.")
    raise BadUsage(f"which agent? There are {', '.join(names)}", hint=f"Say it: -a {names[0]}")


@command("run", quiet="Only the id, then wait in silence.")
@click.argument("prompt")
@click.option("-a", "--agent", metavar="NAME", help="claude, opencode, gemini or one that a host declares.")
@click.option("-m", "--model", metavar="MODEL", help="As the agent calls it; the agent's own choice otherwise.")
@click.option("-l", "--label", "labels", multiple=True, metavar="K=V", help="Only hosts with this label; repeatable.")
@click.option("--host", metavar="HOST", help="Only this host (id or name).")
@click.option("--cwd", metavar="DIR", help="Where on the host; its default directory otherwise.")
@click.option("--timeout", metavar="TIME", help="The longest it may run: 90s, 30m, 2h.")
@click.option("--mode", type=click.Choice(MODES), default="default", help="How what the agent asks is answered.")
@click.option("--env", "env", multiple=True, metavar="K=V", help="Environment for the agent; repeatable.")
@click.option("--priority", type=click.IntRange(0, 9), default=5, help="0 first, 9 last.")
@click.option("--queue-ttl", metavar="TIME", help="Give up when no host took it by then.")
@click.option("-d", "--detach", is_flag=True, help="Print the id and leave.")
async def run(
    desk: Desk,
    prompt: str,
    agent: str | None,
    model: str | None,
    labels: tuple[str, ...],
    host: str | None,
    cwd: str | None,
    timeout: str | None,
    mode: str,
    env: tuple[str, ...],
    priority: int,
    queue_ttl: str | None,
    detach: bool,
) -> int:
    """Run PROMPT with an agent and show it live; `-` reads the prompt from stdin.

    The answer goes to stdout, all else to stderr. Ctrl-C asks whether to detach or to abort.
    """
    from client.arguments import host_directory, host_id_of, pairs, prompt_of
    from client.terminal.times import duration_ms
    from shared_types.api import TaskCreate
    from shared_types.tasks import LabelRules, PermissionMode

    text = prompt_of(prompt)
    async with desk.fleet() as fleet:
        task = await fleet.submit(
            TaskCreate(
                prompt=text,
                agent_type=agent or await choose_agent(fleet),
                model=model,
                labels=LabelRules(require=pairs(labels, "-l")),
                host_id=await host_id_of(fleet, host) if host else None,
                cwd=host_directory(cwd),
                timeout=duration_ms(timeout) if timeout else None,
                queue_ttl=duration_ms(queue_ttl) if queue_ttl else None,
                permission_mode=PermissionMode(mode),
                env=pairs(env, "--env"),
                priority=priority,
            )
        )
        if detach:
            return _detached(desk, task)
        if desk.console.quiet and not desk.console.as_json:
            from client.live import exit_code

            desk.console.put(task.id)
            return exit_code(await fleet.wait(task.id))
        desk.console.say(f"{task.id} for {task.agent_type}")
        return await follow(desk, fleet, task)


def _detached(desk: Desk, task: "Task") -> int:
    if desk.console.as_json:
        desk.console.document(task)
    else:
        desk.console.put(task.id)
        desk.console.say(f"follow it: fleetgate attach {task.id}")
    return 0


async def follow(desk: Desk, fleet: "AsyncFleetgate", task: "Task") -> int:
    """Show it to its end; the exit code."""
    from client.live import Live, exit_code, say_the_end

    live = Live(fleet, desk.console, task)
    await live.run()
    if live.is_detached:
        return INTERRUPTED
    await say_the_end(fleet, desk.console, live)
    return INTERRUPTED if live.was_aborted_here else exit_code(live.task)


@command("attach", quiet="Only the answer.")
@click.argument("task", metavar="ID")
async def attach(desk: Desk, task: str) -> int:
    """Show a task from its beginning and stay until it ends, as `run` does."""
    async with desk.fleet() as fleet:
        found = await fleet.task(task)
        desk.console.say(f"{found.id} for {found.agent_type}")
        return await follow(desk, fleet, found)
