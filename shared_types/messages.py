"""The link: what gateway and manager say to each other, one frozen struct per message.

The *base dialect* is the fields without a default here, and those marked base; gateways written by others speak
it. Everything with `attempt`, `seq` or `uid` belongs to the *full dialect* (`protocol: 2`), agreed in
`register`/`registered`. Fields at their default are left out on the wire. See docs/protocol.md.
"""

from typing import Any, Final, TypeAlias

import msgspec

from shared_types.hosts import AgentInfo, Count, EffectiveConfig, HostCapabilities, Vitals
from shared_types.tasks import TaskRequest, TaskResult

PROTOCOL: Final = 2  # what we speak; a peer without `protocol` speaks 1, the base dialect


class Message(
    msgspec.Struct, frozen=True, tag_field="type", rename="camel", kw_only=True, omit_defaults=True, gc=False
):
    """Base of every message. `type` on the wire is the class's tag."""


class RunningAttempt(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """An attempt a gateway still knows. `seq` is its newest journal record; `state` running | exited | dead."""

    task_id: str
    attempt: Count
    uid: str
    seq: Count
    state: str


class Resume(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The manager's verdict on one reported attempt: go on after `acked_seq`, or stop it and forget it."""

    task_id: str
    attempt: Count
    acked_seq: Count
    verdict: str  # keep | stop
    started: bool = True  # keep: false when `task:start` was not committed yet


class LeaseTerms(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What a lease is worth, in ms. It lasts `ttl` from the `sent` that was acknowledged; an agent may go on for its
    task's grace after that, and is gone within `kill_budget` then.
    """

    ttl: Count
    kill_budget: Count


class GatewayConfig(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """What a manager may ask a gateway to change; the host's own policy clamps it. Durations in ms."""

    heartbeat_interval: Count | None = None
    task_timeout: Count | None = None
    max_retries: Count | None = None
    max_concurrent: Count | None = None
    labels: dict[str, str] | None = None
    draining: bool | None = None


# --- gateway -> manager ---------------------------------------------------------------------------


class Register(Message, frozen=True, kw_only=True, tag="register"):
    """The first message on a connection. `instance` is new at each start of the gateway process."""

    host_id: str
    capabilities: HostCapabilities
    protocol: Count = 1
    version: str | None = None
    boot_id: str | None = None
    instance: str | None = None
    agents: tuple[AgentInfo, ...] = ()
    running: tuple[RunningAttempt, ...] = ()
    config: EffectiveConfig | None = None
    sent: Count | None = None  # its CLOCK_BOOTTIME in ms; said: its keepers end their agents when its lease is over


class Heartbeat(Message, frozen=True, kw_only=True, tag="heartbeat"):
    """A sign of life; `timestamp` is the gateway's clock when it was sent, `sent` its CLOCK_BOOTTIME in ms. Carries
    `config` after a change of it.
    """

    timestamp: Count
    vitals: Vitals | None = None
    config: EffectiveConfig | None = None
    sent: Count | None = None


class TaskAccepted(Message, frozen=True, kw_only=True, tag="task:accepted"):
    """The host is ready to start this attempt and waits for `task:start`. Nothing was spawned."""

    task_id: str
    attempt: Count


class TaskRefused(Message, frozen=True, kw_only=True, tag="task:refused"):
    """The host will not run this attempt; nothing was spawned. `reason` is a stable code."""

    task_id: str
    attempt: Count
    reason: str
    details: str | None = None


class TaskStarted(Message, frozen=True, kw_only=True, tag="task:started"):
    """The agent runs. `session_id` is the agent's own session id; sent again when it is learned."""

    task_id: str
    session_id: str = ""
    attempt: Count | None = None
    pid: Count | None = None


class TaskEvent(Message, frozen=True, kw_only=True, tag="task:event"):
    """One event (base dialect)."""

    task_id: str
    event: msgspec.Raw
    attempt: Count | None = None
    seq: Count | None = None


class TaskEvents(
    Message,
    frozen=True,
    kw_only=True,
    tag="task:events",
    rename={"task_id": "taskId", "first": "from", "last": "to"},
):
    """All the events derived from journal records first..last of one attempt, committed together."""

    task_id: str
    attempt: Count
    first: Count
    last: Count
    events: tuple[msgspec.Raw, ...]


class TaskCompleted(Message, frozen=True, kw_only=True, tag="task:completed"):
    """The agent ended with evidence of success, and its process tree is gone. `seq` is the exit record: this
    message is its only carrier, with the `events` derived from it; `task:events` end with the record before it.
    """

    task_id: str
    result: TaskResult
    attempt: Count | None = None
    seq: Count | None = None
    events: tuple[msgspec.Raw, ...] = ()


class TaskFailed(Message, frozen=True, kw_only=True, tag="task:failed"):
    """The agent ended otherwise, and its process tree is gone. `error` is a sentence, `reason` a stable code.
    `seq` and `events` as in TaskCompleted.
    """

    task_id: str
    error: str
    details: Any = None
    attempt: Count | None = None
    seq: Count | None = None
    reason: str | None = None
    result: TaskResult | None = None
    events: tuple[msgspec.Raw, ...] = ()


# --- manager -> gateway ---------------------------------------------------------------------------


class Registered(Message, frozen=True, kw_only=True, tag="registered"):
    """The answer to `register`. With `ok` false the manager says why and closes. Durations in ms."""

    ok: bool
    error: str | None = None
    code: str | None = None
    protocol: Count = 1
    heartbeat_interval: Count | None = None
    resume: tuple[Resume, ...] = ()
    config: GatewayConfig | None = None
    lease: LeaseTerms | None = None  # granted, from the `sent` of the `register` that this answers; None: no leases


class HeartbeatAck(Message, frozen=True, kw_only=True, tag="heartbeat:ack"):
    """The sign of life with this `sent` is written down, and this connection was the host's newest: its lease counts
    from then.
    """

    sent: Count


class Ping(Message, frozen=True, kw_only=True, tag="ping"):
    """Answer with a heartbeat."""


class TaskExecute(Message, frozen=True, kw_only=True, tag="task:execute"):
    """Full dialect: prepare this attempt and answer accepted or refused. Base dialect: run it."""

    task: TaskRequest
    attempt: Count | None = None
    uid: str | None = None


class TaskStart(Message, frozen=True, kw_only=True, tag="task:start"):
    """Spawn the attempt that was accepted. The manager has committed that it may run."""

    task_id: str
    attempt: Count


class TaskAbort(Message, frozen=True, kw_only=True, tag="task:abort"):
    """Stop the attempt: ask the agent, TERM, after `grace_ms` KILL, until its process tree is gone."""

    task_id: str
    attempt: Count | None = None
    reason: str | None = None
    grace_ms: Count | None = None


class TaskInput(Message, frozen=True, kw_only=True, tag="task:input"):
    """Text for the running agent. `input_id` makes a repeat harmless."""

    task_id: str
    content: str
    input_id: str | None = None


class TaskAck(Message, frozen=True, kw_only=True, tag="task:ack"):
    """Everything of this attempt up to and including record `seq` is committed (cumulative)."""

    task_id: str
    attempt: Count
    seq: Count


class ConfigUpdate(Message, frozen=True, kw_only=True, tag="config:update"):
    """Change the gateway's configuration; it answers with a heartbeat that carries the effective one."""

    config: GatewayConfig


class Unknown(msgspec.Struct, frozen=True):
    """A message of a type that this side does not know: count it, log it once, go on."""

    type: str


FromGateway: TypeAlias = (
    Register
    | Heartbeat
    | TaskAccepted
    | TaskRefused
    | TaskStarted
    | TaskEvent
    | TaskEvents
    | TaskCompleted
    | TaskFailed
)
FromManager: TypeAlias = (
    Registered | HeartbeatAck | Ping | TaskExecute | TaskStart | TaskAbort | TaskInput | TaskAck | ConfigUpdate
)
