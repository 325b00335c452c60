"""A task: what a person asked for, and how it stands.

A *task* is the wish, an *attempt* one try of it on one host, a *session* the conversation that tasks continue.
Every final state has a `reason` with a stable code (`Reason`); `docs/lifecycle.md` draws the states.
"""

from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec

from shared_types.hosts import AgentName, Count, Whole

MAX_PROMPT_BYTES: Final = 256 * 1024

Model = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][\w./:@-]{0,127}$")]
Millis = Annotated[int, msgspec.Meta(ge=1, le=366 * 24 * 3600 * 1000)]


class TaskState(StrEnum):
    QUEUED = "queued"  # waits for a host with room
    ASSIGNED = "assigned"  # a host was chosen and told; nothing runs yet
    RUNNING = "running"  # the agent process was started
    STOPPING = "stopping"  # told to stop; its process tree is not gone yet
    COMPLETED = "completed"  # evidence: a result and a clean exit
    FAILED = "failed"
    TIMEOUT = "timeout"  # its time ran out and its process tree is gone
    ABORTED = "aborted"  # a person stopped it and its process tree is gone
    LOST = "lost"  # its host is gone and nobody can say how it ended
    EXPIRED = "expired"  # no host could take it before its queue TTL


FINAL: Final = frozenset(
    {
        TaskState.COMPLETED,
        TaskState.FAILED,
        TaskState.TIMEOUT,
        TaskState.ABORTED,
        TaskState.LOST,
        TaskState.EXPIRED,
    }
)


class Reason(StrEnum):
    """Why a task ended, or why a host refused it. Stable: programs may compare them.

    A gateway of another make may send codes that are not listed; they are kept as they came.
    """

    # ends of a run
    EXIT_NONZERO = "exit_nonzero"
    KILLED_BY_SIGNAL = "killed_by_signal"
    NO_RESULT = "no_result"
    DENIED = "denied"  # the agent was refused what it needed and could not finish
    REFUSAL = "agent_error.refusal"
    AGENT_ERROR = "agent_error"
    PROVIDER_AUTH = "agent_error.provider_auth"
    RATE_LIMIT = "agent_error.rate_limit"
    QUOTA = "agent_error.quota"
    CONTEXT_OVERFLOW = "agent_error.context_overflow"
    PROVIDER_ERROR = "agent_error.provider"
    PROTOCOL_ERROR = "agent_error.protocol"
    MAX_TURNS = "agent_error.max_turns"
    # a run that was stopped
    ABORTED_BY_USER = "aborted_by_user"
    RUN_TIMEOUT = "run_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    START_TIMEOUT = "start_timeout"
    # a run that never was
    MISSING_EXECUTABLE = "missing_executable"
    LOGGED_OUT = "logged_out"
    CWD_NOT_ALLOWED = "cwd_not_allowed"
    CWD_MISSING = "cwd_missing"
    ENV_NOT_ALLOWED = "env_not_allowed"
    UNKNOWN_AGENT = "unknown_agent"
    MODE_NOT_ALLOWED = "mode_not_allowed"
    SPAWN_FAILED = "spawn_failed"
    NO_FREE_SLOT = "no_free_slot"
    DRAINING = "draining"
    DISK_FULL = "disk_full"
    QUEUE_EXPIRED = "queue_expired"
    REFUSED_EVERYWHERE = "refused_everywhere"
    # a run whose host went away
    HOST_LOST = "host_lost"
    HOST_RESTARTED = "host_restarted"
    SUPERVISOR_DIED = "supervisor_died"
    LEASE_EXPIRED = "lease_expired"  # its host had no word of the manager for so long that it ended the agent


class PermissionMode(StrEnum):
    """How an agent's asks are answered when nobody is asked. The gateway maps it for each agent.

    default: reads and harmless commands go on, the rest is decided by the agent's own rules and what it asks is denied;
    acceptEdits: edits inside the working directory are allowed, other asks denied;
    plan: the agent may read and plan, nothing else; bypass: everything is allowed; deny: every ask is denied.
    """

    DEFAULT = "default"
    ACCEPT_EDITS = "acceptEdits"
    PLAN = "plan"
    BYPASS = "bypass"
    DENY = "deny"


class LabelRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """require: a host must have them; prefer: better with them; avoid: never a host that has them."""

    require: dict[str, str] = {}
    prefer: dict[str, str] = {}
    avoid: dict[str, str] = {}


class TaskRequest(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True, gc=False):
    """A task as a host gets it. Base dialect up to `metadata`; the rest is of the full dialect."""

    task_id: str
    prompt: str
    cwd: str
    agent_type: str
    model: str | None = None
    env: dict[str, str] | None = None
    timeout: int | None = None  # ms
    metadata: dict[str, Any] | None = None
    permission_mode: PermissionMode = PermissionMode.DEFAULT
    idle_timeout: int | None = None  # ms without a sign of life from the agent
    grace: Count | None = None  # ms that it may go on after its host's lease is over; None: for ever


class TaskResult(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True, gc=False):
    """`output` is the final answer, or its tail when `output_truncated`; `duration` in ms."""

    success: bool
    exit_code: Whole | None = None
    output: str | None = None
    duration: Count | None = None
    files_changed: tuple[str, ...] | None = None
    output_truncated: bool = False


class Task(msgspec.Struct, frozen=True, rename="camel", kw_only=True, gc=False):
    """The record of a task, as the API shows it and the store keeps it.

    `reason` is a stable code, `detail` a sentence for people. `disconnected_since` is an overlay on a live
    state: the host is out of reach since then. `rv` grows by one with every change of this record.
    """

    id: str
    session_id: str
    status: TaskState
    prompt: str
    agent_type: AgentName
    created_at: int
    updated_at: int
    rv: int
    priority: int = 5
    cwd: str | None = None
    model: str | None = None
    env: dict[str, str] = {}  # names are shown; values of a task's env are never shown by the API
    timeout: int | None = None
    idle_timeout: int | None = None
    queue_ttl: int | None = None
    permission_mode: PermissionMode = PermissionMode.DEFAULT
    metadata: dict[str, Any] = {}
    pinned_host: str | None = None
    labels: LabelRules = LabelRules()
    host_id: str | None = None
    attempt: int = 0
    reason: str | None = None
    detail: str | None = None
    result: TaskResult | None = None
    agent_session_id: str | None = None
    disconnected_since: int | None = None
    stop_requested_at: int | None = None
    assigned_at: int | None = None
    started_at: int | None = None
    ended_at: int | None = None
    deadline_at: int | None = None  # the state must have changed by then; the watchdog looks
    excluded_hosts: tuple[str, ...] = ()  # hosts that refused it
    actor: str = ""
    trace_id: str = ""
    first_event_id: int = 1
    last_event_id: int = 0

    @property
    def is_final(self) -> bool:
        return self.status in FINAL
