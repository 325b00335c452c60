"""What the manager needs from the outside, phrased as it would like to ask for it.

Store: the truth, one transaction a call. Bus: "something changed", never the truth. Clock: what time it is.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum, auto
from typing import Protocol

import msgspec

from manager.core.scheduling import Offer, Requirement
from manager.core.tasks import Change, Record, Spec, Verdict
from shared_types.api import InputState, TokenInfo
from shared_types.events import StoredEvent
from shared_types.hosts import AgentInfo, HostCapabilities, HostStatus
from shared_types.tasks import Task, TaskState


class Clock(Protocol):
    def now(self) -> int:
        """Time of day, ms since the epoch: for people, for the record and for deadlines. It never goes back, and does
        not jump when somebody sets the machine's clock.
        """
        ...

    def monotonic(self) -> float:
        """Seconds that never jump: for waiting and for measuring."""
        ...


class Bus(Protocol):
    """Wakes whoever waits for a topic. A wake-up may be lost or doubled: look at the store, then wait again.

    Topics: `queue`, `session:<id>`, `task:<id>`, `fleet`, `host:<id>`.
    """

    def publish(self, topic: str) -> bool:
        """Whether somebody in this process has subscribed to it."""
        ...

    def subscribe(self, *topics: str) -> AbstractAsyncContextManager["Wakeups"]: ...


class Wakeups(Protocol):
    async def wait(self, timeout_s: float) -> bool:
        """True when something was published since the last call, False after `timeout_s`."""
        ...


class NewTask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`idempotency_key` is unique per `spec.actor`; `digest` of the request tells a repeat from a misuse.
    `opens_session`: the session is new for certain, nobody needs to look for it.
    """

    task_id: str
    session_id: str
    opens_session: bool = False
    spec: Spec
    requirement: Requirement
    idempotency_key: str | None = None
    digest: str = ""


