"""How an attempt ended, from evidence: what the agent said of itself, how its process ended, why we stopped it.

Invariant: `completed` means a result of the agent's own (or, for a program without results, exit code 0), and that
nothing it was denied made it give up. An exit code alone proves nothing: agents exit with 0 when they are
interrupted, and with 143 after good work when we end a conversation that was over.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from gateway.agents.base import End, Evidence, ExitFacts
from gateway.core.coalesce import cut_text, tail_text
from shared_types.events import MAX_VALUE_BYTES
from shared_types.tasks import Reason, TaskResult

MAX_FILES_CHARS: Final = 32 * 1024
MAX_SENTENCE: Final = 2000

# Why the keeper stopped it -> what that is called, and said. Not here: agent_done, which judges nothing.
STOPS: Final = {
    "abort": (Reason.ABORTED_BY_USER, "It was stopped on request."),
    "run_timeout": (Reason.RUN_TIMEOUT, "It ran longer than it may."),
    "idle_timeout": (Reason.IDLE_TIMEOUT, "It gave no sign of life for too long."),
    "start_timeout": (Reason.START_TIMEOUT, "It said nothing after it was started."),
    "lease_expired": (Reason.LEASE_EXPIRED, "Its host had no word of the manager for so long that it was stopped."),
    "keeper_lost": (Reason.SUPERVISOR_DIED, "Its supervisor died; nobody can say how it ended."),
    "host_restarted": (Reason.HOST_RESTARTED, "The host restarted while it ran."),
    "host_stopping": (Reason.HOST_RESTARTED, "The host was shut down while it ran."),
    "missing_executable": (Reason.MISSING_EXECUTABLE, "Its program could not be found or executed."),
    "cwd_not_allowed": (Reason.CWD_NOT_ALLOWED, "Its directory is not inside one that this host allows."),
    "cwd_missing": (Reason.CWD_MISSING, "Its directory is not there."),
    "spawn_failed": (Reason.SPAWN_FAILED, "It could not be started."),
}
AGENT_DONE: Final = "agent_done"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`reason` None: completed. `error` is a sentence for people when it is not."""

    result: TaskResult
    reason: str | None = None
    error: str = ""


def judge(evidence: Evidence, facts: ExitFacts) -> Outcome:
    """The verdict. First what we did to it, then how its process ended, then what it said."""
    reason, error = _fault(evidence, facts)
    output = tail_text(evidence.answer, MAX_VALUE_BYTES)
    result = TaskResult(
        success=reason is None,
        # Ended by us after its work was over: the code tells of our signal, not of its work.
        exit_code=None if facts.stop == AGENT_DONE and reason is None else facts.code,
        output=output,
        duration=facts.duration_ms,
        files_changed=tuple(_first(evidence.files_changed)) or None,
        output_truncated=len(output) != len(evidence.answer),
    )
    return Outcome(result, reason, cut_text(error, MAX_SENTENCE))


def _fault(evidence: Evidence, facts: ExitFacts) -> tuple[str | None, str]:
    if facts.stop in STOPS:
        return STOPS[facts.stop]
    if evidence.end is End.CANCELLED:
        return STOPS["abort"]  # nobody but us cancels; it ended before its process had to be stopped
    if evidence.end is End.ERROR:
        return evidence.reason or Reason.AGENT_ERROR, evidence.error or "The agent reported an error."
    ended_by_us = facts.stop == AGENT_DONE
    if facts.signal is not None and not ended_by_us:
        return Reason.KILLED_BY_SIGNAL, f"It was killed by signal {facts.signal}."
    if facts.code is None and not ended_by_us:
        return STOPS["keeper_lost"]
    if facts.code != 0 and not ended_by_us:
        return Reason.EXIT_NONZERO, _with_words(f"It exited with code {facts.code}", evidence.error)
    if evidence.needs_result and evidence.end is End.NONE:
        return Reason.NO_RESULT, _with_words("It ended without a result", evidence.error)
    if evidence.denied and not evidence.finished_after_denial:
        return Reason.DENIED, f"It was denied {', '.join(evidence.denied[:5])} and could not finish."
    return None, ""


def _first(names: Iterable[str]) -> Iterator[str]:
    """As many as may be told."""
    room = MAX_FILES_CHARS
    for name in names:
        room -= len(name)
        if room < 0:
            return
        yield name


def _with_words(sentence: str, words: str | None) -> str:
    return f"{sentence}: {words}" if words else f"{sentence}."
