"""The SDK: everything the manager offers, typed, async (`AsyncFleetgate`) and sync (`Fleetgate`).

    async with AsyncFleetgate() as fleet:
        task = await fleet.submit(TaskCreate(prompt="fix the tests", agent_type="claude-code"))
        async with aclosing(fleet.events(task.id)) as events:
            async for event in events:
                print(event.type, event.content)

What is sent and how answers are read stands in calls.py, how a stream goes on after a cut in following.py; this
file only moves bytes. httpx is used here and nowhere else in the client.
Errors: client/errors.py. Without `url` and `token` they come from the environment or `fleetgate login` (access.py).
"""

import random
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import aclosing, closing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Final, Self, TypeVar

import anyio
import httpx

from client import calls
from client.access import LOGIN_HINT, Access, find_access, is_loopback, normal_url
from client.calls import Call
from client.errors import ApiError, BadAnswer, Denied, Unreachable, WaitTimeout, refusal
from client.following import SILENCE_S, FleetFollowing, Following, TaskFollowing
from shared_types import __version__
from shared_types.api import (
    EventPage,
    EventRecord,
    FleetEvent,
    FleetSnapshot,
    Health,
    InputReceipt,
    JoinCode,
    JoinCodeCreate,
    Joined,
    JoinRequest,
    TaskCreate,
    TaskPage,
    TokenCreate,
    TokenCreated,
    TokenInfo,
    TokenKind,
    Why,
)
from shared_types.hosts import HostStatus
from shared_types.tasks import Task, TaskState

T = TypeVar("T")
OnCut = Callable[[Exception | None, float], None]  # why (None: closed politely), and seconds until the next try

TRIES: Final = 3  # of a call that may be repeated, when its connection is cut
PAGE: Final = 200
_TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
_STREAM_TIMEOUT: Final = httpx.Timeout(SILENCE_S, connect=5.0)
_PASSING: Final = frozenset({429, 502, 503, 504})


def _ignore_cut(why: Exception | None, delay_s: float) -> None:
    """Nobody wants to know."""


class _Way:
    """What both clients share: the address, the headers, what errors mean."""

    def __init__(self, url: str | None, token: str | None) -> None:
        if url is None or token is None:
            found = find_access(url)
        else:
            found = Access(normal_url(url), token, "argument", "argument")
        self.access = found if token is None else Access(found.url, token, found.url_from, "argument")

    @property
    def url(self) -> str:
        return self.access.url

    def headers(self) -> dict[str, str]:
        token = {"Authorization": f"Bearer {self.access.token}"} if self.access.token else {}
        return {"User-Agent": f"fleetgate/{__version__}", **token}

    @property
    def trust_env(self) -> bool:
        """A proxy of the environment is never asked for an address of this machine."""
        return not is_loopback(self.url)

    def explain(self, error: ApiError) -> ApiError:
        if isinstance(error, Denied) and self.access.token is None and error.status == 401:
            detail, hint = f"{self.url} wants a token and there is none", LOGIN_HINT.format(url=self.url)
            return Denied(error.status, error.code, detail, hint=hint, request_id=error.request_id)
        return error

    def unreachable(self, error: Exception) -> Unreachable:
        why = " ".join(str(error).split()) or type(error).__name__
        return Unreachable(
            f"no manager answers at {self.url} ({why})",
            hint="Start one with `fleetgate up`, or name another with --url or FLEETGATE_URL.",
        )

    @staticmethod
    def is_worth_another(call: Call[T], attempt: int, error: Exception) -> bool:
        """A refused connection is not: whoever waits wants to know. A cut one is, when repeating does no harm."""
        return call.is_repeatable and attempt + 1 < TRIES and not isinstance(error, httpx.ConnectError)

    def stream_refused(self, following: Following[T], status: int, body: bytes) -> ApiError | None:
        """What to raise for an answer other than a stream; None when it passes by and we were connected before."""
        error = refusal(status, body)
        return None if following.was_connected and status in _PASSING else self.explain(error)

    @staticmethod
    def check_stream(answer: httpx.Response) -> None:
        kind = answer.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            raise BadAnswer(f"{answer.url} answers {kind or 'nothing we know'} instead of a stream of events")


