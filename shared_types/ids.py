"""Names for things: a prefix that says what it is, and a ULID that sorts by time of birth.

ULID: https://github.com/ulid/spec (48 bits of milliseconds, 80 bits of chance, Crockford's base 32), in
lower case. Time and chance come in as arguments, so equal arguments give equal names.

>>> new_id("task", 1_700_000_000_000, bytes(10))
'task_01hf7yat000000000000000000'
"""

from typing import Final

ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
RANDOM_BYTES: Final = 10
_PAIRS: Final = [first + second for first in ALPHABET for second in ALPHABET]


def new_id(prefix: str, now_ms: int, random: bytes) -> str:
    """A name of 26 characters behind `prefix_`; `random` is RANDOM_BYTES of chance."""
    number = (now_ms << 80) | int.from_bytes(random[:RANDOM_BYTES], "big")
    return prefix + "_" + "".join([_PAIRS[(number >> shift) & 1023] for shift in range(120, -1, -10)])
