"""One attempt's life on this host: how it is brought to its end, step by step, and when the next step is due.

Rule 1: every step is a row of the table; a cause without a row changes nothing.
Rule 2: this file knows no clock and no process: `now` comes in, `act` says what to do.

    abort    ask the agent (its protocol's word) -> ASK_S -> TERM to the tree, grace, KILL      by the keeper
    done     close stdin -> CLOSE_S -> stop as agent_done                                        by the keeper
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Final

ASK_S: Final = 2.0
CLOSE_S: Final = 5.0
GRACE_MS: Final = 5_000


class Phase(Enum):
    RUNNING = auto()
    ASKED = auto()  # the agent was asked to end its turn
    CLOSING = auto()  # its conversation is over and its stdin closed
    STOPPING = auto()  # its keeper brings the tree down
    ENDED = auto()


class Cause(Enum):
    ABORT = auto()  # somebody wants it stopped
    KILL = auto()  # the same, at once
    DONE = auto()  # the agent's conversation is over
    LATE = auto()  # the step that was waited for did not come
    EXIT = auto()  # its exit record was read, or its keeper is gone


class Act(StrEnum):
    NONE = "none"
    ASK = "ask"
    CLOSE = "close"
    STOP_ABORT = "abort"  # the values are the keeper's words for why
    STOP_DONE = "agent_done"


P, C, A = Phase, Cause, Act

STEPS: Final[Mapping[Phase, Mapping[Cause, tuple[Phase, Act]]]] = {
    P.RUNNING: {
        C.ABORT: (P.ASKED, A.ASK),
        C.KILL: (P.STOPPING, A.STOP_ABORT),
        C.DONE: (P.CLOSING, A.CLOSE),
        C.EXIT: (P.ENDED, A.NONE),
    },
    P.ASKED: {
        C.KILL: (P.STOPPING, A.STOP_ABORT),
        C.DONE: (P.STOPPING, A.STOP_ABORT),  # whatever it calls this end: some say "end of turn" when cancelled
        C.LATE: (P.STOPPING, A.STOP_ABORT),
        C.EXIT: (P.ENDED, A.NONE),
    },
    P.CLOSING: {
        C.ABORT: (P.STOPPING, A.STOP_DONE),  # its work is over already: only its exit is hurried
        C.KILL: (P.STOPPING, A.STOP_DONE),
        C.LATE: (P.STOPPING, A.STOP_DONE),
        C.EXIT: (P.ENDED, A.NONE),
    },
    P.STOPPING: {
        C.KILL: (P.STOPPING, A.STOP_ABORT),  # again, without the rest of the grace
        C.EXIT: (P.ENDED, A.NONE),
    },
    P.ENDED: {},
}

_PATIENCE: Final = {P.ASKED: ASK_S, P.CLOSING: CLOSE_S}


@dataclass(slots=True)
class Run:
    phase: Phase = Phase.RUNNING
    due_at: float = math.inf  # LATE is due then

    def act(self, cause: Cause, now: float) -> Act:
        """What to do now."""
        step = STEPS[self.phase].get(cause)
        if step is None:
            return Act.NONE
        self.phase, act = step
        self.due_at = now + _PATIENCE.get(self.phase, math.inf)
        return act
