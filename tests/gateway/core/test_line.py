"""What is told, said and confirmed of one attempt."""

import pytest

from gateway.core.coalesce import fit
from gateway.core.line import Ending, Line
from shared_types.events import AgentEvent
from shared_types.tasks import TaskResult

RESULT = TaskResult(success=True)


def log(text):
    return AgentEvent(type="log", timestamp=1, content=text)


def line_of(*texts):
    """A line that was told one record for each text, each in a span of its own."""
    line = Line("u1", "t1", 1)
    for seq, text in enumerate(texts, 1):
        line.batch.add(seq, fit([log(text)]), 0.0)
        line.close_batch()
    return line


def test_spans_are_kept_in_order_and_wait_to_be_said():
    line = line_of("a", "b", "c")

    assert line.told == 3
    assert [(span.first, span.last) for span in line.unsaid] == [(1, 1), (2, 2), (3, 3)]
    assert line.outbox.unconfirmed() == tuple(line.unsaid)


@pytest.mark.parametrize(("seq", "fits"), [(0, True), (2, True), (3, True), (4, False)])
def test_a_log_is_gone_on_with_only_where_a_span_ends(seq, fits):
    assert line_of("a", "b", "c").can_go_on_after(seq) is fits


def test_a_log_that_ends_before_what_is_kept_cannot_be_gone_on_with():
    line = line_of("a", "b", "c")
    line.outbox.confirm(2)

    assert not line.can_go_on_after(1)
    assert line.can_go_on_after(2)


def test_beginning_elsewhere_drops_what_was_kept():
    line = line_of("a", "b", "c")
    line.begin_after(1)

    assert (line.told, len(line.unsaid), line.outbox.confirmed) == (1, 0, 1)
    line.batch.add(2, fit([log("b")]), 0.0)
    line.close_batch()
    assert [(span.first, span.last) for span in line.unsaid] == [(2, 2)]


def test_the_end_is_next_only_when_all_before_it_was_said():
    line = line_of("a")
    line.end(Ending(3, RESULT))
    assert not line.ending_is_next

    line.unsaid.clear()
    assert not line.ending_is_next, "record 2 was not told"

    line.batch.add(2, fit([]), 0.0)
    assert not line.ending_is_next, "record 2 was not said"
    assert line.has_due_batch(0.0), "nothing waits before the end"
    line.close_batch()
    line.unsaid.clear()
    assert line.ending_is_next

    line.ending_said = True
    assert not line.ending_is_next


def test_an_end_is_never_numbered_below_what_is_confirmed():
    line = Line("u1", "t1", 1)
    line.begin_after(6)
    line.end(Ending(3, RESULT, "host_restarted"))

    assert line.ending.seq == 7
    line.begin_after(9)
    assert line.ending.seq == 10
