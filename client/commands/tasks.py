"""Looking at tasks and steering them: ls, show, send, stop, kill, retry, wait, why."""

from typing import TYPE_CHECKING, Final

import rich_click as click

from client.clock import now_ms
from client.desk import Desk, command

if TYPE_CHECKING:
    from client.sdk import AsyncFleetgate
    from shared_types.tasks import Task

RECENT_MS: Final = 24 * 3600 * 1000


@command("ls", quiet="Ids only.")
@click.option("-a", "--all", "everything", is_flag=True, help="Also what ended more than a day ago.")
@click.option("-n", "--limit", type=click.IntRange(1), metavar="N", help="At most N tasks.")
@click.option("--host", metavar="HOST", help="Only tasks of this host.")
@click.option("--agent", metavar="NAME", help="Only tasks of this agent.")
@click.option("--status", "statuses", multiple=True, metavar="STATE", help="Only tasks in this state; repeatable.")
async def ls(
    desk: Desk, everything: bool, limit: int | None, host: str | None, agent: str | None, statuses: tuple[str, ...]
) -> None:
    """List tasks, newest first: those that live, and those of the last day."""
    from contextlib import aclosing

    from client.arguments import host_id_of
    from client.errors import BadUsage
    from shared_types.tasks import TaskState

    for status in statuses:
        if status not in set(TaskState):
            raise BadUsage(f"there is no state {status!r}", hint=f"States: {', '.join(TaskState)}")
    wanted = [TaskState(status) for status in statuses]
    now = now_ms()
    found: list[Task] = []
    async with desk.fleet() as fleet:
        hosts = {one.host_id: one.name for one in await fleet.hosts()}
        filters = {"host": await host_id_of(fleet, host) if host else None, "agent": agent}
        given = {name: value for name, value in filters.items() if value is not None}
        async with aclosing(fleet.tasks(statuses=wanted, **given)) as tasks:
            async for task in tasks:
                if everything or wanted or not task.is_final or task.created_at > now - RECENT_MS:
                    found.append(task)
                elif task.created_at <= now - RECENT_MS and not everything:
                    break
                if limit is not None and len(found) >= limit:
                    break
        if not (everything or wanted):  # what still lives may be older than the newest that ended
            live = [state for state in TaskState if state in _live()]
            known = {task.id for task in found}
            async with aclosing(fleet.tasks(statuses=live, **given)) as tasks:
                found += [task async for task in tasks if task.id not in known]
    found = found[:limit]
    if desk.console.as_json:
        desk.console.document(found)
    elif desk.console.quiet:
        for task in found:
            desk.console.put(task.id)
    else:
        _show_list(desk, found, hosts, now)


def _live() -> frozenset[str]:
    from shared_types.tasks import FINAL, TaskState

    return frozenset(TaskState) - FINAL


def short_ids(ids: list[str], least: int = 12) -> dict[str, str]:
    """The shortest beginnings that are unique among these, without `task_`.

    >>> short_ids(["task_01hf7yat00aaaa", "task_01hf7yat00aabb"])
    {'task_01hf7yat00aaaa': '01hf7yat00aaa', 'task_01hf7yat00aabb': '01hf7yat00aab'}
    """
    from client.terminal.words import beginnings

    shorts = beginnings((one.removeprefix("task_") for one in ids), least)
    return {one: shorts[one.removeprefix("task_")] for one in ids}


def _show_list(desk: Desk, tasks: "list[Task]", hosts: dict[str, str], now: int) -> None:
    from client.terminal.columns import Cell, Column, Row
    from client.terminal.escapes import one_line
    from client.terminal.styles import STATE_SIGN, STATE_STYLE
    from client.terminal.times import ago, lasted

    if not tasks:
        desk.console.say("no tasks; start one: fleetgate run 'what to do'")
        return
    shorts = short_ids([task.id for task in tasks])
    columns = [
        Column("ID"),
        Column("STATUS"),
        Column("AGENT", leaves=1),
        Column("HOST", shrinks=True, leaves=2),
        Column("CREATED", right=True, leaves=3),
        Column("TOOK", right=True, leaves=4),
        Column("PROMPT", shrinks=True),
    ]
    rows: list[Row] = []
    for task in tasks:
        status = f"{STATE_SIGN[task.status]} {task.status}"
        if task.disconnected_since is not None and not task.is_final:
            status += " (host away)"
        took = lasted((task.ended_at or now) - task.started_at) if task.started_at is not None else "-"
        host = one_line(hosts.get(task.host_id, task.host_id)) if task.host_id else "-"
        rows.append(
            [
                shorts[task.id],
                Cell(status, STATE_STYLE[task.status]),
                task.agent_type,
                host,
                ago(task.created_at, now),
                took,
                one_line(task.prompt[:400]),
            ]
        )
    desk.console.table(columns, rows)