class Claim(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A task that is now assigned to a host: committed, to be sent."""

    spec: Spec
    record: Record
    host_id: str
    generation: int
    events: tuple[StoredEvent, ...] = ()


class Taken(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What became of one Change. `heard` is the last record taken; `events` those just written, in order."""

    verdict: Verdict
    heard: int = 0
    record: Record | None = None
    status_changed: bool = False
    events: tuple[StoredEvent, ...] = ()


class Announcements(Protocol):
    """Tells whoever waits what was just committed. Everybody who changes the store calls it, after the commit.

    Plain calls that never wait; losing one costs a delay and nothing else.
    """

    def coming(self) -> None:
        """A task is about to be stored: who gives out work may stand in line right behind it."""
        ...

    def queued(self, task: Task) -> None: ...

    def claimed(self, claims: Sequence[Claim]) -> None: ...

    def taken(self, taken: Sequence[Taken]) -> None: ...

    def host(self, status: HostStatus, kind: str = "host.changed") -> None:
        """`kind` is `host.online`, `host.offline` or `host.changed`."""
        ...


class TaskQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first; all conditions must hold; `text` is looked for in the prompt."""

    statuses: frozenset[TaskState] = frozenset()
    host_id: str | None = None
    agent: str | None = None
    session_id: str | None = None
    label: tuple[str, str] | None = None  # in metadata
    text: str | None = None
    cursor: str | None = None
    limit: int = 50


class Page(msgspec.Struct, frozen=True, kw_only=True):
    items: tuple[Task, ...]  # prompts cut to 1,000 characters
    next_cursor: str | None


class LogBounds(msgspec.Struct, frozen=True, kw_only=True):
    """A session's log: the first id that is kept, the newest id (0 when empty)."""

    session_id: str
    first_id: int
    latest_id: int


class HostRow(msgspec.Struct, frozen=True, kw_only=True):
    """A host as stored. `generation` counts its connections; only the newest one may write.

    `disconnected_at` is None while it is connected.
    """

    host_id: str
    capabilities: HostCapabilities
    agents: tuple[AgentInfo, ...]
    generation: int
    protocol: int
    version: str | None
    boot_id: str | None
    last_seen_at: int | None
    connected_at: int | None
    disconnected_at: int | None
    draining: bool
    labels: dict[str, str]  # given by the manager, on top of the host's own
    last_assigned_at: int
    keeps_leases: bool = False  # its agents are ended there when its lease is over: see Record.leased

    @property
    def is_connected(self) -> bool:
        return self.connected_at is not None and self.disconnected_at is None


class Standing(Enum):
    """Whether a connection may still speak for its host."""

    GOOD = auto()
    SUPERSEDED = auto()  # it is not the current one
    REVOKED = auto()  # every token of the host is revoked


class StoredInput(msgspec.Struct, frozen=True, kw_only=True):
    input_id: str
    task_id: str
    content: str
    state: InputState


class Token(msgspec.Struct, frozen=True, kw_only=True):
    info: TokenInfo
    hash: str  # sha256 hex of the token


class Store(Protocol):
    """The truth. Each call is one transaction, durable when it returns. Any may raise StoreUnavailable."""

    @property
    def epoch(self) -> str:
        """Random, made when the database was created: ids of another epoch mean nothing here."""
        ...

    # tasks

    async def add(self, new: NewTask, *, max_queued: int) -> tuple[Task, bool]:
        """The task and whether it is new; an equal idempotency key gives the old one.

        Raises Conflict IDEMPOTENCY_MISMATCH, TooMany QUEUE_FULL.
        """
        ...

    async def task(self, task_id: str) -> Task:
        """With the whole prompt. Raises NotFound NO_SUCH_TASK."""
        ...

    async def find(self, prefix: str) -> str:
        """The one id that begins so; `task_` may be left out. Raises NotFound NO_SUCH_TASK, Conflict AMBIGUOUS_ID."""
        ...

    async def tasks(self, query: TaskQuery) -> Page:
        """Raises Invalid BAD_CURSOR."""
        ...

    async def counts(self) -> dict[TaskState, int]: ...

    async def requirements(self) -> Mapping[int, Requirement]:
        """Every queue key with queued tasks, by its number; also of tasks whose adding is decided, not durable yet."""
        ...

    async def position(self, task_id: str) -> int:
        """Queued tasks with the same key that go before this one."""
        ...

    async def claim(
        self,
        offers: Sequence[Offer],
        *,
        accept_by: int,
        now: int,
        decided: Callable[[Sequence[Claim]], None] | None = None,
    ) -> list[Claim]:
        """Look at the heads of the offered queues, let `scheduling.assign` choose, and assign: compare and set.

        Slots are counted from rows; an offer of a generation that is not current is ignored. `decided` is told the
        claims before they are durable, in the order in which they will be; told again, the time before was in vain.
        The number of an attempt that came to nothing is not given again.
        """
        ...

    async def change(self, changes: Sequence[Change]) -> list[Taken]:
        """Apply `tasks.apply` to each in order, all in one transaction; one that is refused changes nothing and
        does not hinder the others.
        """
        ...

    async def accept(self, changes: Sequence[Change]) -> list[Taken]:
        """As `change`, for acceptances: returns when the claims they speak of are durable. That they were accepted is
        written soon after; should that come to nothing, they count as accepted all the same (`tasks.doubted`).
        """
        ...

    async def claim_of(self, task_id: str) -> Claim | None:
        """The current attempt of a task with its spec, while it is on a host."""
        ...

    async def on_host(self, host_id: str) -> list[Record]:
        """Records of the tasks that hold a slot of this host."""
        ...

    async def due(self, now: int, limit: int) -> list[Record]:
        """Live tasks whose deadline has passed, oldest first."""
        ...

    # events

    async def bounds(self, *, task_id: str | None = None, session_id: str | None = None) -> LogBounds:
        """Raises NotFound NO_SUCH_TASK, NO_SUCH_SESSION."""
        ...

    async def events(
        self, session_id: str, after: int, *, task_id: str | None = None, limit: int, max_bytes: int
    ) -> list[StoredEvent]:
        """In order, at least one if there is one; `task_id` leaves out the session's other tasks."""
        ...

    # hosts

    async def host_connected(
        self,
        host_id: str,
        capabilities: HostCapabilities,
        agents: tuple[AgentInfo, ...],
        *,
        protocol: int,
        version: str | None,
        boot_id: str | None,
        keeps_leases: bool = False,
        now: int,
    ) -> HostRow:
        """A new connection: the generation grows by one, and what an older one still says is stale."""
        ...

    async def host_seen(self, host_id: str, generation: int, now: int) -> Standing:
        """A heartbeat. Changes nothing unless the standing is good."""
        ...

    async def host_gone(self, host_id: str, generation: int, now: int) -> list[Taken]:
        """The connection ended: its tasks are disconnected since now, and lost when their leases, which count from
        its last sign of life, are over. Changes nothing for an old generation.
        """
        ...

    async def hosts(self) -> list[HostRow]: ...

    async def host(self, host_id: str) -> HostRow:
        """Raises NotFound NO_SUCH_HOST."""
        ...

    async def set_draining(self, host_id: str, draining: bool) -> HostRow: ...

    # inputs

    async def add_input(self, task_id: str, input_id: str, content: str, now: int) -> StoredInput:
        """Durable before it is sent. The same id again gives what is stored. Raises NotFound, Conflict TASK_ENDED,
        TooMany INPUTS_FULL.
        """
        ...

    async def mark_input(self, task_id: str, input_id: str, state: InputState) -> StoredInput | None:
        """Never goes back: stored, sent, then taken or refused. None when there is no such input."""
        ...

    async def open_inputs(self, task_id: str) -> list[StoredInput]:
        """Those that were neither taken nor refused, in order."""
        ...

    # access

    async def add_token(self, token: Token) -> None: ...

    async def token(self, hash: str) -> Token | None: ...

    async def tokens(self) -> list[TokenInfo]: ...

    async def revoke_token(self, token_id: str, now: int) -> TokenInfo:
        """Raises NotFound NO_SUCH_TOKEN."""
        ...

    async def touch_token(self, token_id: str, now: int) -> None:
        """It was used; kept to the minute, so call it as often as you like."""
        ...

    async def add_join_code(self, hash: str, *, expires_at: int, labels: dict[str, str]) -> None: ...

    async def redeem_join_code(self, hash: str, *, host_id: str, token: Token, now: int) -> dict[str, str]:
        """Use the code up, store the host's token; gives the code's labels.

        Raises Forbidden BAD_JOIN_CODE, Conflict HOST_EXISTS.
        """
        ...

    # unread marks of /ws clients

    async def mark(self, principal: str, device: str, session_id: str, event_id: int) -> None: ...

    async def marked(self, principal: str, device: str, session_id: str) -> int: ...


__all__ = [
    "Announcements",
    "Bus",
    "Claim",
    "Clock",
    "HostRow",
    "LogBounds",
    "NewTask",
    "Page",
    "Store",
    "StoredInput",
    "Taken",
    "TaskQuery",
    "Token",
    "Verdict",
    "Wakeups",
]
