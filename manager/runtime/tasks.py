"""What people and programs do with tasks, the same over HTTP and `/ws`: submit, abort, retry, input, why.

Each checks, commits once, announces, and tells the host if one is concerned; when the host cannot be told now it is
told when it comes back. Who may do what was decided before. Ids are whole ids here.
"""

from hashlib import sha256
from typing import Final

import anyio
import msgspec
import structlog

from manager.chance import Chance
from manager.core import admission
from manager.core.lifecycle import Cause
from manager.core.tasks import Change, Record, Spec, Verdict, requirement
from manager.core.why import explain
from manager.errors import Conflict, Invalid, NotFound, StoreUnavailable
from manager.ports import Announcements, Clock, NewTask, Store, Taken
from manager.runtime.fleet import Fleet
from shared_types.api import InputReceipt, InputState, TaskCreate, Why
from shared_types.hosts import canonical_agent
from shared_types.ids import new_id
from shared_types.tasks import Reason, Task, TaskState

MAX_QUEUED: Final = 100_000
QUEUE_TTL_MS: Final = 24 * 3600 * 1000

log = structlog.get_logger(__name__)
_canonical = msgspec.json.Encoder(order="deterministic").encode


class Tasks:
    def __init__(
        self,
        *,
        store: Store,
        fleet: Fleet,
        announcer: Announcements,
        clock: Clock,
        max_queued: int = MAX_QUEUED,
        queue_ttl_ms: int = QUEUE_TTL_MS,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._announcer = announcer
        self._clock = clock
        self._max_queued = max_queued
        self._queue_ttl_ms = queue_ttl_ms
        self._chance = Chance()

    async def submit(
        self, create: TaskCreate, *, actor: str, idempotency_key: str | None = None, trace_id: str = ""
    ) -> tuple[Task, bool]:
        """The task and whether it is new. Stored when this returns.

        Raises Invalid, TooLarge, NotFound NO_SUCH_HOST, Conflict IDEMPOTENCY_MISMATCH, TooMany QUEUE_FULL.
        """
        admission.check(create)
        agent = canonical_agent(create.agent_type)
        if agent not in admission.KNOWN_AGENTS and not await self._fleet.knows_agent(agent):
            raise Invalid(
                f"No host has ever offered an agent called {create.agent_type!r}.",
                code="UNKNOWN_AGENT",
                hint=f"Known by name: {', '.join(sorted(admission.KNOWN_AGENTS))}; others are declared by a host.",
                field="$.agentType",
            )
        if create.host_id is not None and create.host_id not in self._fleet.registry:
            await self._store.host(create.host_id)
        now = self._clock.now()
        task_id = new_id("task", now, self._chance.draw())
        spec = Spec(
            prompt=create.prompt,
            agent_type=agent,
            created_at=now,
            cwd=create.cwd,
            model=create.model,
            env=create.env,
            timeout=create.timeout,
            idle_timeout=create.idle_timeout,
            queue_ttl=create.queue_ttl or self._queue_ttl_ms,
            permission_mode=create.permission_mode,
            metadata=create.metadata,
            pinned_host=create.host_id,
            labels=create.labels,
            priority=create.priority,
            actor=actor,
            trace_id=trace_id,
        )
        new = NewTask(
            task_id=task_id,
            session_id="session" + task_id.removeprefix("task"),  # posted alone, it opens its own
            opens_session=True,
            spec=spec,
            requirement=requirement(spec),
            idempotency_key=idempotency_key,
            digest="" if idempotency_key is None else sha256(_canonical(create)).hexdigest(),
        )
        self._announcer.coming()
        task, is_new = await self._store.add(new, max_queued=self._max_queued)
        if is_new:
            self._announcer.queued(task)
        return task, is_new

    async def abort(self, task_id: str, *, kill: bool = False, reason: str | None = None, actor: str = "") -> Task:
        """It is to stop; it has when its state is final. Raises NotFound NO_SUCH_TASK, Conflict TASK_ENDED."""
        by = f" by {actor}" if actor else ""
        detail = f"Stopped{by}: {reason}" if reason else f"Stopped{by}"
        change = Change(
            task_id=task_id,
            now=self._clock.now(),
            cause=Cause.ABORT,
            reason=Reason.ABORTED_BY_USER,
            detail=detail,
            kill=kill,
        )
        record = await self._decide(change, "it has ended already", "TASK_ENDED")
        if record.status is TaskState.STOPPING:
            self._fleet.abort(record, kill=kill, reason=reason)
        return await self._store.task(task_id)

    async def retry(self, task_id: str, actor: str = "") -> Task:
        """Another attempt of a task that ended without success.

        Raises NotFound NO_SUCH_TASK, Conflict NOT_RETRYABLE.
        """
        by = f" by {actor}" if actor else ""
        change = Change(task_id=task_id, now=self._clock.now(), cause=Cause.RETRY, detail=f"Retried{by}")
        await self._decide(change, "only a task that ended without success can be retried", "NOT_RETRYABLE")
        return await self._store.task(task_id)

    async def input(self, task_id: str, content: str, input_id: str | None = None, actor: str = "") -> InputReceipt:
        """Text for the agent. Kept until it has it: a task that does not run yet gets it when it does, a host that
        is away when it is back. `state` is how far it got when this returns.

        Raises TooLarge INPUT_TOO_LARGE, TooMany INPUTS_FULL, NotFound NO_SUCH_TASK, Conflict TASK_ENDED, and
        StoreUnavailable when it is not stored; what is stored is answered.
        """
        admission.check_text(content, field="$.content", code="INPUT_TOO_LARGE")
        now = self._clock.now()
        self._fleet.expect_input(task_id)  # before it is stored: the agent may start while we wait
        name = input_id or new_id("input", now, self._chance.draw())
        try:
            with anyio.CancelScope(shield=True):  # once it is stored the agent gets it, whether somebody waits or not
                stored = await self._store.add_input(task_id, name, content, now)
        except (NotFound, Conflict):
            self._fleet.no_input_waits(task_id)
            raise
        state = stored.state
        if state not in (InputState.TAKEN, InputState.REFUSED):
            try:
                if await self._fleet.say_inputs(task_id):
                    state = InputState.SENT
            except StoreUnavailable as error:  # it is kept, and said later
                log.warning("an input waits for the store", task=task_id, error=str(error))
        return InputReceipt(input_id=stored.input_id, task_id=task_id, state=state)

    async def why(self, task_id: str) -> Why:
        """Raises NotFound NO_SUCH_TASK."""
        task = await self._store.task(task_id)
        now = self._clock.now()
        if task.status is not TaskState.QUEUED:
            return explain(task, (), now)
        hosts = await self._fleet.statuses()
        return explain(task, hosts, now, position=await self._store.position(task_id))

    async def _decide(self, change: Change, cannot: str, code: str) -> Record:
        """Commit one change of ours and announce it. Raises NotFound, Conflict.

        Whoever asked may hang up meanwhile: what is committed is announced, and its host told, all the same.
        """
        with anyio.CancelScope(shield=True):
            (taken,) = await self._store.change([change])
        self._announcer.taken([taken])
        return _taken(change.task_id, taken, cannot, code)


def _taken(task_id: str, taken: Taken, cannot: str, code: str) -> Record:
    if taken.record is None:
        raise NotFound(f"There is no task {task_id}.", code="NO_SUCH_TASK")
    if taken.verdict is not Verdict.TAKEN:
        raise Conflict(f"Task {task_id} is {taken.record.status}: {cannot}.", code=code)
    return taken.record
