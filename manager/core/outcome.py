"""From a host's last word on an attempt to the cause it is. The gateway weighed the evidence; here it is sorted."""

from typing import Final

from manager.core.lifecycle import Cause
from shared_types.tasks import Reason, TaskResult

_CAUSES: Final[dict[str, Cause]] = {
    Reason.RUN_TIMEOUT: Cause.TIMED_OUT,
    Reason.IDLE_TIMEOUT: Cause.TIMED_OUT,
    Reason.START_TIMEOUT: Cause.TIMED_OUT,
    Reason.ABORTED_BY_USER: Cause.STOPPED,
    Reason.HOST_LOST: Cause.HOST_LOST,
    Reason.HOST_RESTARTED: Cause.HOST_LOST,
    Reason.SUPERVISOR_DIED: Cause.HOST_LOST,  # nobody can say how it ended
    Reason.LEASE_EXPIRED: Cause.HOST_LOST,  # its host ended it because we might take it for lost
}


def of_failed(reason: str | None) -> Cause:
    """The cause that a `task:failed` stands for. Codes of other makes, and none at all, are failures.

    >>> of_failed("idle_timeout"), of_failed("their_own_code"), of_failed(None)
    (<Cause.TIMED_OUT: 'timed_out'>, <Cause.FAILED: 'failed'>, <Cause.FAILED: 'failed'>)
    """
    return _CAUSES.get(reason or "", Cause.FAILED)


def of_completed(result: TaskResult) -> tuple[Cause, str | None]:
    """The cause and reason of a `task:completed`: one that brings its own proof of failure is no success."""
    if result.exit_code not in (None, 0):
        return Cause.FAILED, Reason.EXIT_NONZERO
    if not result.success:
        return Cause.FAILED, Reason.AGENT_ERROR
    return Cause.SUCCEEDED, None