def new_key() -> str:
    """For `Idempotency-Key` and `inputId`."""
    return secrets.token_hex(16)


class AsyncFleetgate(_Way):
    """One manager, spoken to. Use as a context manager, or call `aclose`. Cancelling any call is safe."""

    def __init__(
        self, url: str | None = None, token: str | None = None, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        super().__init__(url, token)
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers=self.headers(),
            timeout=_TIMEOUT,
            trust_env=self.trust_env,
            transport=transport,
        )

    def __repr__(self) -> str:
        return f"<AsyncFleetgate {self.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def call(self, call: Call[T]) -> T:
        """Raises ApiError, Unreachable, BadAnswer."""
        attempt = 0
        while True:
            try:
                answer = await self._http.request(
                    call.method,
                    call.path,
                    content=call.body,
                    params=call.params,
                    headers={**call.headers, **({"Content-Type": "application/json"} if call.body else {})},
                )
                return call.read(answer.status_code, answer.content)
            except ApiError as error:
                raise self.explain(error) from None
            except httpx.TransportError as error:
                if not self.is_worth_another(call, attempt, error):
                    raise self.unreachable(error) from error
            attempt += 1
            await anyio.sleep(0.2 * 2**attempt)

    # --- tasks

    async def submit(self, wish: TaskCreate, *, idempotency_key: str | None = None) -> Task:
        """The task is stored when this returns; a cut connection never makes two of it."""
        return await self.call(calls.submit(wish, idempotency_key or new_key()))

    async def task(self, task_id: str) -> Task:
        """`task_id` may be a beginning that only one task has, here and below."""
        return await self.call(calls.task(task_id))

    async def tasks_page(
        self, *, cursor: str | None = None, limit: int | None = None, statuses: Iterable[TaskState] = (), **filters: str
    ) -> TaskPage:
        return await self.call(calls.tasks(cursor=cursor, limit=limit, statuses=statuses, **filters))

    async def tasks(self, *, statuses: Iterable[TaskState] = (), **filters: str) -> AsyncGenerator[Task, None]:
        """All tasks, newest first, fetched page by page. Filters: host, agent, session, label, text."""
        wanted = tuple(statuses)
        cursor: str | None = None
        while True:
            page = await self.tasks_page(cursor=cursor, limit=PAGE, statuses=wanted, **filters)
            for task in page.items:
                yield task
            if (cursor := page.next_cursor) is None:
                return

    async def abort(self, task_id: str, *, kill: bool = False, reason: str | None = None) -> Task:
        return await self.call(calls.abort(task_id, kill=kill, reason=reason))

    async def retry(self, task_id: str) -> Task:
        return await self.call(calls.retry(task_id))

    async def input(self, task_id: str, content: str, *, input_id: str | None = None) -> InputReceipt:
        return await self.call(calls.send_input(task_id, content, input_id or new_key()))

    async def why(self, task_id: str) -> Why:
        return await self.call(calls.why(task_id))

    # --- events

    async def events_page(
        self, task_id: str, after: int = 0, *, epoch: str | None = None, limit: int = 500
    ) -> EventPage:
        return await self.call(calls.events_page(task_id, after, epoch, limit))

    async def events(
        self, task_id: str, after: int = 0, *, epoch: str | None = None, on_cut: OnCut = _ignore_cut
    ) -> AsyncGenerator[EventRecord, None]:
        """Every event behind `after` once and in order, live, until the task has ended; over cuts and restarts.

        Raises Gap where history is missing: go on with `after=gap.resume_after`. Close it (`aclosing`) when you
        leave it early.
        """
        async with aclosing(self.watch(task_id, after, epoch=epoch, on_cut=on_cut)) as items:
            async for item in items:
                if isinstance(item, EventRecord):
                    yield item

    async def watch(
        self, task_id: str, after: int = 0, *, epoch: str | None = None, on_cut: OnCut = _ignore_cut
    ) -> AsyncGenerator[EventRecord | Task, None]:
        """As `events`, and the task's record at first and whenever it changes."""
        following = TaskFollowing(calls.events_path(task_id), after, epoch)
        async with aclosing(self._follow(following, on_cut)) as items:
            async for item in items:
                yield item

    async def fleet_events(self, *, on_cut: OnCut = _ignore_cut) -> AsyncGenerator[FleetEvent | FleetSnapshot, None]:
        """What happens to hosts and tasks, from now on; begins with a snapshot, and again after a gap. Endless."""
        async with aclosing(self._follow(FleetFollowing(calls.fleet_path()), on_cut)) as items:
            async for item in items:
                yield item

    async def _follow(self, following: Following[T], on_cut: OnCut) -> AsyncGenerator[T, None]:
        while True:
            why: Exception | None = None
            try:
                async with self._http.stream(
                    "GET",
                    following.path,
                    headers=following.headers(),
                    params=following.params(),
                    timeout=_STREAM_TIMEOUT,
                ) as answer:
                    if answer.status_code == 204:
                        return
                    if answer.status_code == 200:
                        self.check_stream(answer)
                        following.connected()
                        async for chunk in answer.aiter_bytes():
                            for item in following.heard(chunk):
                                yield item
                            if following.is_over:
                                return
                    elif refused := self.stream_refused(following, answer.status_code, await answer.aread()):
                        raise refused
            except httpx.TransportError as error:
                if not following.was_connected:
                    raise self.unreachable(error) from error
                why = error
            delay_s = following.delay(_random)
            on_cut(why, delay_s)
            await anyio.sleep(delay_s)

    async def wait(self, task_id: str, timeout: float | None = None) -> Task:
        """The task as it ended. Raises WaitTimeout with the task as it stood."""
        task = await self.task(task_id)
        with anyio.move_on_after(timeout):
            while not task.is_final:
                async with aclosing(self.watch(task.id, task.last_event_id)) as items:
                    async for item in items:
                        if isinstance(item, Task):
                            task = item
                            if task.is_final:
                                break
                    else:  # it ended without telling us: ask
                        task = await self.task(task.id)
        if not task.is_final:
            raise WaitTimeout(task, timeout or 0.0)
        return task

    # --- hosts

    async def hosts(self) -> list[HostStatus]:
        return await self.call(calls.hosts())

    async def host(self, host_id: str) -> HostStatus:
        return await self.call(calls.host(host_id))

    async def drain(self, host_id: str) -> HostStatus:
        return await self.call(calls.drain(host_id))

    async def resume(self, host_id: str) -> HostStatus:
        return await self.call(calls.resume(host_id))

    # --- access

    async def join_code(self, wish: JoinCodeCreate | None = None) -> JoinCode:
        return await self.call(calls.join_code(wish or JoinCodeCreate()))

    async def join(self, code: str, name: str, *, host_id: str | None = None) -> Joined:
        """Become a host; needs no token. The answer's token is shown this once."""
        return await self.call(calls.join(JoinRequest(code=code, name=name, host_id=host_id)))

    async def tokens(self) -> list[TokenInfo]:
        return await self.call(calls.tokens())

    async def create_token(
        self, name: str, *, kind: TokenKind = TokenKind.PERSONAL, host_id: str | None = None
    ) -> TokenCreated:
        return await self.call(calls.create_token(TokenCreate(name=name, kind=kind, host_id=host_id)))

    async def revoke_token(self, token_id: str) -> TokenInfo:
        return await self.call(calls.revoke_token(token_id))

    async def health(self) -> Health:
        return await self.call(calls.health())

    async def probe(self) -> tuple[Health, float | None, float]:
        """(health, seconds that our clock is ahead of the manager's if it tells the time, milliseconds it took)."""
        call = calls.health()
        began, sent_at = time.monotonic(), datetime.now(UTC)
        try:
            answer = await self._http.request(call.method, call.path)
        except httpx.TransportError as error:
            raise self.unreachable(error) from error
        took_s = time.monotonic() - began
        told = answer.headers.get("date")
        # The header has whole seconds, cut off: half a second of them is missing on average.
        ahead = (sent_at - parsedate_to_datetime(told)).total_seconds() + took_s / 2 - 0.5 if told else None
        return call.read(answer.status_code, answer.content), ahead, took_s * 1000


