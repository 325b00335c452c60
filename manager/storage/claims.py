"""Operations on slots, in the writer's thread: who gets which task, and which tasks a host holds.

A claim looks at the heads of the offered queues by index, so its cost does not grow with what else is queued, and
counts taken slots from rows, so that no counter can ever be wrong.
"""

import os
from collections.abc import Sequence
from typing import Final

import msgspec

from manager.core import tasks
from manager.core.lifecycle import Cause
from manager.core.scheduling import Assignment, Candidate, Offer, assign
from manager.core.tasks import Change, Verdict
from manager.ports import Claim
from manager.storage.ledger import Hot, Ledger

MAX_HEADS: Final = 100  # queued tasks looked at per queue and claim

QUEUE_HEADS: Final = (
    "SELECT t.id, s.task_no, s.priority FROM standing s JOIN task t ON t.no = s.task_no WHERE s.key_no = ?"
    " ORDER BY s.priority, s.task_no LIMIT ?"
)
SLOTS_TAKEN: Final = "SELECT count(*) FROM attempt WHERE host_id = ? AND ended_at IS NULL"
TASKS_ON_HOST: Final = (
    "SELECT t.id FROM attempt a JOIN task t ON t.no = a.task_no WHERE a.host_id = ? AND a.ended_at IS NULL"
    " ORDER BY a.task_no"
)


def claim(ledger: Ledger, offers: Sequence[Offer], accept_by: int, now: int) -> list[Claim]:
    welcome = [offer for offer in offers if _is_welcome(ledger, offer, now)]
    wanted = {key for offer in welcome for key in offer.keys if key in ledger.queued}
    if not wanted:
        return []
    ledger.flush()
    counted = [msgspec.structs.replace(offer, used=_slots_taken(ledger, offer.host_id)) for offer in welcome]
    candidates = [
        candidate
        for key in wanted
        for candidate in _heads(ledger, key, sum(max(0, o.slots - o.used) for o in counted if key in o.keys))
    ]
    return [_assign(ledger, chosen, accept_by, now) for chosen in assign(candidates, counted)]


def _is_welcome(ledger: Ledger, offer: Offer, now: int) -> bool:
    host = ledger.hosts.get(offer.host_id)
    return (
        host is not None
        and host.generation == offer.generation
        and host.is_connected
        and not host.draining
        and ledger.resting.get(offer.host_id, 0) <= now
    )


def _slots_taken(ledger: Ledger, host_id: str) -> int:
    (taken,) = ledger.db.execute(SLOTS_TAKEN, (host_id,)).fetchone()
    return int(taken)


def _heads(ledger: Ledger, key: int, room: int) -> list[Candidate]:
    if not room:
        return []
    rows = ledger.db.execute(QUEUE_HEADS, (key, min(room, MAX_HEADS))).fetchall()
    return [
        Candidate(
            task_id=task_id,
            key=key,
            rank=(priority, no),
            prefer=tuple(ledger.must_find(task_id).spec.labels.prefer.items()),
        )
        for task_id, no, priority in rows
    ]


def _assign(ledger: Ledger, chosen: Assignment, accept_by: int, now: int) -> Claim:
    hot = ledger.must_find(chosen.task_id)
    host = ledger.hosts[chosen.host_id]
    change = Change(
        task_id=chosen.task_id,
        now=now,
        cause=Cause.CLAIM,
        host_id=chosen.host_id,
        uid=os.urandom(10).hex(),
        accept_by=accept_by,
        accepted=host.protocol < 2,  # the base dialect has no word for it: told is started
    )
    applied = tasks.apply(hot.spec, hot.record, change, latest=hot.log.latest, limits=ledger.limits)
    assert applied.verdict is Verdict.TAKEN, f"{hot!r} stands at the head of a queue"
    events = ledger.take(hot, applied, chosen.generation)
    if host.last_assigned_at != now:
        # In memory for now: it only breaks ties, and goes to disk with the host's next heartbeat.
        ledger.put_host(msgspec.structs.replace(host, last_assigned_at=now))
    return Claim(spec=hot.spec, record=hot.record, host_id=host.host_id, generation=chosen.generation, events=events)


def on_host(ledger: Ledger, host_id: str) -> list[Hot]:
    """The tasks that hold a slot of this host, oldest first."""
    ledger.flush()
    rows = ledger.db.execute(TASKS_ON_HOST, (host_id,)).fetchall()
    return [ledger.must_find(task_id) for (task_id,) in rows]
