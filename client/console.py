"""The two streams a command writes to: results on stdout, talk on stderr. The only file that prints.

It knows whether each is a terminal, whether colours are wanted (https://no-color.org), and how wide it is. A closed
pipe (`fleetgate ls | head`) ends the program without a word, see cli.py.
"""

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

import msgspec

from client.terminal.columns import GAP, Column, Row, fold, table
from client.terminal.escapes import harmless
from client.terminal.story import SPACE, Piece
from client.terminal.styles import styled


class Console:
    def __init__(
        self,
        *,
        as_json: bool = False,
        quiet: bool = False,
        out: TextIO | None = None,
        err: TextIO | None = None,
        cells: int | None = None,
    ) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self.out_is_terminal = self._out.isatty()
        self.err_is_terminal = self._err.isatty()
        colours = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.out_colours = colours and self.out_is_terminal
        self._err_colours = colours and self.err_is_terminal
        is_terminal = self.out_is_terminal or self.err_is_terminal
        self.cells = cells or (shutil.get_terminal_size().columns if is_terminal else 100)

    # --- results

    def put(self, text: str = "", style: str = "") -> None:
        """A line of the result. `text` must be harmless already."""
        self._write(self._out, text + "\n", style, self.out_colours)

    def document(self, answer: Any) -> None:
        """The result as one JSON document."""
        encoded = msgspec.json.encode(answer)
        if self.out_is_terminal:
            encoded = msgspec.json.format(encoded, indent=2)
        self._write(self._out, encoded.decode() + "\n", "", False)

    def line(self, answer: Any) -> None:
        """One line of a stream of JSON."""
        self._write(self._out, msgspec.json.encode(answer).decode() + "\n", "", False)

    def table(self, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        for line in table(columns, rows, self.cells if self.out_is_terminal else None):
            shown = [styled(cell.text, cell.style) if self.out_colours else cell.text for cell in line]
            self._write(self._out, GAP.join(shown).rstrip() + "\n", "", False)

    # --- talk

    def say(self, text: str, style: str = "dim") -> None:
        """A line of talk; others' words in it are made harmless. Nothing when quiet."""
        if not self.quiet:
            self._write(self._err, self.folded(harmless(text)) + "\n", style, self._err_colours)

    def complain(self, text: str, hint: str | None = None) -> None:
        """What went wrong, and what to do; also when quiet."""
        self._write(self._err, self.folded(f"error: {harmless(text)}", 2) + "\n", "bad", self._err_colours)
        if hint:
            self._write(self._err, self.folded(f"hint: {harmless(hint)}", 2) + "\n", "", False)

    def ask(self, question: str) -> None:
        """The answer is read elsewhere."""
        self._write(self._err, question, "warn", self._err_colours)

    # --- both

    def folded(self, text: str, hang: int = 0, *, out: bool = False) -> str:
        """Broken between words where the terminal would break anywhere; as it is where there is none."""
        is_terminal = self.out_is_terminal if out else self.err_is_terminal
        return fold(text, self.cells, hang) if is_terminal else text

    @property
    def is_one_terminal(self) -> bool:
        """Results and talk are read in one place."""
        return self.out_is_terminal and self.err_is_terminal

    def tell(self, pieces: Iterable[Piece], *, all_out: bool = False) -> None:
        """A story: the answer on stdout, how it got there on stderr; or all of it on stdout."""
        for piece in pieces:
            if piece is SPACE and not (all_out or self.is_one_terminal):
                continue
            if piece.is_answer or all_out:
                self._write(self._out, piece.text, piece.style, self.out_colours)
            elif not self.quiet:
                self._write(self._err, piece.text, piece.style, self._err_colours)

    @staticmethod
    def _write(stream: TextIO, text: str, style: str, colours: bool) -> None:
        if colours and style:
            text = styled(text, style)
        encoding = stream.encoding or "utf-8"
        if encoding.lower().replace("-", "") != "utf8":
            text = text.encode(encoding, "replace").decode(encoding)
        stream.write(text)
        stream.flush()