@command("show")
@click.argument("task", metavar="ID")
async def show(desk: Desk, task: str) -> None:
    """Everything about one task."""
    from client.live import host_name

    async with desk.fleet() as fleet:
        found = await fleet.task(task)
        host = await host_name(fleet, found.host_id)
        actor = await _actor_name(fleet, found.actor)
    if desk.console.as_json:
        desk.console.document(found)
        return
    for name, value in _facts(found, host, actor):
        desk.console.put(f"{name:<12} {value}")
    if found.result is not None and found.result.output:
        from client.terminal.escapes import harmless

        desk.console.put()
        desk.console.put(harmless(found.result.output.rstrip("\n")))


async def _actor_name(fleet: "AsyncFleetgate", token_id: str) -> str:
    """What the token is called that asked for a task; its id when it is not known any more."""
    from client.errors import FleetgateError

    try:
        return next((one.name for one in await fleet.tokens() if one.id == token_id), token_id)
    except FleetgateError:
        return token_id


def _facts(task: "Task", host: str | None, actor: str) -> list[tuple[str, str]]:
    from client.terminal.escapes import harmless, one_line
    from client.terminal.times import ago, lasted

    now = now_ms()
    reason = f" ({task.reason})" if task.reason else ""
    facts: list[tuple[str, object]] = [
        ("id", task.id),
        ("status", f"{task.status}{reason}"),
        ("detail", task.detail),
        ("agent", task.agent_type),
        ("model", task.model),
        ("mode", task.permission_mode),
        ("host", host),
        ("cwd", task.cwd),
        ("attempt", task.attempt or None),
        ("session", task.session_id),
        ("agent's", task.agent_session_id),
        ("created", f"{ago(task.created_at, now)} by {actor}" if actor else ago(task.created_at, now)),
        ("started", ago(task.started_at, now) if task.started_at else None),
        ("ended", ago(task.ended_at, now) if task.ended_at else None),
        ("took", lasted((task.ended_at or now) - task.started_at) if task.started_at else None),
        ("timeout", lasted(task.timeout) if task.timeout else None),
        ("priority", task.priority),
        ("labels", ", ".join(f"{name}={value}" for name, value in task.labels.require.items())),
        ("environment", ", ".join(task.env)),
        ("host away", ago(task.disconnected_since, now) if task.disconnected_since else None),
        ("files", ", ".join(task.result.files_changed or ()) if task.result else None),
        ("prompt", one_line(task.prompt[:2000])),
    ]
    return [(name, harmless(str(value))) for name, value in facts if value not in (None, "")]


@command("send")
@click.argument("task", metavar="ID")
@click.argument("text")
async def send(desk: Desk, task: str, text: str) -> None:
    """Give a running agent more to do; `-` reads the text from stdin."""
    from client.arguments import prompt_of

    content = prompt_of(text)
    async with desk.fleet() as fleet:
        receipt = await fleet.input(task, content)
    if desk.console.as_json:
        desk.console.document(receipt)
    else:
        words = {
            "stored": "kept until the host has it",
            "sent": "sent to its host; the log will say whether the agent took it",
            "taken": "the agent has it",
            "refused": "the agent does not get it; the task's log says why",
        }
        desk.console.say(words[receipt.state])


