"""Tables that stay aligned, whatever is in them."""

from hypothesis import given
from hypothesis import strategies as st

from client.terminal.columns import Cell, Column, cut, table, width

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


def test_styles_stay_with_their_cells():
    shown = table([Column("A"), Column("B")], [[Cell("x", "good"), "y"]], 80)

    assert [(cell.text, cell.style) for cell in shown[1]] == [("x", "good"), ("y", "")]
