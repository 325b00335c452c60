"""The journal of one attempt: what its bytes mean.

    u32 length of data | u32 crc | u64 seq | u64 ms since the epoch | u8 stream | u8 flags | data      little endian

The crc is over everything behind it. `seq` counts 1, 2, 3 ... without gaps, and a journal is only ever appended to;
its keeper takes back nothing but a record that it could not write whole. So everything before the first record that
is not whole is true for ever, and whatever stands behind that point is nothing yet.

The keeper writes this format with code of its own (gateway/runtime/keeper.py imports nothing of ours, so that it
outlives an upgrade); tests hold the two together.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final
from zlib import crc32

import msgspec

HEADER: Final = struct.Struct("<IIQQBB")
_OUTER: Final = struct.Struct("<II")
_INNER: Final = struct.Struct("<QQBB")
PARTIAL: Final = 1
MASKED: Final = 1  # by how much the flags are shifted to say how often secrets were masked; 127 is "or more"
MAX_KEY: Final = 256  # bytes of a write's key
MAX_SLICE: Final = 256 * 1024  # longer lines come as several records
MAX_WRITE: Final = 4 * 1024 * 1024  # what is written to the agent is one record, however long
MAX_DATA: Final = MAX_KEY + 1 + MAX_WRITE
MAX_NOTE: Final = 4096  # NOTE, GAP and EXIT are shorter


class Stream(IntEnum):
    """What a record holds. The numbers are in the journal's format."""

    OUT = 1  # a line of stdout, without its newline
    ERR = 2  # a line of stderr
    IN = 3  # written to stdin: `key` NUL bytes; never partial
    NOTE = 4  # JSON of the keeper: {"note": "spawned" | "stopping" | "stdin_closed" | ..., ...}, or of a gateway
    EXIT = 5  # JSON: ExitFacts; always the last record
    GAP = 6  # JSON: {"records": n, "bytes": n}: output that could not be kept


_STREAMS: Final = (None, Stream.OUT, Stream.ERR, Stream.IN, Stream.NOTE, Stream.EXIT, Stream.GAP)


@dataclass(frozen=True, slots=True)
class Record:
    """`seq` counts from 1 without gaps; `at` is ms since the epoch. A line longer than the keeper's slice comes as
    several records of which all but the last are `partial`. `masked` is how often a secret stood in it, 127 at most.
    """

    seq: int
    at: int
    stream: Stream
    data: bytes
    partial: bool = False
    masked: int = 0


@dataclass(frozen=True, slots=True)
class ExitFacts:
    """How the process ended. `stop` is why it was stopped, or why it never ran: None | abort | run_timeout |
    idle_timeout | start_timeout | agent_done (we closed a conversation that was over) | keeper_lost |
    host_stopping (the keeper itself was told to end) | missing_executable | cwd_not_allowed | cwd_missing |
    spawn_failed.
    """

    code: int | None
    signal: int | None
    stop: str | None
    duration_ms: int


class _Ending(msgspec.Struct, rename="camel"):
    code: int | None
    signal: int | None
    stop: str | None
    duration_ms: int


_ending: Final = msgspec.json.Decoder(_Ending)


def encode(record: Record) -> bytes:
    flags = record.masked << MASKED | (PARTIAL if record.partial else 0)
    inner = _INNER.pack(record.seq, record.at, record.stream, flags)
    return b"".join((_OUTER.pack(len(record.data), crc32(record.data, crc32(inner))), inner, record.data))


def decode(buffer: bytes, last: int, after: int = 0) -> tuple[list[Record], int, int]:
    """The whole records at the front of `buffer`, which follow record `last`: those behind `after`, the number of
    the last whole one, and how many bytes they take. What is not whole, not sound, or not the next number ends it.
    """
    records: list[Record] = []
    start, end = 0, len(buffer)
    size = HEADER.size
    while (body := start + size) <= end:
        length, crc, seq, at, stream, flags = HEADER.unpack_from(buffer, start)
        stop = body + length
        if stop > end or length > MAX_DATA or seq != last + 1 or not 0 < stream < len(_STREAMS):
            break
        data = buffer[body:stop]
        if crc32(data, crc32(buffer[start + 8 : body])) != crc:
            break
        if seq > after:
            kind = _STREAMS[stream]
            assert kind is not None
            records.append(Record(seq, at, kind, data, flags & PARTIAL != 0, flags >> MASKED))
        last, start = seq, stop
    return records, last, start


def exit_record(tail: bytes) -> Record | None:
    """The EXIT record that ends `tail`, the last bytes of a journal; None when it does not end with one."""
    for start in range(len(tail) - HEADER.size, max(len(tail) - HEADER.size - MAX_NOTE, 0) - 1, -1):
        length, _, seq, _, stream, _ = HEADER.unpack_from(tail, start)
        if stream == Stream.EXIT and start + HEADER.size + length == len(tail):
            records, _, _ = decode(tail[start:], seq - 1)
            if records:
                return records[0]
    return None


def exit_facts(data: bytes) -> ExitFacts:
    """What an EXIT record says. Raises ValueError when it is not one of ours."""
    try:
        ending = _ending.decode(data)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not an exit record: {error}") from error
    return ExitFacts(ending.code, ending.signal, ending.stop, ending.duration_ms)
