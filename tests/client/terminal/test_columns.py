"""Tables that stay aligned, whatever is in them."""

from hypothesis import given
from hypothesis import strategies as st

from client.terminal.columns import Cell, Column, cut, fold, table, width

COLUMNS = [Column("ID"), Column("N", right=True), Column("PROMPT", shrinks=True)]


def lines(rows: list[list[str]], cells: int | None) -> list[str]:
    return ["  ".join(cell.text for cell in line) for line in table(COLUMNS, rows, cells)]


def test_columns_are_as_wide_as_their_widest_cell_and_numbers_stand_right():
    assert lines([["a1", "5", "hi"], ["b", "120", "漢字"]], None) == [
        "ID    N  PROMPT",
        "a1    5  hi",
        "b   120  漢字",
    ]


def test_a_narrow_terminal_cuts_what_may_shrink():
    assert lines([["a1", "5", "a prompt that is long"]], 16) == ["ID  N  PROMPT", "a1  5  a prompt…"]


def test_wide_characters_are_cut_by_their_cells():
    assert lines([["a1", "5", "漢字漢字漢字"]], 16) == ["ID  N  PROMPT", "a1  5  漢字漢字…"]


def test_what_matters_least_leaves_first_when_shrinking_is_not_enough():
    columns = [Column("ID"), Column("WHEN", leaves=1), Column("TOOK", leaves=2), Column("PROMPT", shrinks=True)]
    row = ["0123456789", "yesterday", "1m 15s", "a prompt that is long"]

    def titles(cells: int) -> list[str]:
        return [cell.text.strip() for cell in table(columns, [row], cells)[0]]

    assert titles(40) == ["ID", "WHEN", "TOOK", "PROMPT"]
    assert titles(34) == ["ID", "WHEN", "PROMPT"]
    assert titles(20) == ["ID", "PROMPT"]


def test_an_empty_table_has_its_titles():
    assert lines([], 80) == ["ID  N  PROMPT"]


@given(
    st.lists(st.lists(st.text(alphabet="ab漢👍é", max_size=30), min_size=3, max_size=3), max_size=5),
    st.integers(20, 60),
)
def test_no_line_is_wider_than_the_terminal_when_enough_may_shrink(rows: list[list[str]], cells: int):
    all_shrink = [Column("A", shrinks=True), Column("B", shrinks=True), Column("C", shrinks=True)]

    for line in table(all_shrink, rows, cells):
        assert width("  ".join(cell.text for cell in line)) <= max(cells, 22)


@given(st.text(), st.integers(0, 40))
def test_cut_never_takes_more_cells_than_given(text: str, cells: int):
    assert width(cut(text, cells)) <= max(cells, 0) or width(text) <= cells


def test_a_column_that_folds_goes_on_below_with_nothing_lost():
    columns = [Column("HOST"), Column("BECAUSE", folds=True)]

    def shown(because: str) -> list[str]:
        return ["  ".join(cell.text for cell in line) for line in table(columns, [["vm", because]], 28)]

    assert shown("it fits") == ["HOST  BECAUSE", "vm    it fits"]
    assert shown("a long reason that does not fit")[1:] == ["vm    a long reason that", "      does not fit"]


@given(st.text(alphabet="ab 漢\n", max_size=80), st.integers(4, 30), st.integers(0, 3))
def test_folding_loses_no_word_and_breaks_none(text: str, cells: int, hang: int):
    folded = fold(text, cells, hang)

    assert folded.split() == text.split()
    for line in folded.split("\n"):
        assert width(line) <= cells or len(line.split()) <= 1


def test_styles_stay_with_their_cells():
    shown = table([Column("A"), Column("B")], [[Cell("x", "good"), "y"]], 80)

    assert [(cell.text, cell.style) for cell in shown[1]] == [("x", "good"), ("y", "")]
