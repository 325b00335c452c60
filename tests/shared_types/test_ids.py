import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_types import ids

CHANCE = st.binary(min_size=ids.RANDOM_BYTES, max_size=ids.RANDOM_BYTES)
MS = st.integers(0, 2**48 - 1)


def decoded(name: str) -> int:
    number = 0
    for letter in name.removeprefix("task_"):
        number = number * 32 + ids.ALPHABET.index(letter)
    return number


@given(MS, CHANCE)
def test_a_name_holds_all_of_its_time_and_chance(now, chance):
    name = ids.new_id("task", now, chance)

    assert len(name) == len("task_") + 26
    assert decoded(name) == now << 80 | int.from_bytes(chance, "big")


@given(MS, MS, CHANCE, CHANCE)
def test_names_sort_by_time_of_birth(one, other, chance, other_chance):
    earlier, later = sorted([one, other])
    if earlier == later:
        return

    assert ids.new_id("task", earlier, chance) < ids.new_id("task", later, other_chance)


@pytest.mark.parametrize("letter", "ilou")
def test_letters_that_are_mistaken_for_others_are_not_used(letter):
    assert letter not in ids.ALPHABET
