"""The sentence that says why, and what would have to change."""

from typing import Any

import pytest

from manager.core.why import explain
from shared_types.hosts import AgentInfo, HostCapabilities, HostState, HostStatus
from shared_types.tasks import LabelRules, Task, TaskState

NOW = 1_000_000


def task(status: TaskState = TaskState.QUEUED, **fields: Any) -> Task:
    defaults: dict[str, Any] = {
        "session_id": "s",
        "prompt": "p",
        "agent_type": "gemini",
        "created_at": 1,
        "updated_at": 1,
        "rv": 1,
    }
    return Task(id="t1", status=status, **{**defaults, **fields})


def host(
    host_id: str = "h1", agents: tuple[str, ...] = ("gemini",), found: tuple[AgentInfo, ...] = (), **fields: Any
) -> HostStatus:
    defaults: dict[str, Any] = {
        "name": host_id,
        "status": HostState.ONLINE,
        "active_tasks": (),
        "last_heartbeat": 1,
        "connected_at": 1,
        "slots": 2,
        "slots_used": 0,
    }
    capabilities = HostCapabilities(name=host_id, agents=agents, max_concurrent=2, cwd="/")
    return HostStatus(host_id=host_id, capabilities=capabilities, agents=found, **{**defaults, **fields})


RULES = LabelRules(require={"os": "linux"}, avoid={"zone": "b"})

ONE_FAILS: list[tuple[str, Task, HostStatus, str]] = [
    ("connected", task(), host(status=HostState.OFFLINE), "host h1 were connected"),
    ("agent", task(), host(agents=("opencode",)), "host h1 had agent gemini"),
    ("loggedIn", task(), host(found=(AgentInfo(agent="gemini", auth_ok=False),)), "gemini were logged in on host h1"),
    ("labels", task(labels=RULES), host(labels={"zone": "a"}), "host h1 had os=linux"),
    ("avoided", task(labels=RULES), host(labels={"os": "linux", "zone": "b"}), "host h1 had none of zone=b"),
    (
        "refused",
        task(excluded_hosts=("h1",), detail="no such directory"),
        host(),
        "host h1 had not refused it (retry the task when the cause is gone)",
    ),
    ("draining", task(), host(draining=True), "host h1 took new tasks again"),
    ("slots", task(), host(slots_used=2), "host h1 had a free slot"),
    ("pinned", task(pinned_host="h9"), host(), "host h9 connected"),
]


@pytest.mark.parametrize(("name", "asked", "found", "wish"), ONE_FAILS, ids=[row[0] for row in ONE_FAILS])
def test_the_one_condition_that_does_not_hold_is_named_with_what_would_help(
    name: str, asked: Task, found: HostStatus, wish: str
) -> None:
    why = explain(asked, [found], NOW)

    (host_why,) = why.hosts
    assert [condition.name for condition in host_why.conditions if not condition.holds] == [name]
    assert not host_why.would_run
    assert why.would_run_if == wish


def test_the_host_that_lacks_least_is_named() -> None:
    hosts = [host("far", agents=(), status=HostState.OFFLINE), host("near", slots_used=2), host("off", draining=True)]

    why = explain(task(), hosts, NOW)

    assert why.would_run_if == "host near had a free slot"
    assert "near (slots: 2 of 2 in use)" in why.summary


def test_several_conditions_of_the_nearest_host_are_told_together() -> None:
    why = explain(task(), [host(status=HostState.OFFLINE, draining=True)], NOW)

    assert why.would_run_if == "host h1 were connected and host h1 took new tasks again"


def test_without_hosts_the_first_step_is_to_connect_one() -> None:
    why = explain(task(), [], NOW)

    assert why.summary == "No host has registered yet."
    assert why.would_run_if == "a host with agent gemini connected"


def test_an_agent_that_nobody_has_is_said_plainly() -> None:
    assert explain(task(), [host(agents=("opencode",))], NOW).summary == "No host has agent gemini."


def test_refused_by_all_that_could_is_said_plainly() -> None:
    hosts = [host("a"), host("b"), host("c", agents=())]

    why = explain(task(excluded_hosts=("a", "b")), hosts, NOW)

    assert why.summary == "Every host that could run it has refused it."


@pytest.mark.parametrize(
    ("position", "turn"), [(0, "it is next"), (1, "1 task of its kind"), (7, "7 tasks of its kind")]
)
def test_a_task_that_could_run_waits_its_turn(position: int, turn: str) -> None:
    why = explain(task(), [host()], NOW, position=position)

    assert turn in why.summary
    assert why.would_run_if is None
    assert why.hosts[0].would_run


PLACED: list[tuple[Task, str]] = [
    (
        task(TaskState.ASSIGNED, host_id="h1", assigned_at=NOW - 3_000),
        "Given to host h1 3 s ago; it gets ready to start it.",
    ),
    (task(TaskState.RUNNING, host_id="h1", started_at=NOW - 65_000), "Runs on host h1 since 1 min."),
    (
        task(TaskState.RUNNING, host_id="h1", disconnected_since=NOW - 5_000, deadline_at=NOW + 600_000),
        "Host h1 has been out of reach for 5 s; the agent may go on there, and the task counts as lost in 10 min.",
    ),
    (
        task(TaskState.STOPPING, host_id="h1", stop_requested_at=NOW - 2_000),
        "Told to stop 2 s ago; host h1 has not said yet that its processes are gone.",
    ),
    (task(TaskState.COMPLETED), "It completed."),
    (
        task(TaskState.FAILED, reason="exit_nonzero", detail="Exit code 3."),
        "It is over (failed): Exit code 3 [exit_nonzero].",
    ),
    (task(TaskState.LOST, reason="host_lost"), "It is over (lost): host_lost [host_lost]."),
]


@pytest.mark.parametrize(("placed", "sentence"), PLACED, ids=lambda value: str(getattr(value, "status", "")))
def test_every_other_state_has_its_sentence(placed: Task, sentence: str) -> None:
    why = explain(placed, [], NOW)

    assert why.summary == sentence
    assert (why.would_run_if == "it were retried") is (placed.status in (TaskState.FAILED, TaskState.LOST))
