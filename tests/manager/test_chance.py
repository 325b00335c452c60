"""Names never share their chance, however many are drawn."""

from manager.chance import NAMES, Chance
from shared_types.ids import RANDOM_BYTES


def test_each_draw_is_whole_and_its_own():
    chance = Chance()

    drawn = [chance.draw() for _ in range(3 * NAMES + 1)]

    assert {len(one) for one in drawn} == {RANDOM_BYTES}
    assert len(set(drawn)) == len(drawn)


def test_it_does_not_show_what_comes_next():
    chance = Chance()
    chance.draw()

    shown = repr(chance)

    assert chance.draw().hex() not in shown
    assert shown == f"<Chance for {NAMES - 1} names>"
