"""The wire of a host on a real WebSocket server: however the connection ends, its link is told in one way."""

from typing import Any

import anyio
import pytest
from litestar import Litestar, WebSocket, websocket
from websockets.asyncio.client import connect

from manager.routes.link import HostWire
from manager.runtime.host_link import WireClosed
from manager.runtime.server import Server, listen


async def test_a_word_after_the_goodbye_meets_a_closed_wire() -> None:
    outcome: list[BaseException] = []

    @websocket("/")
    async def handler(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        wire = HostWire(socket, None)  # type: ignore[arg-type]  # asked only when a peer takes nothing
        await wire.close(1012, "restarts")
        with pytest.raises(WireClosed) as caught:
            await wire.send(b"too late")
        outcome.append(caught.value)

    async def nothing() -> None:
        return None

    with listen("127.0.0.1", 0) as sock:
        app = Litestar([handler], openapi_config=None)

        async def with_its_wire(scope: Any, receive: Any, send: Any) -> None:
            scope["wire"] = (receive, send)
            await app(scope, receive, send)

        server = Server(with_its_wire, sock, drain=nothing, drain_s=1)
        async with anyio.create_task_group() as group:
            group.start_soon(server.run_until_stopped)
            await server.wait_started()
            async with connect(f"ws://127.0.0.1:{server.port}/", proxy=None) as client:
                await client.wait_closed()
            server.stop()

    assert len(outcome) == 1
