"""The queued tasks in memory, the most urgent first: a queue for each requirement, and all of them in one line."""

from collections.abc import Generator
from heapq import heapify, heappop, heappush
from itertools import islice

Rank = tuple[int, int, str, int]  # priority, number of the task, id of the task, number of its queue


class Queue:
    """Queued tasks. One that leaves stays in the heap until it comes up, or they are too many."""

    __slots__ = ("_heap", "_inside", "no")

    def __init__(self, no: int) -> None:
        self.no = no
        self._heap: list[Rank] = []
        self._inside: dict[int, Rank] = {}  # by number of the task

    def __len__(self) -> int:
        return len(self._inside)

    def __repr__(self) -> str:
        return f"<Queue {self.no} tasks={len(self)}>"

    def enter(self, rank: Rank) -> None:
        """A task that left and comes back may be in the heap twice, or as it was before: only this rank counts."""
        self._inside[rank[1]] = rank
        heappush(self._heap, rank)

    def leave(self, task_no: int) -> None:
        del self._inside[task_no]
        if len(self._heap) > 2 * len(self._inside) + 16:
            self._heap = list(self._inside.values())
            heapify(self._heap)

    def walk(self) -> Generator[Rank, None, None]:
        """From the most urgent one on; they stay. Nothing may enter or leave meanwhile."""
        heap, seen = self._heap, list[Rank]()
        last_no = 0
        try:
            while heap:
                rank = heappop(heap)
                if rank[1] != last_no and self._inside.get(rank[1]) == rank:
                    last_no = rank[1]
                    seen.append(rank)
                    yield rank
        finally:
            for rank in seen:
                heappush(heap, rank)

    def first(self, count: int) -> list[Rank]:
        """The most urgent ones, in order; they stay."""
        return list(islice(self.walk(), count))
