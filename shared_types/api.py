"""What travels over HTTP, SSE and `/ws` between the manager and everybody who is not a host.

Requests refuse fields they do not know (a typo must not be silence); answers may grow fields.
Errors are RFC 9457 problem documents (`Problem`) with a stable `code`.
"""

from enum import StrEnum
from typing import Annotated, Any, Final, TypeAlias

import msgspec

from shared_types.hosts import AgentName, HostCapabilities, HostId, HostStatus
from shared_types.tasks import LabelRules, Millis, Model, PermissionMode, Task, TaskState

MAX_BATCH_MESSAGES: Final = 500
MAX_BATCH_BYTES: Final = 1024 * 1024

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Request(msgspec.Struct, frozen=True, rename="camel", kw_only=True, forbid_unknown_fields=True):
    """Base of every request body."""


class Answer(msgspec.Struct, frozen=True, rename="camel", kw_only=True, gc=False):
    """Base of every answer."""


# --- errors -----------------------------------------------------------------------------------------


class ProblemField(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """One offending field: `key` is its path in the body (`$.timeout`), or the name of the parameter."""

    key: str
    message: str
    source: str = "body"  # body | query | path | header


class Problem(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """RFC 9457. `detail` is a sentence a person can act on, `hint` what to do, `code` stable for programs."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str | None = None
    hint: str | None = None
    instance: str | None = None
    request_id: str | None = None
    errors: tuple[ProblemField, ...] = ()


# --- tasks ------------------------------------------------------------------------------------------


class TaskCreate(Request, frozen=True, kw_only=True):
    """`POST /api/tasks`. Durations in ms; priority 0 (first) to 9 (last)."""

    prompt: Annotated[str, msgspec.Meta(min_length=1)]
    agent_type: AgentName
    cwd: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)] | None = None
    model: Model | None = None
    env: dict[str, str] = {}
    timeout: Millis | None = None
    idle_timeout: Millis | None = None
    metadata: dict[str, Any] = {}
    host_id: HostId | None = None
    labels: LabelRules = LabelRules()
    priority: Annotated[int, msgspec.Meta(ge=0, le=9)] = 5
    queue_ttl: Millis | None = None
    permission_mode: PermissionMode = PermissionMode.DEFAULT


class TaskPage(Answer, frozen=True, kw_only=True):
    """Newest first. `next_cursor` is null on the last page."""

    items: tuple[Task, ...]
    next_cursor: str | None = None


class AbortRequest(Request, frozen=True, kw_only=True):
    """`POST /api/tasks/{id}/abort`; `kill` skips the grace."""

    reason: Annotated[str, msgspec.Meta(max_length=500)] | None = None
    kill: bool = False


class InputRequest(Request, frozen=True, kw_only=True):
    """`POST /api/tasks/{id}/input`. The same `input_id` again changes nothing."""

    content: Annotated[str, msgspec.Meta(min_length=1)]
    input_id: Id | None = None


class InputState(StrEnum):
    STORED = "stored"  # the manager keeps it until the host has it
    SENT = "sent"  # written to the host's connection
    TAKEN = "taken"  # the agent has it
    REFUSED = "refused"  # the agent does not get it; the event `input` in the log says why


class InputReceipt(Answer, frozen=True, kw_only=True):
    input_id: str
    task_id: str
    state: InputState


class Condition(Answer, frozen=True, kw_only=True):
    """One condition of a host for a task: what is wanted, what is, whether it holds."""

    name: str  # connected | agent | loggedIn | labels | avoided | pinned | slots | draining | refused
    holds: bool
    wanted: str
    found: str


class HostWhy(Answer, frozen=True, kw_only=True):
    host_id: str
    name: str
    would_run: bool
    conditions: tuple[Condition, ...]


class Why(Answer, frozen=True, kw_only=True):
    """Why a task is where it is: one sentence, then each host's conditions."""

    task_id: str
    status: TaskState
    summary: str
    would_run_if: str | None = None
    position: int | None = None  # queued tasks of the same requirement before it
    hosts: tuple[HostWhy, ...] = ()


# --- events -----------------------------------------------------------------------------------------


class EventRecord(Answer, frozen=True, kw_only=True):
    """An event as streams and pages show it: `AgentEvent` with its public name."""

    type: str
    timestamp: int
    id: int
    task_id: str
    attempt: int = 0
    content: str | None = None
    data: dict[str, Any] | None = None


class EventPage(Answer, frozen=True, kw_only=True):
    """A page of a log in order. `gap`: history before `first_id` is gone, or the epoch is another."""

    items: tuple[EventRecord, ...]
    epoch: str
    verdict: str  # ok | gap
    first_id: int
    latest_id: int
    has_more: bool


class ResumeFrame(Answer, frozen=True, kw_only=True):
    """`event: resume`, the first frame of a stream."""

    verdict: str
    epoch: str
    first_id: int
    latest_id: int
    task: Task | None = None


class FleetEvent(Answer, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the fleet stream: `task.status`, `host.online`, `host.offline` or `host.changed`."""

    type: str
    timestamp: int
    id: int
    task_id: str | None = None
    session_id: str | None = None
    status: TaskState | None = None
    reason: str | None = None
    attempt: int | None = None
    rv: int | None = None
    host_id: str | None = None
    host: HostStatus | None = None


class FleetPage(Answer, frozen=True, kw_only=True):
    """A page of the fleet stream, for those who do not stream; otherwise as `EventPage`."""

    items: tuple[FleetEvent, ...]
    epoch: str
    verdict: str  # ok | gap
    first_id: int
    latest_id: int
    has_more: bool


class EndFrame(Answer, frozen=True, kw_only=True):
    """`event: end`: the task has ended and everything is said. Who comes back is answered 204."""

    status: TaskState


class LeaveFrame(Answer, frozen=True, kw_only=True):
    """`event: drain` (the manager restarts: come back) or `event: revoked` (the token is)."""

    retry: bool


class FleetSnapshot(Answer, frozen=True, kw_only=True):
    """`event: snapshot`, the first thing on the fleet stream after a gap or a fresh start."""

    as_of: int
    hosts: tuple[HostStatus, ...]
    counts: dict[str, int]  # tasks per state


# --- hosts, tokens, health --------------------------------------------------------------------------


class JoinCodeCreate(Request, frozen=True, kw_only=True):
    """`POST /api/auth/join-codes`: one use, `ttl` in ms (at most a day)."""

    ttl: Annotated[int, msgspec.Meta(ge=1_000, le=24 * 3600 * 1000)] = 3600 * 1000
    labels: dict[str, str] = {}


class JoinCode(Answer, frozen=True, kw_only=True):
    code: str
    expires_at: int


class JoinRequest(Request, frozen=True, kw_only=True):
    """`POST /api/auth/join`, without a token: the code is the credential."""

    code: Id
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    host_id: HostId | None = None


class Joined(Answer, frozen=True, kw_only=True):
    """A host token, shown once, bound to `host_id`."""

    host_id: str
    token: str
    url: str  # the ws(s):// address to dial
    labels: dict[str, str] = {}


class TokenKind(StrEnum):
    PERSONAL = "personal"  # people and programs: everything but the link
    HOST = "host"  # the link, as one host


class TokenCreate(Request, frozen=True, kw_only=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    kind: TokenKind = TokenKind.PERSONAL
    host_id: HostId | None = None  # needed for kind=host


class TokenInfo(Answer, frozen=True, kw_only=True):
    id: str
    name: str
    kind: TokenKind
    host_id: str | None
    created_at: int
    last_used_at: int | None
    revoked_at: int | None


class TokenCreated(Answer, frozen=True, kw_only=True):
    """`token` is shown this once."""

    token: str
    info: TokenInfo


class Health(Answer, frozen=True, kw_only=True):
    """`status` is ok, or degraded with the parts named."""

    status: str
    version: str
    epoch: str
    degraded: dict[str, str]
    hosts_online: int
    tasks_queued: int
    tasks_running: int
    uptime_ms: int


# --- /ws: one socket for many tasks -----------------------------------------------------------------


class Envelope(msgspec.Struct, frozen=True, tag_field="type", rename="camel", kw_only=True, omit_defaults=True):
    """Base of every client message: `{type, id?, payload, timestamp?, metadata?}`."""

    id: str | None = None
    timestamp: int | None = None
    metadata: dict[str, Any] | None = None


class StreamRef(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Which stream is meant: exactly one of the three."""

    task_id: Id | None = None
    session_id: Id | None = None
    fleet: bool = False
    after: Annotated[int, msgspec.Meta(ge=0)] | None = None  # default: what this socket has synced, else the newest
    text: bool = False  # also send the plain-text view (agent:stream, agent:response, agent:status)


class SyncPayload(
    msgspec.Struct,
    frozen=True,
    rename={"last_ack_id": "lastAckID", "task_id": "taskId", "session_id": "sessionId"},
    kw_only=True,
):
    """Everything after `lastAckID`; without it, after the client's stored mark."""

    task_id: Id | None = None
    session_id: Id | None = None
    last_ack_id: Annotated[int, msgspec.Meta(ge=0)] | None = None


class AckPayload(
    msgspec.Struct,
    frozen=True,
    rename={"msg_id": "msgID", "task_id": "taskId", "session_id": "sessionId"},
    kw_only=True,
):
    msg_id: Annotated[int, msgspec.Meta(ge=0)]
    task_id: Id | None = None
    session_id: Id | None = None


class UserMessagePayload(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    content: Annotated[str, msgspec.Meta(min_length=1)]
    agent_type: AgentName | None = None
    host_id: HostId | None = None
    cwd: str | None = None


class TaskInputPayload(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    task_id: Id
    content: Annotated[str, msgspec.Meta(min_length=1)]
    input_id: Id | None = None


class TaskAbortPayload(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    task_id: Id
    reason: str | None = None
    kill: bool = False


class Sync(Envelope, frozen=True, kw_only=True, tag="sync"):
    payload: SyncPayload


class Ack(Envelope, frozen=True, kw_only=True, tag="ack"):
    payload: AckPayload


class Subscribe(Envelope, frozen=True, kw_only=True, tag="subscribe"):
    payload: StreamRef


class Unsubscribe(Envelope, frozen=True, kw_only=True, tag="unsubscribe"):
    payload: StreamRef


class UserMessage(Envelope, frozen=True, kw_only=True, tag="user:message"):
    payload: UserMessagePayload


class ClientTaskInput(Envelope, frozen=True, kw_only=True, tag="task:input"):
    payload: TaskInputPayload


class ClientTaskAbort(Envelope, frozen=True, kw_only=True, tag="task:abort"):
    payload: TaskAbortPayload


FromClient: TypeAlias = Sync | Ack | Subscribe | Unsubscribe | UserMessage | ClientTaskInput | ClientTaskAbort


# What the manager says on `/ws`. It writes these from stored lines without making objects; the structs describe them.


class Told(msgspec.Struct, frozen=True, tag_field="type", rename="camel", kw_only=True, omit_defaults=True):
    """Base of every message to a client. `id` is that of the message it answers."""

    id: str | None = None


class BatchPayload(
    msgspec.Struct,
    frozen=True,
    rename={
        "latest_id": "latestID",
        "first_id": "firstID",
        "has_more": "hasMore",
        "session_id": "sessionId",
    },
    kw_only=True,
):
    """At most MAX_BATCH_MESSAGES events or MAX_BATCH_BYTES; `has_more`: sync again after the last one."""

    messages: tuple[EventRecord, ...]
    latest_id: int
    first_id: int
    epoch: str
    verdict: str  # ok | gap
    has_more: bool
    session_id: str


class EventPayload(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """An EventRecord, or a FleetEvent on the fleet's stream; there `task_id` is missing."""

    id: int
    event: msgspec.Raw
    task_id: str | None = None


class SubscribedPayload(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Which stream, and after which id it goes on. Said again with verdict `gap` when events were lost to it."""

    after: int
    epoch: str
    verdict: str  # ok | gap
    task_id: str | None = None
    session_id: str | None = None
    fleet: bool = False


class UnsubscribedPayload(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    task_id: str | None = None
    session_id: str | None = None
    fleet: bool = False


class TextPayload(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The plain-text view of one event; `status` only in `agent:status`."""

    task_id: str
    id: int
    content: str
    status: str | None = None


class SyncBatch(Told, frozen=True, kw_only=True, tag="sync.batch"):
    payload: BatchPayload


class ToldEvent(Told, frozen=True, kw_only=True, tag="event"):
    payload: EventPayload


class ToldStatus(Told, frozen=True, kw_only=True, tag="status"):
    payload: Task


class ToldSubscribed(Told, frozen=True, kw_only=True, tag="subscribed"):
    payload: SubscribedPayload


class ToldUnsubscribed(Told, frozen=True, kw_only=True, tag="unsubscribed"):
    payload: UnsubscribedPayload


class ToldInput(Told, frozen=True, kw_only=True, tag="task:input"):
    payload: InputReceipt


class ToldProblem(Told, frozen=True, kw_only=True, tag="error"):
    payload: Problem


class AgentStream(Told, frozen=True, kw_only=True, tag="agent:stream"):
    """A message grows."""

    payload: TextPayload


class AgentResponse(Told, frozen=True, kw_only=True, tag="agent:response"):
    """A message is complete."""

    payload: TextPayload


class AgentStatus(Told, frozen=True, kw_only=True, tag="agent:status"):
    payload: TextPayload


class HostOnline(Told, frozen=True, kw_only=True, tag="host:online"):
    payload: HostStatus


class HostOffline(Told, frozen=True, kw_only=True, tag="host:offline"):
    payload: HostStatus


ToClient: TypeAlias = (
    SyncBatch
    | ToldEvent
    | ToldStatus
    | ToldSubscribed
    | ToldUnsubscribed
    | ToldInput
    | ToldProblem
    | AgentStream
    | AgentResponse
    | AgentStatus
    | HostOnline
    | HostOffline
)

__all__ = ["HostCapabilities", "HostStatus", "Task", "TaskState"]
