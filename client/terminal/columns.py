"""Cells and columns: how wide text is on a terminal, cutting it, and tables without boxes.

Widths are those of a terminal: 漢 takes two cells, a combining mark none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len

GAP: Final = "  "
ELLIPSIS: Final = "…"


def width(text: str) -> int:
    """
    >>> width("abc"), width("漢字"), width("é")
    (3, 4, 1)
    """
    return cell_len(text)


def cut(text: str, cells: int) -> str:
    """At most so many cells; what is cut ends with an ellipsis.

    >>> cut("abcdef", 4), cut("漢字漢字", 5), cut("abc", 3), cut("abc", 0)
    ('abc…', '漢字…', 'abc', '')
    """
    if width(text) <= cells:
        return text
    if cells <= 0:
        return ""
    kept, used = [], 1
    for char in text:
        used += width(char)
        if used > cells:
            break
        kept.append(char)
    return "".join(kept) + ELLIPSIS


def fold(text: str, cells: int, hang: int = 0) -> str:
    r"""Lines that break between words; what belongs to the line above stands in by `hang`. No word is broken.

    >>> fold("one two three\n  four five", 9), fold("hint: a long sentence", 14, hang=6)
    ('one two\nthree\n  four\n  five', 'hint: a long\n      sentence')
    """
    folded = []
    for line in text.split("\n"):
        bare = line.lstrip(" ")
        lead = line[: len(line) - len(bare)]
        words = iter(bare.split(" "))
        now = lead + next(words)
        lead += " " * hang
        for word in words:
            if width(now) + 1 + width(word) <= cells:
                now += " " + word
            else:
                folded.append(now)
                now = lead + word
        folded.append(now)
    return "\n".join(folded)


def pad(text: str, cells: int, *, right: bool = False) -> str:
    space = " " * max(0, cells - width(text))
    return space + text if right else text + space


@dataclass(frozen=True, slots=True)
class Column:
    """`shrinks`: gives up cells when the terminal is narrow; `folds`: the same, and goes on below instead of being
    cut; `leaves`: goes away when that is not enough, the highest number first; `right`: numbers.
    """

    title: str
    shrinks: bool = False
    folds: bool = False
    right: bool = False
    leaves: int = 0


@dataclass(frozen=True, slots=True)
class Cell:
    """A text and how it is shown (`style` of terminal.styles)."""

    text: str
    style: str = ""


Row = Sequence[Cell | str]


def table(columns: Sequence[Column], rows: Sequence[Row], cells: int | None) -> list[list[Cell]]:
    """Lines of padded cells, the first one the titles. `cells` None: as wide as it takes."""
    whole = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    wants = [
        max(width(column.title), *(width(row[at].text) for row in whole)) if whole else width(column.title)
        for at, column in enumerate(columns)
    ]
    while cells is not None and (at := _leaving(columns, wants, cells)) is not None:
        columns = [*columns[:at], *columns[at + 1 :]]
        wants = [*wants[:at], *wants[at + 1 :]]
        whole = [[*row[:at], *row[at + 1 :]] for row in whole]
    widths = wants if cells is None else _fit(columns, wants, cells)
    lines = [[Cell(column.title, "title") for column in columns]]
    for row in whole:
        lines += _folded(columns, row, widths)
    last = len(columns) - 1
    return [
        [
            Cell(
                cut(cell.text, widths[at])
                if at == last and not columns[at].right
                else pad(cut(cell.text, widths[at]), widths[at], right=columns[at].right),
                cell.style,
            )
            for at, cell in enumerate(line)
        ]
        for line in lines
    ]


def _folded(columns: Sequence[Column], row: Sequence[Cell], widths: Sequence[int]) -> list[list[Cell]]:
    """The row, and what goes on below it."""
    parts = [
        fold(cell.text, widths[at]).split("\n") if column.folds else [cell.text]
        for at, (column, cell) in enumerate(zip(columns, row, strict=True))
    ]
    return [
        [Cell(part[line] if line < len(part) else "", cell.style) for part, cell in zip(parts, row, strict=True)]
        for line in range(max(map(len, parts), default=1))
    ]


def _least(column: Column, wants: int) -> int:
    """How narrow it may become."""
    least = {column.shrinks: 6, column.folds: 20}.get(True)
    return wants if least is None else min(wants, max(least, width(column.title)))


def _leaving(columns: Sequence[Column], wants: Sequence[int], cells: int) -> int | None:
    """The column to leave out next, when they do not fit even as narrow as they may be."""
    least = sum(map(_least, columns, wants)) + len(GAP) * (len(columns) - 1)
    rank, at = max((column.leaves, at) for at, column in enumerate(columns))
    return at if least > cells and rank > 0 else None


def _fit(columns: Sequence[Column], wants: Sequence[int], cells: int) -> list[int]:
    """Take from the widest column that shrinks until it fits."""
    widths = list(wants)
    over = sum(widths) + len(GAP) * (len(widths) - 1) - cells
    while over > 0:
        shrinkable = [(widths[at], at) for at, column in enumerate(columns) if widths[at] > _least(column, widths[at])]
        if not shrinkable:
            break
        _, at = max(shrinkable)
        widths[at] -= 1
        over -= 1
    return widths