async def _abort(desk: Desk, tasks: tuple[str, ...], *, kill: bool) -> None:
    async with desk.fleet() as fleet:
        stopped = [await fleet.abort(task, kill=kill) for task in tasks]
    if desk.console.as_json:
        desk.console.document(stopped)
        return
    for task in stopped:
        if desk.console.quiet:
            desk.console.put(task.id)
        else:
            desk.console.say(f"{task.id} is {task.status}")


@command("stop", quiet="Ids only.")
@click.argument("tasks", nargs=-1, required=True, metavar="ID...")
async def stop(desk: Desk, tasks: tuple[str, ...]) -> None:
    """Stop tasks: the agents are asked, then made to end."""
    await _abort(desk, tasks, kill=False)


@command("kill", quiet="Ids only.")
@click.argument("tasks", nargs=-1, required=True, metavar="ID...")
async def kill(desk: Desk, tasks: tuple[str, ...]) -> None:
    """Stop tasks at once, without asking the agents first."""
    await _abort(desk, tasks, kill=True)


@command("retry", quiet="The id only.")
@click.argument("task", metavar="ID")
async def retry(desk: Desk, task: str) -> None:
    """Another attempt of a task that ended."""
    async with desk.fleet() as fleet:
        again = await fleet.retry(task)
    if desk.console.as_json:
        desk.console.document(again)
    else:
        desk.console.put(again.id)
        desk.console.say(f"attempt {again.attempt + 1} is {again.status}; follow it: fleetgate attach {again.id}")


@command("wait", quiet="Nothing but the exit code.")
@click.argument("tasks", nargs=-1, required=True, metavar="ID...")
@click.option("--timeout", metavar="TIME", help="Give up after this time (exit code 124).")
async def wait(desk: Desk, tasks: tuple[str, ...], timeout: str | None) -> int:
    """Wait until all these tasks have ended. Exit code 0 when all completed."""
    import anyio

    from client.errors import WaitTimeout
    from client.live import exit_code
    from client.terminal.times import duration_ms

    limit_s = duration_ms(timeout) / 1000 if timeout else None
    ended: dict[int, Task] = {}
    async with desk.fleet() as fleet:
        known = [await fleet.task(task) for task in tasks]

        async def one(at: int) -> None:
            ended[at] = await fleet.wait(known[at].id)
            if not (desk.console.as_json or desk.console.quiet):
                reason = f" ({ended[at].reason})" if ended[at].reason and exit_code(ended[at]) else ""
                desk.console.put(f"{known[at].id} {ended[at].status}{reason}")

        with anyio.move_on_after(limit_s):
            async with anyio.create_task_group() as group:
                for at in range(len(known)):
                    group.start_soon(one, at)
    missing = [known[at] for at in range(len(known)) if at not in ended]
    if desk.console.as_json:
        desk.console.document([ended.get(at, known[at]) for at in range(len(known))])
    if missing:
        raise WaitTimeout(missing[0], limit_s or 0.0)
    return max((exit_code(task) for task in ended.values()), default=0)


@command("why")
@click.argument("task", metavar="ID")
async def why(desk: Desk, task: str) -> None:
    """Why a task is where it is, and what each host lacks for it."""
    from client.terminal.columns import Cell, Column, Row
    from client.terminal.escapes import one_line
    from client.terminal.times import count

    async with desk.fleet() as fleet:
        answer = await fleet.why(task)
    console = desk.console
    if console.as_json:
        console.document(answer)
        return
    console.put(console.folded(one_line(answer.summary), out=True))
    if answer.would_run_if:
        console.put(console.folded(f"It would run if {one_line(answer.would_run_if).rstrip('.')}.", out=True))
    if answer.position:
        console.put(f"{count(answer.position, 'task')} before it in the queue.")
    if not answer.hosts:
        return
    console.put()
    rows: list[Row] = []
    for host in answer.hosts:
        lacking = [one for one in host.conditions if not one.holds]
        first = Cell("✓ could run it", "good") if host.would_run else Cell("✗ cannot", "bad")
        reasons = "; ".join(one_line(f"{one.name}: wants {one.wanted}, has {one.found}") for one in lacking)
        rows.append([one_line(host.name), first, reasons or "-"])
    console.table([Column("HOST"), Column(""), Column("BECAUSE", folds=True)], rows)
