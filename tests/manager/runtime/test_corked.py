"""What is written in one turn of the event loop leaves at once and in order."""

import asyncio
from typing import Any

import anyio.lowlevel
import pytest

from manager.runtime.corked import LARGE, Corked


class Transport:
    """As much of one as a cork needs."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> str:
        return f"the {name}"


@pytest.fixture
def transport() -> Transport:
    return Transport()


def corked(transport: Any) -> Corked:
    return Corked(transport, asyncio.get_running_loop())


async def test_a_turn_of_the_loop_is_one_write(transport: Transport) -> None:
    cork = corked(transport)

    for word in (b"a", b"b", b"c"):
        cork.write(word)
    assert transport.written == []
    await anyio.lowlevel.checkpoint()
    cork.write(b"d")
    await anyio.lowlevel.checkpoint()

    assert transport.written == [b"abc", b"d"]


async def test_what_is_large_does_not_wait(transport: Transport) -> None:
    cork = corked(transport)

    cork.write(b"head")
    cork.write(b"x" * LARGE)
    assert [len(data) for data in transport.written] == [LARGE + 4]
    await anyio.lowlevel.checkpoint()

    assert len(transport.written) == 1


async def test_closing_sends_what_was_written_before(transport: Transport) -> None:
    cork = corked(transport)

    cork.write(b"goodbye")
    cork.close()
    await anyio.lowlevel.checkpoint()

    assert (transport.written, transport.closed) == ([b"goodbye"], True)


async def test_what_comes_after_the_end_is_dropped(transport: Transport) -> None:
    cork = corked(transport)

    cork.write(b"too late")
    transport.close()
    await anyio.lowlevel.checkpoint()

    assert transport.written == []


async def test_everything_else_is_the_transports_own(transport: Transport) -> None:
    assert corked(transport).get_extra_info("peername") == "the peername"
