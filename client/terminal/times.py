"""Times and numbers for people, and durations as people type them."""

import re
from typing import Final

from client.errors import BadUsage

_UNITS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def ago(at: int | None, now: int) -> str:
    """
    >>> ago(1_000, 4_000), ago(0, 185_000), ago(0, 7_300_000), ago(0, 200_000_000), ago(None, 5), ago(9_000, 5_000)
    ('3s ago', '3m ago', '2h ago', '2d ago', 'never', 'now')
    """
    if at is None:
        return "never"
    return "now" if now - at < 1000 else f"{_coarse(now - at)} ago"


def _coarse(ms: int) -> str:
    for unit in ("d", "h", "m"):
        if ms >= _UNITS[unit] * (2 if unit == "d" else 1):
            return f"{ms // _UNITS[unit]}{unit}"
    return f"{ms // 1000}s"


def lasted(ms: int) -> str:
    """
    >>> lasted(45), lasted(340), lasted(12_340), lasted(75_000), lasted(3_600_000), lasted(93_784_000), lasted(-5)
    ('45ms', '0.3s', '12.3s', '1m 15s', '1h 0m', '1d 2h', '0ms')
    """
    ms = max(0, ms)
    if ms < 100:
        return f"{ms}ms"
    if ms < 60_000:
        return f"{ms // 100 / 10}s"
    for big, small in (("d", "h"), ("h", "m"), ("m", "s")):
        if ms >= _UNITS[big]:
            return f"{ms // _UNITS[big]}{big} {ms % _UNITS[big] // _UNITS[small]}{small}"
    raise AssertionError(ms)


def duration_ms(text: str) -> int:
    """
    >>> duration_ms("90"), duration_ms("30m"), duration_ms("1h30m"), duration_ms("1.5s")
    (90000, 1800000, 5400000, 1500)
    """
    if re.fullmatch(r"\d+(\.\d+)?", text):
        text += "s"
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise BadUsage(f"{text!r} is not a duration", hint="Like 90s, 30m or 1h30m.")
    ms = round(sum(float(number) * _UNITS[unit] for number, unit in parts))
    if ms <= 0:
        raise BadUsage(f"{text!r} is no time at all")
    return ms


def count(number: int, one: str, many: str | None = None) -> str:
    """
    >>> count(1, "line"), count(1234, "line"), count(2, "reply", "replies")
    ('1 line', '1,234 lines', '2 replies')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size(number: int) -> str:
    """
    >>> size(900), size(2_300_000_000)
    ('900 B', '2.3 GB')
    """
    amount = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
