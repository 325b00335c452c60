"""The lease on the link: what is not taken on without it, and which agents are told how long it lasts."""

import pytest

from gateway.core.lease import KILL_BUDGET_MS
from gateway.core.line import Ending
from gateway.core.link import Link
from gateway.core.orders import Dismiss, Lease, Prepare, Start, Stop
from shared_types.hosts import HostCapabilities
from shared_types.messages import (
    FromGateway,
    Heartbeat,
    HeartbeatAck,
    LeaseTerms,
    Register,
    Registered,
    Resume,
    TaskAccepted,
    TaskExecute,
    TaskRefused,
    TaskStart,
)
from shared_types.tasks import TaskRequest, TaskResult

TERMS = LeaseTerms(ttl=90_000, kill_budget=KILL_BUDGET_MS)
CAPABILITIES = HostCapabilities(name="h1", agents=("x",), max_concurrent=2, cwd="/w")
GRACE = 900_000


def hello(sent: int | None = 0) -> Register:
    return Register(host_id="h1", capabilities=CAPABILITIES, protocol=2, sent=sent)


def frames(link: Link) -> list[FromGateway]:
    said = []
    while (frame := link.next_frame(0.0)) is not None:
        said.append(frame)
    return said


def execute(task_id: str = "t1", grace: int | None = GRACE, uid: str = "u1") -> TaskExecute:
    task = TaskRequest(task_id=task_id, prompt="hi", cwd="/w", agent_type="x", grace=grace)
    return TaskExecute(task=task, attempt=1, uid=uid)


def connect(link: Link, sent: int = 0, *resume: Resume, lease: LeaseTerms | None = TERMS) -> None:
    link.opened(hello(sent))
    link.heard(Registered(ok=True, protocol=2, lease=lease, resume=resume), sent)


@pytest.fixture
def link() -> Link:
    """Talking, with a lease from 0 on."""
    link = Link("h1")
    connect(link)
    frames(link)
    return link


def accepted(link: Link, grace: int | None = GRACE, now: int = 0) -> None:
    link.heard(execute(grace=grace), now)
    link.consider("u1", "t1", 1, grace=grace)
    link.accept("u1")
    assert isinstance(frames(link)[-1], TaskAccepted)
    link.orders()


def running(link: Link, grace: int | None = GRACE, now: int = 0) -> None:
    accepted(link, grace, now)
    link.heard(TaskStart(task_id="t1", attempt=1), now)
    link.orders()


def test_nothing_is_prepared_without_a_fresh_lease(link: Link):
    link.heard(execute(), 90_001)

    assert link.orders() == []
    (refused,) = frames(link)
    assert isinstance(refused, TaskRefused)
    assert (refused.task_id, refused.attempt, refused.reason) == ("t1", 1, "lease_expired")


def test_nothing_is_started_without_a_fresh_lease_and_the_manager_hears_it(link: Link):
    accepted(link)

    link.heard(TaskStart(task_id="t1", attempt=1), 90_001)

    assert link.orders() == [Dismiss("u1")]
    (refused,) = frames(link)
    assert isinstance(refused, TaskRefused)
    assert refused.reason == "lease_expired"
    assert link.running() == ()


def test_with_a_fresh_lease_it_is_prepared_and_started_and_told_until_when(link: Link):
    link.heard(execute(), 90_000)
    assert [type(order) for order in link.orders()] == [Prepare]
    link.consider("u1", "t1", 1, grace=GRACE)
    link.accept("u1")

    link.heard(TaskStart(task_id="t1", attempt=1), 90_000)

    assert link.orders() == [Start("u1", 90_000 + GRACE)]


def test_a_sign_of_life_that_is_written_down_makes_the_lease_fresh_again_and_prolongs_every_agent(link: Link):
    running(link)
    link.beat(1, None, sent=15_000)
    assert frames(link)[-1] == Heartbeat(timestamp=1, sent=15_000)

    link.heard(HeartbeatAck(sent=15_000), 15_100)

    assert link.orders() == [Lease("u1", 15_000 + 90_000 + GRACE)]
    link.heard(execute("t2", uid="u2"), 105_000)
    assert [type(order) for order in link.orders()] == [Prepare]


def test_an_echo_of_what_was_not_said_prolongs_nobody(link: Link):
    running(link)

    link.heard(HeartbeatAck(sent=15_000), 15_100)

    assert link.orders() == []


def test_a_task_that_may_go_on_for_ever_has_no_end(link: Link):
    running(link, grace=None)
    link.beat(1, None, sent=15_000)
    link.heard(HeartbeatAck(sent=15_000), 15_100)

    assert link.orders() == [Lease("u1", None)]


def test_who_has_ended_and_who_was_not_started_is_not_prolonged(link: Link):
    running(link)
    link.heard(execute("t2", uid="u2"), 0)
    link.consider("u2", "t2", 1)
    link.accept("u2")
    link.orders()
    link.ended("u1", Ending(1, TaskResult(success=True)))
    link.beat(1, None, sent=15_000)

    link.heard(HeartbeatAck(sent=15_000), 15_100)

    assert link.orders() == []


def test_a_welcome_prolongs_those_that_the_manager_keeps_adopted_ones_too():
    link = Link("h1")
    link.adopt("u1", "t1", 1, grace=1_000)
    link.adopt("u2", "t2", 1, grace=1_000)

    connect(link, 50_000, Resume(task_id="t1", attempt=1, acked_seq=0, verdict="keep"))

    orders = link.orders()
    assert Lease("u1", 50_000 + 90_000 + 1_000) in orders
    assert Stop("u2") in orders
    assert not any(isinstance(order, Lease) and order.uid == "u2" for order in orders)


def test_a_manager_that_knows_no_leases_lifts_them(link: Link):
    running(link)
    link.closed()
    connect(link, 50_000, Resume(task_id="t1", attempt=1, acked_seq=0, verdict="keep"), lease=None)

    assert Lease("u1", None) in link.orders()
    link.heard(execute("t2", uid="u2"), 10**9)
    assert [type(order) for order in link.orders()] == [Prepare]


def test_a_base_manager_grants_none_and_hears_nothing_of_it():
    link = Link("h1")
    link.opened(hello(0))
    link.heard(Registered(ok=True, lease=TERMS), 0)
    frames(link)
    link.beat(1, None, sent=15_000)

    assert frames(link) == [Heartbeat(timestamp=1)]
    link.heard(TaskExecute(task=TaskRequest(task_id="t1", prompt="hi", cwd="/w", agent_type="x")), 10**9)
    assert [type(order) for order in link.orders()] == [Prepare]


def test_a_gateway_that_does_not_say_when_it_spoke_is_granted_nothing():
    link = Link("h1")
    link.opened(hello(None))
    link.heard(Registered(ok=True, protocol=2, lease=TERMS), 0)

    link.heard(execute(), 10**9)

    assert [type(order) for order in link.orders()] == [Prepare]
