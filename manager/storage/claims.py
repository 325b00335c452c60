"""Operations on slots, decided on the ledger: who gets which task.

A claim looks at the heads of the offered queues, so its cost does not grow with what else is queued. When very many
queues are offered it goes along all that is queued, most urgent first, until the hosts are full; what they cannot take
stands in its way then, so it gives up when that has cost as much as looking at each head would. Either way the same
tasks are chosen. Taken slots are the tasks held: there is no counter that could be wrong.
"""

from collections.abc import Sequence
from contextlib import closing
from heapq import nsmallest
from typing import Final

import msgspec

from manager.core import tasks
from manager.core.lifecycle import Cause
from manager.core.scheduling import Assignment, Candidate, Offer, assign
from manager.core.tasks import Change, Verdict
from manager.ports import Claim
from manager.storage.ledger import Ledger
from manager.storage.queues import Rank

MAX_HEADS: Final = 100  # tasks given out by one claim; the event loop has a turn before the next
MANY_QUEUES: Final = 100
STEPS_PER_HEAD: Final = 2  # steps along the line that cost as much as one look at a head


def heads(ledger: Ledger, offers: Sequence[Offer], now: int) -> tuple[list[Offer], list[Rank]]:
    """Offers that count, with their taken slots, and the tasks that matter to them."""
    welcome = [
        msgspec.structs.replace(offer, used=len(ledger.held.get(offer.host_id, ())))
        for offer in offers
        if _is_welcome(ledger, offer, now)
    ]
    if any(len(offer.keys) > MANY_QUEUES for offer in welcome):
        found = _along_the_line(ledger, welcome)
        if found is not None:
            return welcome, found
    return welcome, nsmallest(MAX_HEADS, _heads_of_all(ledger, welcome))


def _heads_of_all(ledger: Ledger, offers: Sequence[Offer]) -> list[Rank]:
    found: list[Rank] = []
    for key in {key for offer in offers for key in offer.keys}:
        queue = ledger.queues.get(key)
        if queue is not None:
            room = sum(max(0, offer.slots - offer.used) for offer in offers if key in offer.keys)
            found += queue.first(min(room, MAX_HEADS))
    return found


def _along_the_line(ledger: Ledger, offers: Sequence[Offer]) -> list[Rank] | None:
    """The most urgent tasks that these hosts can take, as many as could matter: when a host was passed by as many tasks
    of its own as there is room in all, it is full. None when they lie behind too many others.
    """
    room = min(MAX_HEADS, sum(max(0, offer.slots - offer.used) for offer in offers))
    hungry = {offer.host_id: offer.keys for offer in offers if offer.used < offer.slots}
    missing = dict.fromkeys(hungry, room)
    limit = STEPS_PER_HEAD * max(map(len, hungry.values()), default=0) // max(1, len(hungry))
    found: list[Rank] = []
    with closing(ledger.line.walk()) as line:
        for steps, rank in enumerate(line):
            if not hungry:
                break
            if steps == limit:
                return None
            takers = [host_id for host_id, keys in hungry.items() if rank[3] in keys]
            if takers:
                found.append(rank)
            for host_id in takers:
                missing[host_id] -= 1
                if not missing[host_id]:
                    del hungry[host_id]
    return found


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
        for priority, no, task_id, key in found
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
        uid=ledger.chance.draw().hex(),
        boot=host.boot_id if host.protocol >= 2 else None,  # the base dialect names nothing when it comes back
        leased=host.keeps_leases,
        accept_by=accept_by,
        spent=ledger.spent_attempts(chosen.task_id),
        accepted=host.protocol < 2,  # the base dialect has no word for it: told is started
    )
    applied = tasks.apply(hot.spec, hot.record, change, latest=hot.log.latest, limits=ledger.limits)
    assert applied.verdict is Verdict.TAKEN, f"{hot!r} stands at the head of a queue"
    events = ledger.take(hot, applied, chosen.generation)
    if host.last_assigned_at != now:
        # In memory for now: it only breaks ties, and goes to disk with the host's next heartbeat.
        ledger.put_host(msgspec.structs.replace(host, last_assigned_at=now))
    return Claim(spec=hot.spec, record=hot.record, host_id=host.host_id, generation=chosen.generation, events=events)
