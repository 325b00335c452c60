"""The neighbour of the idle gateway: a bare ASGI WebSocket on uvicorn that accepts, answers once and listens.

    python -m bench.bare_ws

Prints one line of JSON with its url when it serves, as our programs do.
"""

import asyncio
import json
import socket

import uvicorn
import uvloop


async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def] # as bare as ASGI is
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": '{"type":"registered","ok":true}'})


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(app, lifespan="off", log_level="warning", ws_per_message_deflate=False)
    server = uvicorn.Server(config)
    serving = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
    print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
    await serving


if __name__ == "__main__":
    uvloop.run(main())
