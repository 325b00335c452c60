"""Text of others, made harmless for a terminal.

What an agent, a repository or a host says may hold sequences that move the cursor, rewrite what was shown, set the
window's title or the clipboard, or make the terminal answer. Colours and other whole sequences are taken out; any
other control character is shown as a sign. Characters that reverse the direction of text are shown too, so that a
command reads as it runs (https://trojansource.codes).
"""

import re
from typing import Final

# ECMA-48: CSI ... final byte; OSC, DCS, SOS, PM, APC ... ST or BEL; two- and three-byte sequences.
_SEQUENCES: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]{0,4096}(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]{1,3}[0-~]"
    r"|\x1b[0-OQ-WYZ\\`-~]"
)
_TURNS: Final = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def _signs() -> dict[int, str]:
    signs = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
    signs[0x7F] = "\u2421"
    signs |= {code: f"<{code:02x}>" for code in range(0x80, 0xA0)}
    signs |= {ord(turn): f"<U+{ord(turn):04X}>" for turn in _TURNS}
    signs |= {0x2028: "\n", 0x2029: "\n"}
    signs |= dict.fromkeys(range(55296, 57344), "�")
    return signs


_SIGNS: Final = _signs()
_PLAIN: Final = re.compile(r"[\n\t -~]*")


def harmless(text: str) -> str:
    r"""The text without any power over a terminal; line breaks and tabs stay.

    >>> harmless("\x1b[31mred\x1b[0m \x1b]0;title\x07and \x1b[2K\rgone"), harmless("a\x1b"), harmless("a\r\nb")
    ('red and ␍gone', 'a␛', 'a\nb')
    """
    if _PLAIN.fullmatch(text):
        return text
    return _SEQUENCES.sub("", text.replace("\r\n", "\n")).translate(_SIGNS)


def one_line(text: str) -> str:
    r"""The same on one line.

    >>> one_line("git commit \\\n  -m x\t-q ")
    'git commit \\ -m x -q'
    """
    return " ".join(harmless(text).split())
