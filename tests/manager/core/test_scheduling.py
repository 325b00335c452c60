"""Who gets which task: pure choices."""

from hypothesis import given
from hypothesis import strategies as st

from manager.core.scheduling import Candidate, Offer, Requirement, assign, satisfies


def an_offer(
    host_id: str, *, used: int = 0, slots: int = 4, last: int = 0, keys: set[int] | None = None, **labels: str
) -> Offer:
    return Offer(
        host_id=host_id,
        generation=1,
        keys=frozenset(keys or {1}),
        used=used,
        slots=slots,
        last_assigned_at=last,
        cwd="/",
        labels=labels,
    )


def tasks(count: int, **more: object) -> list[Candidate]:
    return [Candidate(task_id=f"t{n}", key=1, rank=(5, n), **more) for n in range(count)]  # type: ignore[arg-type]


def hosts(candidates: list[Candidate], *offers: Offer) -> list[str]:
    return [chosen.host_id for chosen in assign(candidates, offers)]


def test_the_least_loaded_fraction_goes_first() -> None:
    assert hosts(tasks(1), an_offer("a", used=1, slots=2), an_offer("b", used=2, slots=8)) == ["b"]


def test_equal_loads_take_turns_beginning_with_the_longest_idle() -> None:
    offers = [an_offer("a", last=30), an_offer("b", last=10), an_offer("c", last=20)]

    assert hosts(tasks(6), *offers) == ["b", "c", "a", "b", "c", "a"]


def test_preferred_labels_weigh_more_than_load() -> None:
    likes = tasks(1, prefer=(("gpu", "yes"), ("disk", "fast")))
    busy, idle = an_offer("busy", used=3, gpu="yes", disk="fast"), an_offer("idle", gpu="yes")

    assert hosts(likes, busy, idle) == ["busy"]


def test_a_preference_never_keeps_a_task_waiting() -> None:
    assert hosts(tasks(1, prefer=(("gpu", "yes"),)), an_offer("plain")) == ["plain"]


def test_an_urgent_task_that_nobody_offers_room_for_does_not_hold_up_the_others() -> None:
    stuck = Candidate(task_id="stuck", key=2, rank=(0, 0))

    chosen = assign([stuck, *tasks(1)], [an_offer("a")])

    assert [(c.task_id, c.host_id) for c in chosen] == [("t0", "a")]


def test_no_offers_no_assignments() -> None:
    assert assign(tasks(3), []) == []
    assert assign([], [an_offer("a")]) == []


def test_a_host_without_slots_gets_nothing() -> None:
    assert hosts(tasks(3), an_offer("none", slots=0), an_offer("full", used=4)) == []


candidates = st.lists(
    st.builds(lambda priority, key: (priority, key), priority=st.integers(0, 9), key=st.integers(1, 3)),
    max_size=30,
).map(
    lambda drawn: [Candidate(task_id=f"t{n}", key=key, rank=(priority, n)) for n, (priority, key) in enumerate(drawn)]
)
offers = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.sets(st.integers(1, 3)), st.integers(0, 9)), max_size=6
).map(
    lambda drawn: [
        an_offer(f"h{n}", used=used, slots=slots, last=last, keys=keys or {9})
        for n, (used, slots, keys, last) in enumerate(drawn)
    ]
)


@given(candidates, offers)
def test_nobody_gets_too_much_nothing_is_given_twice_and_no_room_is_wasted(
    waiting: list[Candidate], room: list[Offer]
) -> None:
    chosen = assign(waiting, room)

    by_id = {candidate.task_id: candidate for candidate in waiting}
    by_host = {offer.host_id: offer for offer in room}
    assert len({c.task_id for c in chosen}) == len(chosen)
    for c in chosen:
        assert by_id[c.task_id].key in by_host[c.host_id].keys
    for offer in room:
        given_to = [by_id[c.task_id] for c in chosen if c.host_id == offer.host_id]
        assert not given_to or offer.used + len(given_to) <= offer.slots
        if offer.used + len(given_to) < offer.slots:
            left = {c.task_id for c in waiting if c.key in offer.keys} - {c.task_id for c in chosen}
            assert left == set()


@given(candidates, offers)
def test_nobody_overtakes_in_the_same_queue(waiting: list[Candidate], room: list[Offer]) -> None:
    chosen = {c.task_id for c in assign(waiting, room)}

    for key in (1, 2, 3):
        queue = sorted((c for c in waiting if c.key == key), key=lambda c: c.rank)
        served = [c.task_id in chosen for c in queue]
        assert served == sorted(served, reverse=True)


# --- requirements -------------------------------------------------------------------------------------


def test_a_host_must_have_what_is_required_and_lack_what_is_avoided() -> None:
    wish = Requirement(agent="a", require=(("os", "linux"),), avoid=(("disk", "old"),), excluded=("bad",))

    def fits(host_id: str = "h", agents: tuple[str, ...] = ("a", "b"), **labels: str) -> bool:
        return satisfies(wish, host_id=host_id, agents=agents, labels=labels)

    assert fits(os="linux")
    assert fits(os="linux", disk="new")
    assert not fits()
    assert not fits(os="mac")
    assert not fits(os="linux", disk="old")
    assert not fits(os="linux", agents=("b",))
    assert not fits(os="linux", host_id="bad")


def test_a_pinned_task_fits_its_host_alone() -> None:
    wish = Requirement(agent="a", host="h1")

    assert satisfies(wish, host_id="h1", agents=["a"], labels={})
    assert not satisfies(wish, host_id="h2", agents=["a"], labels={})


def test_equal_requirements_have_one_key() -> None:
    one, two = Requirement(agent="a", require=(("x", "1"),)), Requirement(agent="a", require=(("x", "1"),))

    assert one.key() == two.key()
    assert one.key() != Requirement(agent="a", avoid=(("x", "1"),)).key()
