"""When the peer of a WebSocket counts as dead: by signs of life, whichever they are, and never while we do not read."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from litestar import Litestar, WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect

from manager.runtime.server import Server, listen
from tests.fakes.mute import MutePeer

PING_S = 0.02
PATIENCE_S = 10.0


class Ear:
    """The far side of every connection: reads when it `listens`, and tells when the peer is gone."""

    def __init__(self) -> None:
        self.listens = anyio.Event()
        self.heard: list[str] = []
        self.gone = anyio.Event()

    async def handle(self, socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await self.listens.wait()
        try:
            while True:
                self.heard.append(await socket.receive_text())
        except WebSocketDisconnect:
            self.gone.set()


@asynccontextmanager
async def serving(ear: Ear, *, silence_s: float = 10 * PING_S) -> AsyncIterator[int]:
    """The port."""

    @websocket("/")
    async def handler(socket: WebSocket[Any, Any, Any]) -> None:
        await ear.handle(socket)

    async def nothing() -> None:
        return None

    with listen("127.0.0.1", 0) as sock, anyio.fail_after(PATIENCE_S):
        app = Litestar([handler], openapi_config=None)
        server = Server(app, sock, drain=nothing, drain_s=1, ping_s=PING_S, silence_s=silence_s)
        async with anyio.create_task_group() as group:
            group.start_soon(server.run_until_stopped)
            await server.wait_started()
            yield server.port
            server.stop()


async def test_a_peer_that_gives_no_sign_of_life_is_cut_after_some_pings() -> None:
    ear = Ear()
    ear.listens.set()
    async with serving(ear, silence_s=3 * PING_S) as port, MutePeer.connect("127.0.0.1", port, "/") as peer:
        pings = await peer.pings_until_cut()
        await ear.gone.wait()

    assert pings == 3


async def test_a_peer_that_leaves_pings_unanswered_and_says_something_stays() -> None:
    ear = Ear()
    ear.listens.set()
    async with serving(ear) as port, MutePeer.connect("127.0.0.1", port, "/") as peer:
        for _ in range(20):
            await peer.ping()
            await peer.say("here")

        assert not ear.gone.is_set()


async def test_a_peer_that_answers_pings_and_says_nothing_stays() -> None:
    ear = Ear()
    ear.listens.set()
    async with serving(ear) as port, MutePeer.connect("127.0.0.1", port, "/", answers=True) as peer:
        for _ in range(30):
            await peer.ping()

        assert not ear.gone.is_set()


async def test_a_peer_whose_words_we_do_not_read_is_not_silent() -> None:
    ear = Ear()
    async with serving(ear) as port, MutePeer.connect("127.0.0.1", port, "/") as peer:
        await peer.say("one")
        await peer.say("two")
        for _ in range(30):
            await peer.ping()
        ear.listens.set()
        await peer.pings_until_cut()  # from now on it is
        await ear.gone.wait()

    assert ear.heard == ["one", "two"]


@pytest.mark.parametrize(("silence_s", "pings"), [(PING_S, 1), (4.5 * PING_S, 5)])
async def test_silence_is_counted_in_pings(silence_s: float, pings: int) -> None:
    ear = Ear()
    ear.listens.set()
    async with serving(ear, silence_s=silence_s) as port, MutePeer.connect("127.0.0.1", port, "/") as peer:
        assert await peer.pings_until_cut() == pings
