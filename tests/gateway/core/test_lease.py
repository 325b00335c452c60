"""The lease: what prolongs it, how long it is good for, when an agent must begin to end."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.lease import KILL_BUDGET_MS, REMEMBERED, Lease
from shared_types.messages import LeaseTerms

TERMS = LeaseTerms(ttl=90_000, kill_budget=KILL_BUDGET_MS)


def held(sent: int = 1_000, terms: LeaseTerms | None = TERMS) -> Lease:
    lease = Lease()
    lease.opened(sent)
    lease.granted(terms)
    return lease


def test_the_welcome_grants_a_lease_from_when_the_greeting_was_said():
    lease = held(1_000)

    assert lease.is_fresh(91_000)
    assert not lease.is_fresh(91_001)


def test_without_terms_everything_is_fresh_and_nothing_ends():
    lease = held(terms=None)

    assert lease.is_fresh(10**12)
    assert lease.until(0) is None


def test_an_acknowledgement_counts_from_when_the_sign_of_life_was_said():
    lease = held(1_000)
    lease.said(16_000)
    lease.said(31_000)

    assert lease.acknowledged(16_000)
    assert lease.until(900_000) == 16_000 + 90_000 + 900_000


def test_what_was_not_said_on_this_connection_prolongs_nothing():
    lease = held(1_000)
    lease.said(16_000)
    lease.opened(40_000)
    lease.granted(TERMS)

    assert not lease.acknowledged(16_000)
    assert not lease.acknowledged(10**9)
    assert lease.until(0) == 40_000 + 90_000


def test_an_acknowledgement_is_taken_once_and_an_older_one_changes_nothing():
    lease = held(1_000)
    lease.said(16_000)
    lease.said(31_000)

    assert lease.acknowledged(31_000)
    assert not lease.acknowledged(31_000)
    assert not lease.acknowledged(16_000)
    assert lease.until(0) == 31_000 + 90_000


def test_a_new_connection_without_a_welcome_yet_prolongs_nothing():
    lease = held(1_000)
    lease.opened(50_000)

    assert not lease.is_fresh(91_001)


def test_a_manager_that_knows_no_leases_lifts_the_one_before():
    lease = held(1_000)
    lease.opened(50_000)
    lease.granted(None)

    assert lease.is_fresh(10**12)
    assert lease.until(0) is None


def test_a_task_that_may_go_on_for_ever_has_no_end():
    assert held().until(None) is None


def test_a_manager_that_counts_on_quick_killing_is_obeyed_by_beginning_earlier():
    lease = held(1_000, LeaseTerms(ttl=90_000, kill_budget=5_000))

    assert lease.until(0) == 1_000 + 90_000 - (KILL_BUDGET_MS - 5_000)


def test_a_manager_that_never_answers_fills_no_memory():
    lease = held(1)
    for sent in range(2, 2 * REMEMBERED):
        lease.said(sent)

    assert not lease.acknowledged(2)
    assert lease.acknowledged(2 * REMEMBERED - 1)


@given(st.lists(st.tuples(st.sampled_from(["say", "answer", "redial"]), st.integers(0, 50))))
def test_the_end_never_moves_back_while_the_terms_stay_and_never_beyond_what_was_said(steps: list[tuple[str, int]]):
    lease, now, newest = held(1_000), 1_000, 1_000
    for what, number in steps:
        before = lease.until(0)
        now += number
        match what:
            case "say":
                lease.said(now)
                newest = now
            case "answer":
                lease.acknowledged(now - number)
            case _:
                lease.opened(now)
                lease.granted(TERMS)
                newest = now

        after = lease.until(0)
        assert before is not None
        assert after is not None
        assert before <= after <= newest + TERMS.ttl
