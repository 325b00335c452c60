"""Who gets which task. Decides only; the store claims, the dispatcher sends.

A task's wishes are reduced to a `Requirement`; tasks with equal ones share a *queue key*. A host's satisfied
keys are computed once, and a claim looks at the head of each, so its cost does not grow with the queue.
Everything weighed here is in the arguments: called again whenever anything changes, it never has to remember.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec


class Requirement(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What a host must be to run a task. Equal requirements share one queue. Tuples are sorted."""

    agent: str
    host: str | None = None  # pinned
    require: tuple[tuple[str, str], ...] = ()
    avoid: tuple[tuple[str, str], ...] = ()
    excluded: tuple[str, ...] = ()  # hosts that refused

    def key(self) -> bytes:
        """One canonical line of JSON: the queue key."""
        return msgspec.json.encode(self)


class Candidate(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A queued task at the head of a queue, as far as choosing matters. Smaller `rank` goes first."""

    task_id: str
    key: int
    rank: tuple[int, int]  # (priority, order of arrival)
    prefer: tuple[tuple[str, str], ...] = ()


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A host with room: which queues it satisfies, and how much it carries already.

    `used` and `slots` count attempts; `last_assigned_at` in ms breaks ties. `generation` fences the claim.
    """

    host_id: str
    generation: int
    keys: frozenset[int]
    used: int
    slots: int
    last_assigned_at: int
    cwd: str
    labels: Mapping[str, str] = {}


class Assignment(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    task_id: str
    host_id: str
    generation: int


def satisfies(requirement: Requirement, *, host_id: str, agents: Iterable[str], labels: Mapping[str, str]) -> bool:
    """Whether a host can run tasks of this requirement, room aside."""
    return (
        requirement.agent in agents
        and (requirement.host is None or requirement.host == host_id)
        and host_id not in requirement.excluded
        and all(labels.get(name) == value for name, value in requirement.require)
        and not any(labels.get(name) == value for name, value in requirement.avoid)
    )


def assign(candidates: Sequence[Candidate], offers: Sequence[Offer]) -> list[Assignment]:
    """First the most urgent task; for it the host with most preferred labels, then the least loaded fraction,
    then the one that was assigned to longest ago.
    """
    used = {offer.host_id: offer.used for offer in offers}
    last = {offer.host_id: offer.last_assigned_at for offer in offers}
    open_offers = [offer for offer in offers if offer.used < offer.slots]
    chosen: list[Assignment] = []
    newest = max(last.values(), default=0)
    for candidate in sorted(candidates, key=lambda c: c.rank):
        if not open_offers:
            break
        fitting = [offer for offer in open_offers if candidate.key in offer.keys]
        if not fitting:
            continue
        best = min(
            fitting,
            key=lambda o: (
                -sum(o.labels.get(name) == value for name, value in candidate.prefer),
                used[o.host_id] / o.slots,
                last[o.host_id],
                o.host_id,
            ),
        )
        chosen.append(Assignment(task_id=candidate.task_id, host_id=best.host_id, generation=best.generation))
        used[best.host_id] += 1
        newest += 1  # only the order counts: the store writes the time
        last[best.host_id] = newest
        if used[best.host_id] >= best.slots:
            open_offers.remove(best)
    return chosen
