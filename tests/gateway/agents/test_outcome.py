"""Completed means evidence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.agents.base import End, Evidence, ExitFacts
from gateway.agents.outcome import STOPS, judge
from shared_types.events import MAX_VALUE_BYTES


def facts(code=0, signal=None, stop=None):
    return ExitFacts(code=code, signal=signal, stop=stop, duration_ms=1234)


OK = Evidence(end=End.OK, answer="done", files_changed=("a.py",))


def test_a_result_and_a_clean_exit_are_success():
    outcome = judge(OK, facts())

    assert (outcome.reason, outcome.error) == (None, "")
    assert outcome.result.success
    assert (outcome.result.exit_code, outcome.result.output, outcome.result.duration) == (0, "done", 1234)
    assert outcome.result.files_changed == ("a.py",)


@pytest.mark.parametrize(
    ("evidence", "facts", "reason"),
    [
        (Evidence(), facts(), "no_result"),
        (Evidence(), facts(code=3), "exit_nonzero"),
        (Evidence(), facts(code=None, signal=9), "killed_by_signal"),
        (OK, facts(code=1), "exit_nonzero"),
        (OK, facts(code=None, signal=11), "killed_by_signal"),
        (Evidence(end=End.ERROR), facts(), "agent_error"),
        (Evidence(end=End.ERROR, reason="agent_error.quota", error="no money"), facts(code=1), "agent_error.quota"),
        (Evidence(end=End.CANCELLED), facts(), "aborted_by_user"),
        (OK, facts(code=143, stop="abort"), "aborted_by_user"),
        (OK, facts(stop="run_timeout"), "run_timeout"),
        (Evidence(), facts(code=None, signal=15, stop="idle_timeout"), "idle_timeout"),
        (Evidence(), facts(code=None, signal=15, stop="start_timeout"), "start_timeout"),
        (Evidence(), facts(code=None, stop="keeper_lost"), "supervisor_died"),
        (OK, facts(code=None), "supervisor_died"),
        (OK, facts(code=143, stop="lease_expired"), "lease_expired"),
        (Evidence(), facts(code=None, stop="host_restarted"), "host_restarted"),
        (Evidence(), facts(code=143, stop="agent_done"), "no_result"),
        (Evidence(end=End.OK, denied=("bash",), finished_after_denial=False), facts(), "denied"),
        (Evidence(needs_result=False), facts(code=2), "exit_nonzero"),
    ],
)
def test_everything_else_is_a_failure_with_its_reason(evidence, facts, reason):
    outcome = judge(evidence, facts)

    assert outcome.reason == reason
    assert outcome.error
    assert not outcome.result.success


def test_a_program_without_results_is_judged_by_its_exit_code():
    assert judge(Evidence(needs_result=False), facts()).reason is None


def test_an_agent_that_found_another_way_after_a_denial_has_succeeded():
    assert judge(Evidence(end=End.OK, denied=("bash",)), facts()).reason is None


def test_good_work_that_we_had_to_end_is_success_and_its_exit_code_says_nothing():
    outcome = judge(OK, facts(code=None, signal=15, stop="agent_done"))

    assert outcome.reason is None
    assert outcome.result.exit_code is None


def test_a_long_answer_is_reported_by_its_tail():
    outcome = judge(Evidence(end=End.OK, answer="a" * MAX_VALUE_BYTES + "end"), facts())

    assert outcome.result.output.endswith("end")
    assert len(outcome.result.output) == MAX_VALUE_BYTES
    assert outcome.result.output_truncated


@given(
    st.builds(
        Evidence, end=st.sampled_from(End), denied=st.sampled_from([(), ("x",)]), finished_after_denial=st.booleans()
    ),
    st.builds(
        ExitFacts,
        code=st.sampled_from([0, 1, 143, None]),
        signal=st.sampled_from([None, 9, 15]),
        stop=st.sampled_from([None, "agent_done", *STOPS]),
        duration_ms=st.just(1),
    ),
)
def test_success_always_has_a_result_and_never_a_fault(evidence, facts):
    outcome = judge(evidence, facts)

    if outcome.reason is None:
        assert evidence.end is End.OK
        assert facts.stop in (None, "agent_done")
        assert facts.stop == "agent_done" or (facts.code == 0 and facts.signal is None)
        assert not evidence.denied or evidence.finished_after_denial
    assert outcome.result.success == (outcome.reason is None)
