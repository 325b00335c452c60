"""`/agent/ws`: the link of a host. Checks whose token it is and hands the wire to its owner in the runtime."""

from typing import Any, Final, cast

import anyio
from litestar import WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect
from litestar.types import Message, Receive, Send

from manager.errors import Forbidden
from manager.routes.access import Action, principal_of
from manager.routes.problems import deny
from manager.routes.services import Services, services
from manager.runtime.host_link import WireClosed


class HostWire:
    """One WebSocket of a host, as its link sees it. Whoever owns the link is its only reader and its only writer."""

    def __init__(self, socket: WebSocket[Any, Any, Any], s: Services) -> None:
        self._socket = socket
        self._services = s
        self._is_closed = False
        # The server's own: the framework's wrapping of each frame costs as much as all that is done for it.
        self._receive, self._send = cast(tuple[Receive, Send], cast(dict[str, Any], socket.scope)["wire"])

    async def receive(self) -> str | bytes | None:
        """The next frame; None when the connection is gone."""
        message = cast(dict[str, Any], await self._receive())
        if message["type"] == "websocket.disconnect":
            self._is_closed = True
            return None
        text = message.get("text")
        return text if text is not None else cast(bytes, message.get("bytes") or b"")

    async def send(self, data: bytes) -> None:
        """Raises WireClosed."""
        try:
            await self._send(cast(Message, {"type": "websocket.send", "text": data.decode()}))
        except (OSError, WebSocketDisconnect, RuntimeError) as error:  # the last: its goodbye is on its way to us
            raise WireClosed(str(error)) from error

    async def close(self, code: int, reason: str) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        with anyio.move_on_after(2.0, shield=True) as limit:
            try:
                await self._socket.close(code=code, reason=reason)
            except (OSError, WebSocketDisconnect, RuntimeError) as error:
                raise WireClosed(str(error)) from error
        if limit.cancelled_caught:  # its buffer is full: closing would wait for a peer that takes nothing
            self._services.hang_up(self._socket.scope["client"])


@websocket("/agent/ws", action=Action.LINK, query=frozenset({"hostId"}))
async def host_socket(socket: WebSocket[Any, Any, Any]) -> None:
    """The link of a host; see docs/protocol.md."""
    s = services(socket)
    principal = principal_of(socket.scope)
    assert principal.host_id is not None
    claimed = socket.query_params.get("hostId")
    if claimed is not None and claimed != principal.host_id:
        refusal = Forbidden(
            f"This token belongs to host {principal.host_id}, not to {claimed[:128]}.",
            code="HOST_ID_MISMATCH",
            hint="Set GATEWAY_HOST_ID to the token's host, or create a token for this host.",
        )
        await deny(socket.scope, socket.receive, socket.send, refusal)
        return
    await socket.accept()
    await s.link(HostWire(socket, s), principal.host_id).serve()


ROUTES: Final = [host_socket]
