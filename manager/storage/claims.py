"""Operations on slots, decided on the ledger: who gets which task.

A claim looks at the heads of the offered queues, so its cost does not grow with what else is queued. Taken slots are
the tasks held: there is no counter that could be wrong.
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
from manager.storage.ledger import Ledger
from manager.storage.queues import Rank

MAX_HEADS: Final = 100  # queued tasks looked at per queue and claim


def heads(ledger: Ledger, offers: Sequence[Offer], now: int) -> tuple[list[Offer], list[tuple[int, Rank]]]:
    """Offers that count, with their taken slots, and the tasks they may be given, with their queues."""
    welcome = [
        msgspec.structs.replace(offer, used=len(ledger.held.get(offer.host_id, ())))
        for offer in offers
        if _is_welcome(ledger, offer, now)
    ]
    found: list[tuple[int, Rank]] = []
    for key in {key for offer in welcome for key in offer.keys}:
        queue = ledger.queues.get(key)
        if queue is not None:
            room = sum(max(0, offer.slots - offer.used) for offer in welcome if key in offer.keys)
            found += [(key, rank) for rank in queue.first(min(room, MAX_HEADS))]
    return welcome, found


def claim(ledger: Ledger, offers: Sequence[Offer], accept_by: int, now: int) -> list[Claim]:
    """All tasks that `heads` tells are in the ledger."""
    welcome, found = heads(ledger, offers, now)
    candidates = [
        Candidate(
            task_id=task_id,
            key=key,
            rank=(priority, no),
            prefer=tuple(ledger.must_find(task_id).spec.labels.prefer.items()),
        )
        for key, (priority, no, task_id) in found
    ]
    return [_assign(ledger, chosen, accept_by, now) for chosen in assign(candidates, welcome)]


def _is_welcome(ledger: Ledger, offer: Offer, now: int) -> bool:
    host = ledger.hosts.get(offer.host_id)
    return (
        host is not None
        and host.generation == offer.generation
        and host.is_connected
        and not host.draining
        and ledger.resting.get(offer.host_id, 0) <= now
    )


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
