"""The proxy does what it says."""

import socket
import time
from collections.abc import AsyncIterator

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from e2e.chaos.proxy import Proxy, proxying
from e2e.harness import until


class Echo:
    """Says back what it hears; `ends` holds how each conversation ended."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.heard = b""

    async def __call__(self, stream: SocketStream) -> None:
        async with stream:
            try:
                async for data in stream:
                    self.heard += data
                    await stream.send(data)
                self.ends.append("closed")
            except (anyio.BrokenResourceError, OSError):
                self.ends.append("reset")


@pytest.fixture
async def echo() -> AsyncIterator[tuple[Echo, int]]:
    echo = Echo()
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, echo)
        yield echo, listener.extra(SocketAttribute.local_port)
        group.cancel_scope.cancel()


@pytest.fixture
async def proxy(echo: tuple[Echo, int]) -> AsyncIterator[Proxy]:
    async with proxying("127.0.0.1", echo[1]) as proxy:
        yield proxy


async def dial(proxy: Proxy) -> SocketStream:
    return await anyio.connect_tcp("127.0.0.1", proxy.port)


async def said_back(stream: SocketStream, data: bytes) -> bytes:
    await stream.send(data)
    heard = b""
    with anyio.fail_after(10):
        while len(heard) < len(data):
            heard += await stream.receive()
    return heard


async def how_it_ends(stream: SocketStream) -> str:
    with anyio.fail_after(10):
        try:
            while True:
                await stream.receive()
        except anyio.EndOfStream:
            return "closed"
        except anyio.BrokenResourceError:
            return "reset"


async def ended(echo: Echo) -> str:
    await until(lambda: echo.ends, 10, "the conversation ends")
    return echo.ends[0]


async def test_what_is_said_arrives_whole_and_in_order(proxy: Proxy):
    data = bytes(range(256)) * 4000
    async with await dial(proxy) as stream, anyio.create_task_group() as group:
        group.start_soon(stream.send, data)
        heard = b""
        while len(heard) < len(data):
            heard += await stream.receive()

    assert heard == data


async def test_a_delay_counts_each_way(proxy: Proxy):
    proxy.delay_s = 0.1
    async with await dial(proxy) as stream:
        began = time.monotonic()
        await said_back(stream, b"a")

    assert time.monotonic() - began >= 0.2


async def test_while_it_stalls_nothing_moves_and_afterwards_everything_does(proxy: Proxy):
    async with await dial(proxy) as stream:
        await said_back(stream, b"a")
        proxy.stall()
        await stream.send(b"later")
        with anyio.move_on_after(0.2) as silence:
            await stream.receive()
        proxy.flow()

        assert silence.cancelled_caught
        assert await stream.receive() == b"later"


async def test_both_sides_of_a_cut_see_an_end(proxy: Proxy, echo):
    async with await dial(proxy) as stream:
        await said_back(stream, b"a")
        proxy.cut()

        assert await how_it_ends(stream) == "closed"
        assert await ended(echo[0]) == "closed"


async def test_both_sides_of_a_reset_see_a_reset(proxy: Proxy, echo):
    async with await dial(proxy) as stream:
        await said_back(stream, b"a")
        proxy.reset()

        assert await how_it_ends(stream) == "reset"
        assert await ended(echo[0]) == "reset"


async def test_it_resets_in_the_middle_of_what_is_said(proxy: Proxy, echo):
    async with await dial(proxy) as stream:
        await said_back(stream, b"a")
        proxy.reset_after(3)
        await stream.send(b"12345")

        assert await how_it_ends(stream) == "reset"
        await ended(echo[0])
        assert echo[0].heard in (b"a", b"a123")


async def test_who_dialled_sees_nothing_of_a_line_that_is_half_open(proxy: Proxy, echo):
    async with await dial(proxy) as stream:
        await said_back(stream, b"a")
        proxy.half_open()
        assert await ended(echo[0]) == "reset"
        await stream.send(b"into nothing")
        with anyio.move_on_after(0.2) as silence:
            await stream.receive()

        assert silence.cancelled_caught


async def test_while_it_is_down_whoever_dials_is_refused(proxy: Proxy):
    async with await dial(proxy) as stream:
        await said_back(stream, b"a")
        proxy.down()
        assert await how_it_ends(stream) == "reset"
    async with await dial(proxy) as stream:
        assert await how_it_ends(stream) == "reset"
    proxy.up()
    async with await dial(proxy) as stream:
        assert await said_back(stream, b"b") == b"b"

    assert (proxy.dialled, proxy.refused) == (3, 1)


async def test_a_target_that_is_away_is_a_reset():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with proxying("127.0.0.1", taken.getsockname()[1]) as proxy, await dial(proxy) as stream:
            assert await how_it_ends(stream) == "reset"
