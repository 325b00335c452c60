"""The life of a task: which cause may follow which state, and nothing else.

Rule 1: every change of state goes through `advance`; the table is the whole truth.
Rule 2: this file knows no clock, no database and no socket.

`mermaid()` draws the table; docs/lifecycle.md holds that drawing and a test keeps it so.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from shared_types.tasks import FINAL, TaskState


class Cause(StrEnum):
    CLAIM = "claim"  # a host was chosen
    ACCEPTED = "accepted"  # the host is ready: it may start
    REFUSED = "refused"  # the host will not; nothing was spawned
    NEVER_STARTED = "never_started"  # provably nothing was spawned: deadline, or the host came back without it
    STARTED = "started"  # the agent runs
    SUCCEEDED = "succeeded"  # final report with evidence of success
    FAILED = "failed"  # any other final report
    TIMED_OUT = "timed_out"  # final report: stopped because its time was over
    STOPPED = "stopped"  # final report: stopped because somebody wished so
    ABORT = "abort"  # a person wishes it to stop
    OVERDUE = "overdue"  # it runs beyond its time and the host did not say so
    HOST_LOST = "host_lost"  # its host is gone for longer than an agent may go on alone
    EXPIRE = "expire"  # queued for longer than its TTL
    GIVE_UP = "give_up"  # no host is left that has not refused it
    RETRY = "retry"  # a person wants another attempt


S = TaskState
C = Cause

TRANSITIONS: Final[Mapping[TaskState, Mapping[Cause, TaskState]]] = {
    S.QUEUED: {
        C.CLAIM: S.ASSIGNED,
        C.ABORT: S.ABORTED,  # nothing runs: there is nothing to wait for
        C.EXPIRE: S.EXPIRED,
        C.GIVE_UP: S.FAILED,
    },
    S.ASSIGNED: {
        C.ACCEPTED: S.ASSIGNED,  # from now on it may start: an end without a word is no longer harmless
        C.STARTED: S.RUNNING,
        C.REFUSED: S.QUEUED,
        C.NEVER_STARTED: S.QUEUED,
        C.SUCCEEDED: S.COMPLETED,  # a base gateway may report the end before the start
        C.FAILED: S.FAILED,
        C.TIMED_OUT: S.TIMEOUT,
        C.STOPPED: S.ABORTED,
        C.ABORT: S.STOPPING,
        C.OVERDUE: S.STOPPING,  # accepted, told to start, and silent
        C.HOST_LOST: S.LOST,  # it was accepted: it may have started
    },
    S.RUNNING: {
        C.STARTED: S.RUNNING,  # said again when the agent's session id is learned
        C.SUCCEEDED: S.COMPLETED,
        C.FAILED: S.FAILED,
        C.TIMED_OUT: S.TIMEOUT,
        C.STOPPED: S.ABORTED,
        C.ABORT: S.STOPPING,
        C.OVERDUE: S.STOPPING,
        C.HOST_LOST: S.LOST,
    },
    S.STOPPING: {
        C.ACCEPTED: S.STOPPING,  # the abort crossed the acceptance on the wire; it is not started
        C.STARTED: S.STOPPING,
        C.REFUSED: S.ABORTED,
        C.NEVER_STARTED: S.ABORTED,
        C.SUCCEEDED: S.COMPLETED,  # it finished before it heard us
        C.FAILED: S.ABORTED,  # it was on its way down when we asked
        C.TIMED_OUT: S.TIMEOUT,
        C.STOPPED: S.ABORTED,
        C.ABORT: S.STOPPING,  # said again, perhaps without grace
        C.OVERDUE: S.STOPPING,  # the host was told and did not answer: it is told again
        C.HOST_LOST: S.LOST,  # we cannot say that its process tree is gone
    },
    S.COMPLETED: {},
    S.FAILED: {C.RETRY: S.QUEUED},
    S.TIMEOUT: {C.RETRY: S.QUEUED},
    S.ABORTED: {C.RETRY: S.QUEUED},
    S.LOST: {C.RETRY: S.QUEUED},
    S.EXPIRED: {C.RETRY: S.QUEUED},
}

LIVE: Final = frozenset(set(TaskState) - FINAL)
ON_A_HOST: Final = frozenset({S.ASSIGNED, S.RUNNING, S.STOPPING})  # these hold a slot


class IllegalTransition(Exception):
    """This cause cannot follow this state."""

    def __init__(self, state: TaskState, cause: Cause) -> None:
        super().__init__(f"{cause} cannot follow {state}")
        self.state = state
        self.cause = cause


def advance(state: TaskState, cause: Cause) -> TaskState:
    """The next state. Raises IllegalTransition."""
    try:
        return TRANSITIONS[state][cause]
    except KeyError:
        raise IllegalTransition(state, cause) from None


def mermaid() -> str:
    """The table as a drawing for docs/lifecycle.md."""
    lines = ["stateDiagram-v2", f"    [*] --> {S.QUEUED}"]
    for state, ways in TRANSITIONS.items():
        lines += [f"    {state} --> {to}: {cause}" for cause, to in ways.items()]
    lines += [f"    {state} --> [*]" for state in TaskState if state in FINAL]
    return "\n".join(lines) + "\n"
