"""Why a task is where it is, in words that say what to do about it.

Takes the task as people see it and the hosts as people see them, so it can be checked by looking. It decides nothing;
the conditions are those of core/scheduling and core/registry, one by one.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from shared_types.api import Condition, HostWhy, Why
from shared_types.hosts import AgentInfo, HostState, HostStatus, canonical_agent
from shared_types.tasks import FINAL, Task, TaskState

_RETRYABLE: Final = FINAL - {TaskState.COMPLETED}
# How far a condition is from being met: the host with the least to do is named.
_EFFORT: Final = {
    "slots": 1,
    "draining": 2,
    "connected": 3,
    "loggedIn": 4,
    "agent": 10,
    "labels": 10,
    "avoided": 10,
    "refused": 20,
    "pinned": 1_000,
}


def explain(task: Task, hosts: Sequence[HostStatus], now: int, *, position: int | None = None) -> Why:
    """`position`: queued tasks of the same requirement that go first."""
    if task.status is not TaskState.QUEUED:
        return Why(task_id=task.id, status=task.status, summary=_placed(task, now), would_run_if=_after_end(task))
    whys = tuple(_host_why(task, host) for host in hosts)
    ready = [why for why in whys if why.would_run]
    if ready:
        names = ", ".join(why.name for why in ready[:3]) + (" and others" if len(ready) > 3 else "")
        turn = "it is next" if not position else f"{_count(position, 'task')} of its kind go first"
        summary, condition = f"Waits its turn: {names} can take it, {turn}.", None
    else:
        summary, condition = _stuck(task, whys)
    return Why(
        task_id=task.id,
        status=task.status,
        summary=summary,
        would_run_if=condition,
        position=position,
        hosts=whys,
    )


def _stuck(task: Task, whys: Sequence[HostWhy]) -> tuple[str, str]:
    """No host can take it now: the nearest one, and what would have to change there."""
    if not whys:
        return "No host has registered yet.", f"a host with agent {task.agent_type} connected"
    nearest = min(whys, key=_distance)
    if _distance(nearest) >= _EFFORT["pinned"]:
        pinned = task.pinned_host
        return f"It is pinned to host {pinned}, which never registered.", f"host {pinned} connected"
    failing = [condition for condition in nearest.conditions if not condition.holds]
    condition = " and ".join(_wish(task, nearest, condition) for condition in failing)
    if not any(_holds(why, "agent") for why in whys):
        summary = f"No host has agent {task.agent_type}."
    elif all(not _holds(why, "refused") for why in whys if _holds(why, "agent")):
        summary = "Every host that could run it has refused it."
    else:
        found = ", ".join(f"{condition.name}: {condition.found}" for condition in failing)
        summary = f"No host can take it now; nearest is {nearest.name} ({found})."
    return summary, condition


def _distance(why: HostWhy) -> int:
    return sum(_EFFORT[condition.name] for condition in why.conditions if not condition.holds)


def _holds(why: HostWhy, name: str) -> bool:
    return all(condition.holds for condition in why.conditions if condition.name == name)


def _wish(task: Task, why: HostWhy, condition: Condition) -> str:
    host = f"host {why.name}"
    match condition.name:
        case "slots":
            return f"{host} had a free slot"
        case "draining":
            return f"{host} took new tasks again"
        case "connected":
            return f"{host} were connected"
        case "loggedIn":
            return f"{task.agent_type} were logged in on {host}"
        case "agent":
            return f"{host} had agent {task.agent_type}"
        case "refused":
            return f"{host} had not refused it (retry the task when the cause is gone)"
        case _:
            return f"{host} had {condition.wanted}"


def _host_why(task: Task, host: HostStatus) -> HostWhy:
    conditions = tuple(_conditions(task, host))
    return HostWhy(
        host_id=host.host_id,
        name=host.name,
        would_run=all(condition.holds for condition in conditions),
        conditions=conditions,
    )


def _conditions(task: Task, host: HostStatus) -> Iterator[Condition]:
    is_online = host.status is not HostState.OFFLINE
    yield Condition(name="connected", holds=is_online, wanted="connected", found=host.status.value)
    if task.pinned_host is not None:
        is_it = task.pinned_host == host.host_id
        yield Condition(name="pinned", holds=is_it, wanted=f"host {task.pinned_host}", found=f"host {host.host_id}")
    agents = {canonical_agent(agent) for agent in host.capabilities.agents}
    has_agent = task.agent_type in agents
    yield Condition(
        name="agent", holds=has_agent, wanted=task.agent_type, found=", ".join(sorted(agents)) or "no agent"
    )
    if has_agent:
        info = next((info for info in host.agents if canonical_agent(info.agent) == task.agent_type), None)
        is_out = info is not None and info.auth_ok is False
        yield Condition(name="loggedIn", holds=not is_out, wanted="logged in", found=_login(info))
    if task.labels.require:
        holds = all(host.labels.get(name) == value for name, value in task.labels.require.items())
        found = {name: host.labels[name] for name in task.labels.require if name in host.labels}
        yield Condition(name="labels", holds=holds, wanted=_labels(task.labels.require), found=_labels(found))
    if task.labels.avoid:
        hit = {name: value for name, value in task.labels.avoid.items() if host.labels.get(name) == value}
        wanted = f"none of {_labels(task.labels.avoid)}"
        yield Condition(name="avoided", holds=not hit, wanted=wanted, found=_labels(hit))
    has_refused = host.host_id in task.excluded_hosts
    why = f"refused it ({task.detail or task.reason or 'no reason given'})" if has_refused else "has not refused it"
    yield Condition(name="refused", holds=not has_refused, wanted="has not refused it", found=why)
    found_state = "draining" if host.draining else "not draining"
    yield Condition(name="draining", holds=not host.draining, wanted="not draining", found=found_state)
    has_room = host.slots_used < host.slots
    yield Condition(
        name="slots", holds=has_room, wanted="a free slot", found=f"{host.slots_used} of {host.slots} in use"
    )


def _login(info: AgentInfo | None) -> str:
    if info is None or info.auth_ok is None:
        return "could not tell"
    if info.auth_ok:
        return "logged in"
    return f"logged out ({info.hint})" if info.hint else "logged out"


def _labels(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items())) or "none"


def _placed(task: Task, now: int) -> str:
    """One sentence for a task that does not wait for a host."""
    host = f"host {task.host_id}"
    if task.disconnected_since is not None:
        away = f"{host.capitalize()} has been out of reach for {_span(now - task.disconnected_since)}"
        rest = f"; the agent may go on there, and the task counts as lost in {_span((task.deadline_at or now) - now)}."
        return away + rest
    match task.status:
        case TaskState.ASSIGNED:
            return f"Given to {host} {_span(now - (task.assigned_at or now))} ago; it gets ready to start it."
        case TaskState.RUNNING:
            return f"Runs on {host} since {_span(now - (task.started_at or now))}."
        case TaskState.STOPPING:
            asked = _span(now - (task.stop_requested_at or now))
            return f"Told to stop {asked} ago; {host} has not said yet that its processes are gone."
        case TaskState.COMPLETED:
            return "It completed."
        case state:
            why = task.detail or task.reason or "no reason given"
            code = f" [{task.reason}]" if task.reason else ""
            return f"It is over ({state}): {why.rstrip('. ')}{code}."


def _after_end(task: Task) -> str | None:
    return "it were retried" if task.status in _RETRYABLE else None


def _count(number: int, noun: str) -> str:
    """
    >>> _count(1, "task"), _count(2, "task")
    ('1 task', '2 tasks')
    """
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _span(ms: int) -> str:
    """
    >>> _span(-5), _span(59_000), _span(61_000), _span(3 * 3_600_000), _span(3 * 86_400_000)
    ('0 s', '59 s', '1 min', '3 h', '3 days')
    """
    seconds = max(0, ms) // 1000
    for size, unit in ((86_400 * 2, " days"), (3_600 * 2, " h"), (60, " min")):
        if seconds >= size:
            step = {" days": 86_400, " h": 3_600, " min": 60}[unit]
            return f"{seconds // step}{unit}"
    return f"{seconds} s"
