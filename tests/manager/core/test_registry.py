"""What connected hosts are offered, and that it is computed once."""

from manager.core.registry import Member, Registry, member
from manager.core.scheduling import Requirement
from shared_types.hosts import AgentInfo, EffectiveConfig, HostCapabilities

ANY_CLAUDE = Requirement(agent="claude-code")
ANY_GEMINI = Requirement(agent="gemini")


def host(host_id: str = "h1", generation: int = 1, **fields: object) -> Member:
    defaults = {
        "agents": frozenset({"claude-code"}),
        "labels": {},
        "slots": 2,
        "cwd": "/work",
    }
    return Member(host_id=host_id, generation=generation, **{**defaults, **fields})  # type: ignore[arg-type]


def test_a_host_is_offered_to_the_queues_that_it_satisfies() -> None:
    registry = Registry()
    registry.join(host())

    (offer,) = registry.offers({1: ANY_CLAUDE, 2: ANY_GEMINI, 3: Requirement(agent="claude-code", host="h2")})

    assert offer.keys == {1}
    assert (offer.host_id, offer.generation, offer.slots, offer.cwd) == ("h1", 1, 2, "/work")


def test_a_host_that_satisfies_no_queue_is_not_offered() -> None:
    registry = Registry()
    registry.join(host())

    assert registry.offers({2: ANY_GEMINI}) == []


def test_a_draining_host_and_one_without_slots_are_not_offered() -> None:
    registry = Registry()
    registry.join(host("h1", is_draining=True))
    registry.join(host("h2", slots=0))

    assert registry.offers({1: ANY_CLAUDE}) == []


def test_new_queues_and_gone_ones_are_noticed() -> None:
    registry = Registry()
    registry.join(host())
    assert [offer.keys for offer in registry.offers({1: ANY_CLAUDE})] == [{1}]

    assert [offer.keys for offer in registry.offers({1: ANY_CLAUDE, 5: ANY_CLAUDE})] == [{1, 5}]
    assert [offer.keys for offer in registry.offers({5: ANY_CLAUDE})] == [{5}]
    assert registry.offers({}) == []


def test_the_same_question_gets_the_same_offer_without_computing_it_again() -> None:
    registry = Registry()
    registry.join(host())
    (first,) = registry.offers({1: ANY_CLAUDE})

    (second,) = registry.offers({1: ANY_CLAUDE})

    assert second is first


def test_what_was_found_out_is_forgotten_when_the_host_changes() -> None:
    registry = Registry()
    registry.join(host())
    registry.offers({1: ANY_CLAUDE, 2: ANY_GEMINI})

    registry.join(host(agents=frozenset({"gemini"})))

    assert [offer.keys for offer in registry.offers({1: ANY_CLAUDE, 2: ANY_GEMINI})] == [{2}]


def test_verdicts_about_queues_that_are_long_gone_do_not_pile_up() -> None:
    registry = Registry()
    registry.join(host())
    for number in range(2_000):
        registry.offers({number: ANY_CLAUDE})

    assert len(registry._seats["h1"].verdicts) < 600


def test_a_newer_connection_takes_the_place_and_an_older_one_cannot() -> None:
    registry = Registry()
    assert registry.join(host(generation=2))

    assert not registry.join(host(generation=1))
    assert not registry.leave("h1", 1)
    assert registry.join(host(generation=3))
    assert not registry.leave("h1", 2)
    assert registry.leave("h1", 3)
    assert "h1" not in registry


def test_who_was_given_something_is_last_among_equals() -> None:
    registry = Registry()
    registry.join(host("h1"))
    registry.offers({1: ANY_CLAUDE})

    registry.assigned("h1", 500)

    assert [offer.last_assigned_at for offer in registry.offers({1: ANY_CLAUDE})] == [500]
    registry.join(host("h1", generation=2))
    assert [offer.last_assigned_at for offer in registry.offers({1: ANY_CLAUDE})] == [500]


def test_the_managers_labels_lie_on_top_of_the_hosts_own() -> None:
    own = HostCapabilities(name="h", agents=(), max_concurrent=1, cwd="/", labels={"a": "host", "b": "host"})
    config = EffectiveConfig(heartbeat_interval=1, task_timeout=1, max_concurrent=1, labels={"b": "config"})

    made = member("h1", 1, own, (), labels={"a": "manager"}, is_draining=False, config=config)

    assert made.labels == {"a": "manager", "b": "config"}


def test_what_the_gateway_really_does_counts_for_slots_and_draining() -> None:
    own = HostCapabilities(name="h", agents=("claude",), max_concurrent=8, cwd="/")
    config = EffectiveConfig(heartbeat_interval=1, task_timeout=1, max_concurrent=3, draining=True)

    made = member("h1", 1, own, (), labels={}, is_draining=False, config=config)

    assert (made.slots, made.is_draining) == (3, True)


def test_an_agent_that_is_known_to_be_logged_out_is_not_offered() -> None:
    own = HostCapabilities(name="h", agents=("claude", "gemini-cli", "mine"), max_concurrent=1, cwd="/")
    found = (AgentInfo(agent="gemini", auth_ok=False), AgentInfo(agent="claude", auth_ok=None))

    made = member("h1", 1, own, found, labels={}, is_draining=False)

    assert made.agents == {"claude-code", "mine"}
