"""What a host's last word on an attempt means."""

import pytest

from manager.core import outcome
from manager.core.lifecycle import TRANSITIONS, Cause
from shared_types.tasks import FINAL, Reason, TaskResult, TaskState


@pytest.mark.parametrize("reason", [*Reason, "a_code_of_another_make", "", None])
def test_whatever_reason_a_host_gives_a_running_task_ends(reason: str | None):
    cause = outcome.of_failed(reason)

    assert TRANSITIONS[TaskState.RUNNING][cause] in FINAL - {TaskState.COMPLETED}


def test_a_stop_for_time_is_no_failure_and_a_stop_by_a_person_is_no_timeout():
    causes = [outcome.of_failed(reason) for reason in (Reason.IDLE_TIMEOUT, Reason.ABORTED_BY_USER, Reason.NO_RESULT)]

    assert causes == [Cause.TIMED_OUT, Cause.STOPPED, Cause.FAILED]


def test_a_run_whose_keeper_died_is_lost_because_nobody_can_say_how_it_ended():
    assert outcome.of_failed(Reason.SUPERVISOR_DIED) is Cause.HOST_LOST


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (TaskResult(success=True, exit_code=0), (Cause.SUCCEEDED, None)),
        (TaskResult(success=True), (Cause.SUCCEEDED, None)),
        (TaskResult(success=True, exit_code=3), (Cause.FAILED, Reason.EXIT_NONZERO)),
        (TaskResult(success=False, exit_code=0), (Cause.FAILED, Reason.AGENT_ERROR)),
        (TaskResult(success=False), (Cause.FAILED, Reason.AGENT_ERROR)),
    ],
)
def test_a_completion_that_brings_proof_of_failure_is_no_success(
    result: TaskResult, expected: tuple[Cause, str | None]
):
    assert outcome.of_completed(result) == expected
