"""Leases in the manager's core: who is granted one, what its tasks are told, when nothing of them can run any more."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.core import tasks
from manager.core.lifecycle import Cause
from manager.core.link import BASE, FULL, Link
from manager.core.tasks import Change, Limits, Record, Spec, Verdict
from shared_types.hosts import HostCapabilities
from shared_types.messages import LeaseTerms, Register
from shared_types.tasks import TaskState

T0 = 1_000_000
LIMITS = Limits()
TERMS = LeaseTerms(ttl=90_000, kill_budget=15_000)
SPEC = Spec(prompt="p", agent_type="command", created_at=T0, queue_ttl=1_000)


def register(protocol: int = 2, sent: int | None = 5) -> Register:
    capabilities = HostCapabilities(name="h1", agents=(), max_concurrent=1, cwd="/work")
    return Register(host_id="h1", capabilities=capabilities, protocol=protocol, sent=sent)


def change(record: Record, cause: Cause | None = None, limits: Limits = LIMITS, **more: Any) -> Record:
    applied = tasks.apply(SPEC, record, Change(task_id="t", **({"now": T0, "cause": cause} | more)), limits=limits)
    assert applied.verdict is Verdict.TAKEN
    return applied.record


def running(*, leased: bool = True, limits: Limits = LIMITS) -> Record:
    record = tasks.new("t", "s", SPEC, latest=0).record
    record = change(record, Cause.CLAIM, limits, host_id="h1", uid="u1", accept_by=T0 + 1, leased=leased)
    for cause in (Cause.ACCEPTED, Cause.STARTED):
        record = change(record, cause, limits, attempt=1, host_id="h1")
    return record


def away(record: Record, now: int, seen_at: int | None, limits: Limits = LIMITS) -> Record:
    return tasks.apply(SPEC, record, tasks.host_gone(record, now, seen_at), limits=limits).record


# --- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("register_", "dialect", "granted"),
    [(register(), FULL, TERMS), (register(sent=None), FULL, None), (register(1), BASE, None)],
)
def test_a_lease_is_granted_to_a_gateway_that_keeps_one(register_: Register, dialect: int, granted: LeaseTerms | None):
    welcome = Link("h1", 1, dialect).welcome(register_, (), T0, is_same_instance=False, lease=TERMS)

    assert welcome.registered.lease == granted


@pytest.mark.parametrize(("leased", "grace"), [(True, LIMITS.host_grace), (False, None)])
def test_a_host_that_keeps_leases_is_told_how_long_the_agent_may_go_on(leased: bool, grace: int | None):
    record = running(leased=leased)

    assert Link("h1", 1, FULL).execute(SPEC, record, "/work").task.grace == grace


# --- the arithmetic -------------------------------------------------------------------------------------------------


def test_a_task_is_lost_when_its_lease_is_over_and_not_when_its_host_was_seen_to_be_gone():
    record = away(running(), T0 + 60_000, T0 + 2_000)

    assert record.disconnected_since == T0 + 60_000
    assert record.deadline_at == T0 + 2_000 + LIMITS.lost_after


def test_where_no_leases_are_kept_it_counts_from_when_the_host_was_gone():
    assert away(running(leased=False), T0 + 60_000, T0 + 2_000).deadline_at == T0 + 60_000 + LIMITS.lost_after


def test_what_the_host_was_told_counts_and_not_what_the_settings_say_by_now():
    record = running(limits=Limits(host_grace=3_600_000))

    assert away(record, T0, T0).deadline_at == T0 + LIMITS.lost_after_of(3_600_000)


def test_a_lease_that_was_prolonged_while_it_was_out_of_reach_puts_its_loss_off():
    record = away(running(), T0 + 60_000, T0)

    again = away(record, T0 + 70_000, T0 + 65_000)

    assert again.deadline_at == T0 + 65_000 + LIMITS.lost_after
    assert again.disconnected_since == T0 + 60_000
    assert away(again, T0 + 80_000, T0) is again


def test_a_host_without_leases_that_comes_and_goes_puts_nothing_off():
    record = away(running(leased=False), T0 + 60_000, T0)

    assert away(record, T0 + 70_000, T0 + 65_000) is record


def test_an_attempt_that_came_back_keeps_nothing_of_its_lease():
    failed = change(running(), Cause.FAILED, attempt=1, host_id="h1")

    again = change(failed, Cause.RETRY)

    assert (again.leased, again.grace) == (False, 0)


def test_what_was_to_stop_and_was_ended_with_its_lease_is_aborted():
    record = change(running(), Cause.ABORT)

    ended = change(record, Cause.HOST_LOST, attempt=1, host_id="h1", reason="lease_expired")

    assert (ended.status, ended.reason) == (TaskState.ABORTED, "aborted_by_user")


def test_what_was_ended_with_its_lease_is_lost():
    ended = change(running(), Cause.HOST_LOST, attempt=1, host_id="h1", reason="lease_expired")

    assert (ended.status, ended.reason) == (TaskState.LOST, "lease_expired")


@given(
    ttl=st.integers(3_000, 600_000),
    grace=st.integers(0, 7 * 24 * 3_600_000),
    host_rate=st.floats(0.999, 1.001),
    our_rate=st.floats(0.999, 1.001),
    slew=st.floats(0, 1 / 256),
    delay=st.integers(0, 90_000),
)
def test_whatever_both_clocks_do_within_their_bounds_the_agent_is_dead_before_its_task_is_lost(
    ttl: int, grace: int, host_rate: float, our_rate: float, slew: float, delay: int
):
    """Times of the world: the sign of life was said at 0, and written down `delay` later."""
    limits = Limits(host_ttl=ttl, host_grace=grace)
    dead_at = (ttl + grace + limits.kill_budget) / host_rate
    lost_at = delay + limits.lost_after / (our_rate * (1 + slew))

    assert dead_at <= lost_at
