"""The table of steps, walked."""

import math

import pytest

from gateway.core.run import ASK_S, CLOSE_S, STEPS, Act, Cause, Phase, Run


def run_of(*causes, now=0.0):
    run = Run()
    return run, [run.act(cause, now) for cause in causes]


def test_an_abort_asks_then_stops():
    run, acts = run_of(Cause.ABORT)
    assert (acts, run.due_at) == ([Act.ASK], ASK_S)

    assert run.act(Cause.LATE, run.due_at) is Act.STOP_ABORT
    assert run.due_at == math.inf


def test_a_kill_does_not_ask():
    assert run_of(Cause.KILL)[1] == [Act.STOP_ABORT]


def test_a_kill_after_an_abort_is_told_to_the_keeper_again():
    assert run_of(Cause.ABORT, Cause.LATE, Cause.KILL)[1] == [Act.ASK, Act.STOP_ABORT, Act.STOP_ABORT]


def test_a_conversation_that_is_over_is_closed_then_ended():
    run, acts = run_of(Cause.DONE)
    assert (acts, run.due_at) == ([Act.CLOSE], CLOSE_S)

    assert run.act(Cause.LATE, CLOSE_S) is Act.STOP_DONE


def test_work_that_was_done_before_the_abort_stays_done():
    assert run_of(Cause.DONE, Cause.ABORT)[1] == [Act.CLOSE, Act.STOP_DONE]


def test_an_agent_that_obeys_is_aborted_whatever_it_calls_its_end():
    assert run_of(Cause.ABORT, Cause.DONE)[1] == [Act.ASK, Act.STOP_ABORT]


def test_saying_it_twice_changes_nothing():
    run, acts = run_of(Cause.ABORT, Cause.ABORT, Cause.ABORT)

    assert acts == [Act.ASK, Act.NONE, Act.NONE]
    assert run.due_at == ASK_S


@pytest.mark.parametrize("cause", list(Cause))
def test_after_the_end_nothing_is_done(cause):
    run, _ = run_of(Cause.EXIT)

    assert run.act(cause, 1.0) is Act.NONE
    assert run.phase is Phase.ENDED


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ENDED])
def test_every_phase_ends_with_the_process(phase):
    assert STEPS[phase][Cause.EXIT] == (Phase.ENDED, Act.NONE)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ENDED])
def test_a_kill_stops_from_every_phase(phase):
    assert STEPS[phase][Cause.KILL][0] is Phase.STOPPING
