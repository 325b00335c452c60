"""The table of states, and the page that draws it."""

from pathlib import Path

import pytest

from manager.core.lifecycle import LIVE, ON_A_HOST, TRANSITIONS, Cause, IllegalTransition, advance, mermaid
from shared_types.tasks import FINAL, Reason, TaskState

PAGE = (Path(__file__).parents[3] / "docs" / "lifecycle.md").read_text(encoding="utf-8")
EVERY = [(state, cause) for state in TaskState for cause in Cause]


@pytest.mark.parametrize(("state", "cause"), EVERY, ids=lambda value: value.value)
def test_a_cause_leads_where_the_table_says_or_nowhere(state: TaskState, cause: Cause) -> None:
    if cause in TRANSITIONS[state]:
        assert advance(state, cause) is TRANSITIONS[state][cause]
    else:
        with pytest.raises(IllegalTransition) as caught:
            advance(state, cause)
        assert (caught.value.state, caught.value.cause) == (state, cause)


def test_every_state_has_its_row_and_every_cause_is_used() -> None:
    assert set(TRANSITIONS) == set(TaskState)
    assert {cause for ways in TRANSITIONS.values() for cause in ways} == set(Cause)


def reachable(state: TaskState) -> set[TaskState]:
    reached, before = {state}, set[TaskState]()
    while reached != before:
        before = set(reached)
        reached |= {to for at in before if at in LIVE for to in TRANSITIONS[at].values()}
    return reached


def test_every_state_is_within_reach_and_every_live_one_can_end() -> None:
    assert reachable(TaskState.QUEUED) == set(TaskState)
    for state in LIVE:
        assert reachable(state) & FINAL


def test_only_a_retry_leads_out_of_an_end_and_nothing_out_of_success() -> None:
    for state in FINAL:
        assert set(TRANSITIONS[state]) <= {Cause.RETRY}
    assert TRANSITIONS[TaskState.COMPLETED] == {}


def test_a_task_on_a_host_is_never_ended_by_a_wish_alone() -> None:
    for state in ON_A_HOST:
        assert TRANSITIONS[state][Cause.ABORT] is TaskState.STOPPING


def test_a_host_that_is_lost_never_counts_as_an_end_we_know() -> None:
    for state in ON_A_HOST:
        assert TRANSITIONS[state][Cause.HOST_LOST] is TaskState.LOST


# --- docs/lifecycle.md --------------------------------------------------------------------------------


def test_the_page_holds_the_drawing_of_the_table() -> None:
    assert f"```mermaid\n{mermaid()}```" in PAGE, "docs/lifecycle.md: paste what lifecycle.mermaid() gives"


def test_the_page_explains_every_state_cause_and_reason() -> None:
    rows = {line.split("|")[1].strip().strip("`") for line in PAGE.splitlines() if line.startswith("| `")}

    assert {state.value for state in TaskState} <= rows
    assert {cause.value for cause in Cause} <= rows
    assert {reason.value for reason in Reason} <= rows


def test_the_page_names_nothing_that_is_not_there() -> None:
    rows = {line.split("|")[1].strip().strip("`") for line in PAGE.splitlines() if line.startswith("| `")}

    known = {*map(str, TaskState), *map(str, Cause), *map(str, Reason), "disconnected_since"}
    assert rows <= known
