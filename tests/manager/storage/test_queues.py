"""A queue in memory: the most urgent first, whatever comes and goes."""

from hypothesis import given
from hypothesis import strategies as st

from manager.storage.queues import Queue

moves = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30), st.booleans()), max_size=200)


@given(moves, st.integers(0, 40))
def test_it_gives_what_a_sorted_list_would_give(moves: list[tuple[int, int, bool]], count: int) -> None:
    queue = Queue(1)
    inside: dict[int, tuple[int, int, str, int]] = {}
    priorities: dict[int, int] = {}
    for priority, no, enters in moves:
        if enters and no not in inside:
            priority = priorities.setdefault(no, priority)  # a task keeps its own
            inside[no] = (priority, no, f"task_{no}", 1)
            queue.enter(inside[no])
        elif not enters and no in inside:
            queue.leave(no)
            del inside[no]

        assert queue.first(count) == sorted(inside.values())[:count]
        assert len(queue) == len(inside)


def test_it_does_not_remember_all_that_ever_left() -> None:
    queue = Queue(1)
    for no in range(10_000):
        queue.enter((5, no, f"task_{no}", 1))
        queue.leave(no)

    assert len(queue._heap) < 100


def test_a_task_that_comes_back_into_another_queue_stands_in_the_line_as_it_is_now() -> None:
    line = Queue(0)
    line.enter((5, 1, "task_1", 7))
    line.enter((5, 2, "task_2", 7))
    line.leave(1)
    line.enter((5, 1, "task_1", 8))

    assert line.first(9) == [(5, 1, "task_1", 8), (5, 2, "task_2", 7)]
    assert line.first(9) == [(5, 1, "task_1", 8), (5, 2, "task_2", 7)]
