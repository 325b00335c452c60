"""A task as the manager keeps it: what was asked (never changes), how it stands (changes by `apply` alone).

`apply(spec, record, change)` is the one place where a record changes; every store calls it inside its own
transaction, writes what it returns, and so all stores agree. No clock, no database: `now` comes with the change.

Invariants: `status` moves only by `lifecycle.advance`; every change of status writes one `status` event; a live
state has a `deadline_at` and a final one has none; a final state has a `reason` (a completed one: none needed).
"""

from typing import Any

import msgspec

from manager.core.lifecycle import Cause
from shared_types.tasks import LabelRules, PermissionMode, TaskResult, TaskState


class Spec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person asked for. Written once."""

    prompt: str
    agent_type: str  # canonical name
    created_at: int
    cwd: str | None = None
    model: str | None = None
    env: dict[str, str] = {}
    timeout: int | None = None
    idle_timeout: int | None = None
    queue_ttl: int
    permission_mode: PermissionMode = PermissionMode.DEFAULT
    metadata: dict[str, Any] = {}
    pinned_host: str | None = None
    labels: LabelRules = LabelRules()
    priority: int = 5
    actor: str = ""
    trace_id: str = ""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a task stands. `heard` is the last journal record taken of the current attempt."""

    id: str
    session_id: str
    status: TaskState
    updated_at: int
    rv: int = 1
    host_id: str | None = None
    attempt: int = 0
    uid: str = ""  # names the current attempt beyond doubt
    accepted: bool = False  # `task:start` may have been sent: the attempt may have started
    heard: int = 0
    reason: str | None = None
    detail: str | None = None
    result: TaskResult | None = None
    agent_session_id: str | None = None
    disconnected_since: int | None = None
    stop_requested_at: int | None = None
    stop_reason: str | None = None
    assigned_at: int | None = None
    started_at: int | None = None
    ended_at: int | None = None
    deadline_at: int | None = None
    excluded_hosts: tuple[str, ...] = ()
    first_event_id: int = 1
    last_event_id: int = 0


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a task, reported by its host or decided by the manager.

    A host's report names `attempt`, `host_id` and `generation` (its connection); it is taken only while all
    three are current. A report with `span` (first, last) is taken only if `first` is the next record.
    The manager's own changes have `attempt` None and speak of the task as it stands.
    `events` are bodies of AgentEvents, one line of JSON each.
    """

    task_id: str
    now: int
    cause: Cause | None = None
    attempt: int | None = None
    host_id: str | None = None
    generation: int | None = None
    span: tuple[int, int] | None = None
    events: tuple[bytes, ...] = ()
    reason: str | None = None
    detail: str | None = None
    result: TaskResult | None = None
    agent_session_id: str | None = None
