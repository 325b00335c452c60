"""The queued tasks in memory: one queue for each requirement, the most urgent task first."""

from heapq import heapify, heappop, heappush

Rank = tuple[int, int, str]  # priority, number of the task, id of the task


class Queue:
    """Tasks with equal requirements. One that leaves stays in the heap until it comes up, or they are too many."""

    __slots__ = ("_heap", "_inside", "no")

    def __init__(self, no: int) -> None:
        self.no = no
        self._heap: list[Rank] = []
        self._inside: set[int] = set()

    def __len__(self) -> int:
        return len(self._inside)

    def __repr__(self) -> str:
        return f"<Queue {self.no} tasks={len(self)}>"

    def enter(self, priority: int, task_no: int, task_id: str) -> None:
        """A task that left and comes back is in the heap once more; whichever comes up first counts."""
        self._inside.add(task_no)
        heappush(self._heap, (priority, task_no, task_id))

    def leave(self, task_no: int) -> None:
        self._inside.remove(task_no)
        if len(self._heap) > 2 * len(self._inside) + 16:
            self._heap = list({rank for rank in self._heap if rank[1] in self._inside})
            heapify(self._heap)

    def first(self, count: int) -> list[Rank]:
        """The most urgent ones, in order; they stay."""
        heap, found = self._heap, list[Rank]()
        while heap and len(found) < count:
            rank = heappop(heap)
            if rank[1] in self._inside and (not found or found[-1] != rank):
                found.append(rank)
        for rank in found:
            heappush(heap, rank)
        return found
