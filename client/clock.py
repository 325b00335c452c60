"""The time of day, in milliseconds; nobody else in the client asks for it."""

from datetime import UTC, datetime


def now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)
