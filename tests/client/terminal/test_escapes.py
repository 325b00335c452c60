"""Whatever an agent prints, the terminal obeys nobody but us."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.terminal.escapes import harmless, one_line

POWERLESS = re.compile(
    r"[\n\t\x20-\x7e\xa0-\u061b\u061d-\u200d\u2010-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\U0010ffff]*"
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[38;2;1;2;3mx\x1b[m", "x"),
        ("\x1b]0;new title\x07after", "after"),
        ("\x1b]52;c;c2VjcmV0\x1b\\after", "after"),
        ("\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\", "click"),
        ("\x1bP+q544e\x1b\\after", "after"),
        ("\x1b_Gdata\x1b\\after", "after"),
        ("\x1bcafter", "after"),
        ("\x1b(Bafter", "after"),
        ("\x9b2Jafter", "after"),
        ("rm -rf /\rls      ", "rm -rf /␍ls      "),
        ("a\x08b", "a␈b"),
        ("bell\x07", "bell␇"),
        ("half \x1b", "half ␛"),
        ("half \x1b[3", "half ␛[3"),
        ("\x1b]0;never ended", "␛]0;never ended"),
        ("del\x7f", "del␡"),
        ("c1 \x85 \x9c", "c1 <85> <9c>"),
        ("a\u202etxt.exe", "a<U+202E>txt.exe"),
        ("a\u2066b\u2069", "a<U+2066>b<U+2069>"),
        ("one\u2028two", "one\ntwo"),
        ("dos\r\nlines\r\n", "dos\nlines\n"),
        ("tab\tstays", "tab\tstays"),
        ("漢字 é 👩‍💻", "漢字 é 👩‍💻"),
        ("\ud800", "\ufffd"),
    ],
)
def test_what_has_power_is_taken_out_or_shown(text: str, shown: str):
    assert harmless(text) == shown


@given(st.text(alphabet=st.one_of(st.sampled_from("\x1b[]\\;0mPX^_\x07\x9b\x9c\x9d\r\n\u202e"), st.characters())))
def test_nothing_with_power_is_left_of_any_text(text: str):
    assert POWERLESS.fullmatch(harmless(text))


@given(st.text(alphabet=st.characters(blacklist_categories=["Cc", "Cs", "Cf", "Zl", "Zp"])))
def test_plain_text_stays_as_it_is(text: str):
    assert harmless(text) == text


def test_pieces_of_a_sequence_are_harmless_too():
    sequence = "\x1b]0;title\x07\x1b[2J"

    for at in range(len(sequence)):
        assert POWERLESS.fullmatch(harmless(sequence[:at]) + harmless(sequence[at:]))


def test_one_line_is_one_line():
    assert one_line("a\n b\r\n\tc\u2028d") == "a b c d"
