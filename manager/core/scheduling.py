"""Who gets which task. Decides only; the store claims, the dispatcher sends.

A task's wishes are reduced to a `Requirement`; tasks with equal ones share a *queue key*. A host's satisfied
keys are computed once, and a claim looks at the head of each, so its cost does not grow with the queue.
Everything weighed here is in the arguments: called again whenever anything changes, it never has to remember.
"""

from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heapreplace

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
    hosts = _Hosts(offers)
    chosen: list[Assignment] = []
    for candidate in sorted(candidates, key=lambda c: c.rank):
        best = hosts.preferred(candidate) if candidate.prefer else hosts.least_loaded(candidate.key)
        if best is not None:
            hosts.give(best)
            chosen.append(Assignment(task_id=candidate.task_id, host_id=best.host_id, generation=best.generation))
    return chosen


class _Hosts:
    """The offers while tasks are given out. Only grows fuller: a host's place in a heap may be better than it is, never
    worse, so it is looked at again when it comes up.
    """

    def __init__(self, offers: Sequence[Offer]) -> None:
        self._offers = {offer.host_id: offer for offer in offers}
        self._used = {offer.host_id: offer.used for offer in offers}
        self._last = {offer.host_id: offer.last_assigned_at for offer in offers}
        self._newest = max(self._last.values(), default=0)
        self._heaps: dict[int, list[tuple[float, int, str]]] = {}

    def _place(self, offer: Offer) -> tuple[float, int, str]:
        return self._used[offer.host_id] / offer.slots, self._last[offer.host_id], offer.host_id

    def _has_room(self, offer: Offer) -> bool:
        return self._used[offer.host_id] < offer.slots

    def least_loaded(self, key: int) -> Offer | None:
        heap = self._heaps.get(key)
        if heap is None:
            fitting = [offer for offer in self._offers.values() if key in offer.keys and self._has_room(offer)]
            heap = self._heaps[key] = [self._place(offer) for offer in fitting]
            heapify(heap)
        while heap:
            offer = self._offers[heap[0][2]]
            if not self._has_room(offer):
                heappop(heap)
            elif (place := self._place(offer)) != heap[0]:
                heapreplace(heap, place)
            else:
                return offer
        return None

    def preferred(self, candidate: Candidate) -> Offer | None:
        fitting = [o for o in self._offers.values() if candidate.key in o.keys and self._has_room(o)]

        def place(offer: Offer) -> tuple[int, tuple[float, int, str]]:
            return -sum(offer.labels.get(name) == value for name, value in candidate.prefer), self._place(offer)

        return min(fitting, key=place, default=None)

    def give(self, offer: Offer) -> None:
        self._used[offer.host_id] += 1
        self._newest += 1  # only the order counts: the store writes the time
        self._last[offer.host_id] = self._newest
