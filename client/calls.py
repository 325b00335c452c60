"""The manager's HTTP API as values: what to send, and what the answer must be. Pure; the SDK sends them.

`is_repeatable`: sending it twice does what sending it once does, so a cut connection is no reason to give up.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from client.errors import BadAnswer, refusal
from shared_types.api import (
    AbortRequest,
    EventPage,
    Health,
    InputReceipt,
    InputRequest,
    JoinCode,
    JoinCodeCreate,
    Joined,
    JoinRequest,
    TaskCreate,
    TaskPage,
    TokenCreate,
    TokenCreated,
    TokenInfo,
    Why,
)
from shared_types.hosts import HostStatus
from shared_types.tasks import Task, TaskState

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    method: str
    path: str
    answer: type[T]
    body: bytes | None = None
    params: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    is_repeatable: bool = False

    def read(self, status: int, body: bytes) -> T:
        """The answer. Raises ApiError, BadAnswer."""
        if not 200 <= status < 300:
            raise refusal(status, body)
        try:
            return msgspec.json.decode(body, type=self.answer)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadAnswer(
                f"the answer to {self.method} {self.path} is not what a manager says: {error}",
                hint="Is this the address of a manager, and is this client as new as the manager?",
            ) from error


def _path(*parts: str) -> str:
    return "/api/" + "/".join(quote(part, safe="") for part in parts)


def _body(struct: msgspec.Struct) -> bytes:
    """Without what is not set: a manager that does not know a field yet refuses only those who use it."""
    fields: dict[str, Any] = msgspec.to_builtins(struct)
    return msgspec.json.encode({name: value for name, value in fields.items() if value is not None})


def submit(wish: TaskCreate, idempotency_key: str) -> Call[Task]:
    headers = {"Idempotency-Key": idempotency_key}
    return Call("POST", _path("tasks"), Task, _body(wish), headers=headers, is_repeatable=True)


def task(task_id: str) -> Call[Task]:
    return Call("GET", _path("tasks", task_id), Task, is_repeatable=True)


def tasks(
    *,
    statuses: Iterable[TaskState] = (),
    host: str | None = None,
    agent: str | None = None,
    session: str | None = None,
    label: str | None = None,
    text: str | None = None,
    cursor: str | None = None,
    limit: int | None = None,
) -> Call[TaskPage]:
    filters = {"host": host, "agent": agent, "session": session, "label": label, "text": text, "cursor": cursor}
    params = [("status", status.value) for status in statuses]
    params += [(name, value) for name, value in filters.items() if value is not None]
    if limit is not None:
        params.append(("limit", str(limit)))
    return Call("GET", _path("tasks"), TaskPage, params=tuple(params), is_repeatable=True)


def abort(task_id: str, *, kill: bool, reason: str | None) -> Call[Task]:
    body = _body(AbortRequest(kill=kill, reason=reason))
    return Call("POST", _path("tasks", task_id, "abort"), Task, body, is_repeatable=True)


def retry(task_id: str) -> Call[Task]:
    return Call("POST", _path("tasks", task_id, "retry"), Task)


def send_input(task_id: str, content: str, input_id: str) -> Call[InputReceipt]:
    body = _body(InputRequest(content=content, input_id=input_id))
    return Call("POST", _path("tasks", task_id, "input"), InputReceipt, body, is_repeatable=True)


def why(task_id: str) -> Call[Why]:
    return Call("GET", _path("tasks", task_id, "why"), Why, is_repeatable=True)


def events_page(task_id: str, after: int, epoch: str | None, limit: int) -> Call[EventPage]:
    params = [("after", str(after)), ("limit", str(limit))]
    if epoch is not None:
        params.append(("epoch", epoch))
    return Call("GET", events_path(task_id), EventPage, params=tuple(params), is_repeatable=True)


def events_path(task_id: str) -> str:
    return _path("tasks", task_id, "events")


def fleet_path() -> str:
    return _path("events")


def hosts() -> Call[list[HostStatus]]:
    return Call("GET", _path("hosts"), list[HostStatus], is_repeatable=True)


def host(host_id: str) -> Call[HostStatus]:
    return Call("GET", _path("hosts", host_id), HostStatus, is_repeatable=True)


def drain(host_id: str) -> Call[HostStatus]:
    return Call("POST", _path("hosts", host_id, "drain"), HostStatus, is_repeatable=True)


def resume(host_id: str) -> Call[HostStatus]:
    return Call("POST", _path("hosts", host_id, "resume"), HostStatus, is_repeatable=True)


def join_code(wish: JoinCodeCreate) -> Call[JoinCode]:
    return Call("POST", _path("auth", "join-codes"), JoinCode, _body(wish))


def join(wish: JoinRequest) -> Call[Joined]:
    return Call("POST", _path("auth", "join"), Joined, _body(wish))


def tokens() -> Call[list[TokenInfo]]:
    return Call("GET", _path("auth", "tokens"), list[TokenInfo], is_repeatable=True)


def create_token(wish: TokenCreate) -> Call[TokenCreated]:
    return Call("POST", _path("auth", "tokens"), TokenCreated, _body(wish))


def revoke_token(token_id: str) -> Call[TokenInfo]:
    return Call("DELETE", _path("auth", "tokens", token_id), TokenInfo, is_repeatable=True)


def health() -> Call[Health]:
    return Call("GET", _path("health"), Health, is_repeatable=True)
