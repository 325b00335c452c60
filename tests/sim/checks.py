"""What must be true at the end, whatever happened: the books of everybody against what really became of it."""

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from gateway.agents.base import RunSpec
from gateway.agents.command import CommandAgent, CommandKind
from gateway.core.coalesce import is_delta
from gateway.core.journal import Record as JournalRecord
from manager.core.lifecycle import ON_A_HOST
from manager.core.tasks import Record
from manager.storage import reading
from shared_types.events import AgentEvent, StoredEvent
from shared_types.tasks import FINAL, PermissionMode, TaskState
from tests.sim.house import AGENT, Database
from tests.sim.machines import Truth
from tests.sim.people import Author

_event = msgspec.json.Decoder(AgentEvent)


def records(db: Database) -> dict[str, Record]:
    rows = db.execute("SELECT t.id FROM task t ORDER BY t.no").fetchall()
    return {task_id: reading.load(db, task_id)[1] for (task_id,) in rows}


def unfinished(db: Database) -> list[Record]:
    return [record for record in records(db).values() if record.status not in FINAL]


def live_without_deadline(found: Iterable[Record]) -> Iterable[str]:
    for record in found:
        if record.status not in FINAL and record.deadline_at is None:
            yield f"{record.id} is {record.status} and has no deadline"


def slots(db: Database, found: Iterable[Record]) -> Iterable[str]:
    """Taken slots are the rows."""
    rows = db.execute(
        "SELECT t.id FROM attempt a JOIN task t ON t.no = a.task_no WHERE a.ended_at IS NULL ORDER BY t.id"
    ).fetchall()
    held = [task_id for (task_id,) in rows]
    on_a_host = sorted(record.id for record in found if record.status in ON_A_HOST)
    if held != on_a_host:
        yield f"slots are held by {held}, and on hosts are {on_a_host}"


def logs(db: Database, found: dict[str, Record], truths: Sequence[Truth]) -> Iterable[str]:
    for record in found.values():
        events = reading.events(db, record.session_id, 0, task_id=record.id, limit=100_000, max_bytes=1 << 40)
        ids = [event.id for event in events]
        if ids != list(range(1, len(ids) + 1)) or len(ids) != record.last_event_id:
            yield f"the log of {record.id} has ids {ids} and should end at {record.last_event_id}"
        yield from _finals(record, events)
        of_task = {truth.attempt: truth for truth in truths if truth.task_id == record.id}
        for attempt, said in itertools.groupby((e for e in events if e.attempt), key=lambda event: event.attempt):
            yield from _attempt(record, attempt, list(said), of_task.get(attempt))


def _finals(record: Record, events: Sequence[StoredEvent]) -> Iterable[str]:
    states = [json.loads(bytes(e.body))["data"]["status"] for e in events if e.attempt == 0]
    if not states or states[-1] != record.status:
        yield f"the log of {record.id} says {states}, and it is {record.status}"
    if sum(state in FINAL for state in states) > 1:
        yield f"{record.id} ended more than once: {states}"


def _attempt(record: Record, attempt: int, said: Sequence[StoredEvent], truth: Truth | None) -> Iterable[str]:
    if truth is None:
        yield f"{record.id} has events of attempt {attempt}, which never ran"
        return
    is_whole = attempt == record.attempt and record.heard == len(truth.records) and not truth.is_cut
    if record.status is TaskState.COMPLETED and attempt == record.attempt and not (is_whole or truth.is_cut):
        yield f"{record.id} is completed, and the manager has {record.heard} of {len(truth.records)} records"
    got = _plain([_event.decode(event.body) for event in said])
    meant = _plain(fold(truth.records))
    if is_whole:
        if got != meant:
            yield f"{record.id}/{attempt}: the log says {got}, the journal {meant}"
    elif not _begins(meant, got):
        yield f"{record.id}/{attempt}: the log says {got}, which is no beginning of {meant}"


def fold(journal: Sequence[JournalRecord]) -> list[AgentEvent]:
    kind = CommandKind(CommandAgent(name=AGENT, argv=("agent",), output="jsonl", input="lines"))
    driver = kind.driver(
        RunSpec(
            task_id="t",
            prompt="p",
            cwd="/",
            executable="/bin/agent",
            model=None,
            mode=PermissionMode.DEFAULT,
            session_uuid="s",
        )
    )
    return [event for record in journal for event in driver.heard(record)]


def _plain(events: Sequence[AgentEvent]) -> list[tuple[str, str, Any]]:
    """With deltas put together, however they travelled."""
    plain: list[tuple[str, str, Any]] = []
    for event in events:
        one = (str(event.type), event.content or "", event.data)
        if is_delta(event) and plain and plain[-1][0] == one[0] and plain[-1][2] == one[2]:
            plain[-1] = (one[0], plain[-1][1] + one[1], one[2])
        else:
            plain.append(one)
    return plain


def _begins(whole: list[tuple[str, str, Any]], part: list[tuple[str, str, Any]]) -> bool:
    if not part:
        return True
    if len(part) > len(whole) or part[:-1] != whole[: len(part) - 1]:
        return False
    last, there = part[-1], whole[len(part) - 1]
    return last[0] == there[0] and last[2] == there[2] and there[1].startswith(last[1])


def inputs(db: Database, truths: Sequence[Truth]) -> Iterable[str]:
    for truth in truths:
        if len(truth.inputs) != len(set(truth.inputs)):
            yield f"the agent of {truth.task_id}/{truth.attempt} got input twice: {truth.inputs}"
    got = {(truth.task_id, key) for truth in truths for key in truth.inputs}
    rows = db.execute("SELECT t.id, i.input_id, i.state FROM input i JOIN task t ON t.no = i.task_no").fetchall()
    for task_id, input_id, state in rows:
        if state == "taken" and (task_id, f"say:{input_id}") not in got:
            yield f"input {input_id} of {task_id} counts as taken, and no agent got it"


def people(db: Database, authors: Sequence[Author], found: dict[str, Record]) -> Iterable[str]:
    for author in authors:
        if author.task_id is None:
            yield f"{author.key} was never taken"
            continue
        if author.task_id not in found:
            yield f"{author.task_id} was accepted and is lost"
            continue
        record = found[author.task_id]
        events = reading.events(db, record.session_id, 0, task_id=record.id, limit=100_000, max_bytes=1 << 40)
        stored = {event.id: event.flat() for event in events}
        for reader in author.readers:
            if any(stored.get(id) != body for id, body in reader.seen.items()):
                yield f"a reader of {record.id} saw what the log does not say"
            if sorted(reader.seen) != list(range(1, record.last_event_id + 1)):
                yield f"a reader of {record.id} saw {sorted(reader.seen)} of {record.last_event_id} events"