class Fleetgate(_Way):
    """The same for programs that do not await. Use as a context manager, or call `close`."""

    def __init__(
        self, url: str | None = None, token: str | None = None, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        super().__init__(url, token)
        self._http = httpx.Client(
            base_url=self.url,
            headers=self.headers(),
            timeout=_TIMEOUT,
            trust_env=self.trust_env,
            transport=transport,
        )

    def __repr__(self) -> str:
        return f"<Fleetgate {self.url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def call(self, call: Call[T]) -> T:
        """Raises ApiError, Unreachable, BadAnswer."""
        attempt = 0
        while True:
            try:
                answer = self._http.request(
                    call.method,
                    call.path,
                    content=call.body,
                    params=call.params,
                    headers={**call.headers, **({"Content-Type": "application/json"} if call.body else {})},
                )
                return call.read(answer.status_code, answer.content)
            except ApiError as error:
                raise self.explain(error) from None
            except httpx.TransportError as error:
                if not self.is_worth_another(call, attempt, error):
                    raise self.unreachable(error) from error
            attempt += 1
            time.sleep(0.2 * 2**attempt)

    # --- tasks

    def submit(self, wish: TaskCreate, *, idempotency_key: str | None = None) -> Task:
        """The task is stored when this returns; a cut connection never makes two of it."""
        return self.call(calls.submit(wish, idempotency_key or new_key()))

    def task(self, task_id: str) -> Task:
        """`task_id` may be a beginning that only one task has, here and below."""
        return self.call(calls.task(task_id))

    def tasks_page(
        self, *, cursor: str | None = None, limit: int | None = None, statuses: Iterable[TaskState] = (), **filters: str
    ) -> TaskPage:
        return self.call(calls.tasks(cursor=cursor, limit=limit, statuses=statuses, **filters))

    def tasks(self, *, statuses: Iterable[TaskState] = (), **filters: str) -> Generator[Task, None, None]:
        """All tasks, newest first, fetched page by page. Filters: host, agent, session, label, text."""
        wanted = tuple(statuses)
        cursor: str | None = None
        while True:
            page = self.tasks_page(cursor=cursor, limit=PAGE, statuses=wanted, **filters)
            yield from page.items
            if (cursor := page.next_cursor) is None:
                return

    def abort(self, task_id: str, *, kill: bool = False, reason: str | None = None) -> Task:
        return self.call(calls.abort(task_id, kill=kill, reason=reason))

    def retry(self, task_id: str) -> Task:
        return self.call(calls.retry(task_id))

    def input(self, task_id: str, content: str, *, input_id: str | None = None) -> InputReceipt:
        return self.call(calls.send_input(task_id, content, input_id or new_key()))

    def why(self, task_id: str) -> Why:
        return self.call(calls.why(task_id))

    # --- events

    def events_page(self, task_id: str, after: int = 0, *, epoch: str | None = None, limit: int = 500) -> EventPage:
        return self.call(calls.events_page(task_id, after, epoch, limit))

    def events(
        self, task_id: str, after: int = 0, *, epoch: str | None = None, on_cut: OnCut = _ignore_cut
    ) -> Generator[EventRecord, None, None]:
        """Every event behind `after` once and in order, live, until the task has ended; over cuts and restarts.

        Raises Gap where history is missing: go on with `after=gap.resume_after`.
        """
        with closing(self.watch(task_id, after, epoch=epoch, on_cut=on_cut)) as items:
            for item in items:
                if isinstance(item, EventRecord):
                    yield item

    def watch(
        self, task_id: str, after: int = 0, *, epoch: str | None = None, on_cut: OnCut = _ignore_cut
    ) -> Generator[EventRecord | Task, None, None]:
        """As `events`, and the task's record at first and whenever it changes."""
        yield from self._follow(TaskFollowing(calls.events_path(task_id), after, epoch), on_cut)

    def fleet_events(self, *, on_cut: OnCut = _ignore_cut) -> Generator[FleetEvent | FleetSnapshot, None, None]:
        """What happens to hosts and tasks, from now on; begins with a snapshot, and again after a gap. Endless."""
        yield from self._follow(FleetFollowing(calls.fleet_path()), on_cut)

    def _follow(self, following: Following[T], on_cut: OnCut) -> Generator[T, None, None]:
        while True:
            why: Exception | None = None
            try:
                with self._http.stream(
                    "GET",
                    following.path,
                    headers=following.headers(),
                    params=following.params(),
                    timeout=_STREAM_TIMEOUT,
                ) as answer:
                    if answer.status_code == 204:
                        return
                    if answer.status_code == 200:
                        self.check_stream(answer)
                        following.connected()
                        for chunk in answer.iter_bytes():
                            yield from following.heard(chunk)
                            if following.is_over:
                                return
                    elif refused := self.stream_refused(following, answer.status_code, answer.read()):
                        raise refused
            except httpx.TransportError as error:
                if not following.was_connected:
                    raise self.unreachable(error) from error
                why = error
            delay_s = following.delay(_random)
            on_cut(why, delay_s)
            time.sleep(delay_s)

    def wait(self, task_id: str, timeout: float | None = None) -> Task:
        """The task as it ended. Raises WaitTimeout with the task as it stood.

        Asks again and again, at most every second: a blocking read could not keep a timeout.
        """
        began = time.monotonic()
        pause_s = 0.05
        while not (task := self.task(task_id)).is_final:
            left_s = float("inf") if timeout is None else began + timeout - time.monotonic()
            if left_s <= 0:
                raise WaitTimeout(task, timeout or 0.0)
            time.sleep(min(pause_s, left_s))
            pause_s = min(1.0, pause_s * 1.5)
        return task

    # --- hosts

    def hosts(self) -> list[HostStatus]:
        return self.call(calls.hosts())

    def host(self, host_id: str) -> HostStatus:
        return self.call(calls.host(host_id))

    def drain(self, host_id: str) -> HostStatus:
        return self.call(calls.drain(host_id))

    def resume(self, host_id: str) -> HostStatus:
        return self.call(calls.resume(host_id))

    # --- access

    def join_code(self, wish: JoinCodeCreate | None = None) -> JoinCode:
        return self.call(calls.join_code(wish or JoinCodeCreate()))

    def join(self, code: str, name: str, *, host_id: str | None = None) -> Joined:
        """Become a host; needs no token. The answer's token is shown this once."""
        return self.call(calls.join(JoinRequest(code=code, name=name, host_id=host_id)))

    def tokens(self) -> list[TokenInfo]:
        return self.call(calls.tokens())

    def create_token(
        self, name: str, *, kind: TokenKind = TokenKind.PERSONAL, host_id: str | None = None
    ) -> TokenCreated:
        return self.call(calls.create_token(TokenCreate(name=name, kind=kind, host_id=host_id)))

    def revoke_token(self, token_id: str) -> TokenInfo:
        return self.call(calls.revoke_token(token_id))

    def health(self) -> Health:
        return self.call(calls.health())


_random: Final = random.Random()  # noqa: S311 - spreads reconnects; nothing secret
