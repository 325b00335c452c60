"""Operations on tasks, decided on the ledger: ask for one, change some."""

from collections.abc import Sequence
from typing import Final

from manager.core import tasks
from manager.core.lifecycle import ON_A_HOST, Cause
from manager.core.scheduling import Requirement, satisfies
from manager.core.tasks import Change, Record, Verdict
from manager.errors import TooMany
from manager.ports import HostRow, NewTask, Taken
from manager.storage.ledger import Hot, Ledger
from shared_types.events import StoredEvent
from shared_types.hosts import canonical_agent
from shared_types.tasks import Task, TaskState

REST_MS: Final = 5_000  # how long a host that had no room, did not get ready or could not be told is not asked again


def add(ledger: Ledger, new: NewTask, max_queued: int) -> Task:
    queued = ledger.count(TaskState.QUEUED)
    if queued >= max_queued:
        raise TooMany(
            f"{queued} tasks are queued, and no more than {max_queued} may be",
            code="QUEUE_FULL",
            hint="wait until hosts have taken some, or connect more hosts",
        )
    hot = ledger.open_task(new)
    return tasks.show(hot.spec, hot.record, full_prompt=True)


def still_due(ledger: Ledger, task_ids: Sequence[str], now: int) -> list[Record]:
    records = [ledger.must_find(task_id).record for task_id in task_ids]
    return [record for record in records if record.deadline_at is not None and record.deadline_at <= now]


def change(ledger: Ledger, changes: Sequence[Change]) -> list[Taken]:
    return [change_one(ledger, one) for one in changes]


def group_of_claims(ledger: Ledger, taken: Sequence[Taken]) -> int:
    """The group that must be durable before anybody is told what became of these acceptances: that of the claims they
    speak of. Anything else that came of them waits for its own.
    """
    return max([0, *(_group_of_claim(ledger, one) for one in taken)])


def _group_of_claim(ledger: Ledger, one: Taken) -> int:
    record = one.record
    may_start = one.verdict is Verdict.TAKEN and record is not None and record.status is TaskState.ASSIGNED
    if not may_start or one.events:
        return ledger.open_group
    assert record is not None
    return ledger.must_find(record.id).claimed_in


def change_one(ledger: Ledger, change: Change) -> Taken:
    hot = ledger.find(change.task_id)
    if hot is None:
        return Taken(verdict=Verdict.UNKNOWN)
    before = hot.record
    if change.generation is not None:
        host = ledger.hosts.get(change.host_id or "")
        if host is None or host.generation != change.generation:
            return Taken(verdict=Verdict.STALE, heard=before.heard, record=before)
    applied = tasks.apply(hot.spec, before, change, latest=hot.log.latest, limits=ledger.limits)
    if applied.verdict is not Verdict.TAKEN or applied.record is before:
        return Taken(verdict=applied.verdict, heard=before.heard, record=before)
    events = ledger.take(hot, applied)
    if applied.record.status is TaskState.QUEUED and before.status in ON_A_HOST:
        events += _came_back(ledger, hot, before, change)
    after = hot.record
    return Taken(verdict=Verdict.TAKEN, heard=after.heard, record=after, status_changed=applied.shown, events=events)


def _came_back(ledger: Ledger, hot: Hot, before: Record, change: Change) -> tuple[StoredEvent, ...]:
    """A host gave a task back. When nobody is left who might take it, it has failed, and says so now."""
    assert before.host_id is not None
    was_not_told = change.cause is Cause.NEVER_STARTED and change.generation is None
    if change.reason in tasks.PASSING or was_not_told:
        ledger.resting[before.host_id] = change.now + REST_MS
    if hot.record.excluded_hosts == before.excluded_hosts:
        return ()
    wish = tasks.requirement(hot.spec, hot.record.excluded_hosts)
    if any(_fits(host, wish) for host in ledger.hosts.values()):
        return ()
    given_up = tasks.given_up(hot.record, change.now)
    return ledger.take(hot, tasks.apply(hot.spec, hot.record, given_up, latest=hot.log.latest, limits=ledger.limits))


def _fits(host: HostRow, wish: Requirement) -> bool:
    return satisfies(
        wish,
        host_id=host.host_id,
        agents=[canonical_agent(agent) for agent in host.capabilities.agents],
        labels=host.capabilities.labels | host.labels,
    )
