"""Many gateways that are connected and idle.

    python -m bench.load_idle URL TOKENS_FILE

One connection for each token of the file (a JSON object: host id to token). Prints a line of JSON when every one of
them is registered, then stays until it is told to stop.
"""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop
from websockets.asyncio.client import connect

from shared_types import codec
from shared_types.hosts import HostCapabilities
from shared_types.messages import Register, Registered

AT_ONCE = 20


async def main(url: str, tokens: dict[str, str]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)
    capabilities = HostCapabilities(name="idle", agents=("noop",), max_concurrent=2, cwd="/tmp")
    async with AsyncExitStack() as stack:

        async def join(host_id: str, token: str) -> None:
            async with gate:
                socket = await stack.enter_async_context(
                    connect(
                        f"{url}/agent/ws?hostId={host_id}",
                        additional_headers={"Authorization": f"Bearer {token}"},
                        compression=None,
                        ping_interval=None,
                        open_timeout=60,
                    )
                )
                register = Register(host_id=host_id, capabilities=capabilities, protocol=2, version="bench")
                await socket.send(codec.encode(register), text=True)
                answer = codec.decode_from_manager(await socket.recv())
                assert isinstance(answer, Registered), answer
                assert answer.ok, answer

        async with asyncio.TaskGroup() as group:
            for host_id, token in tokens.items():
                group.create_task(join(host_id, token))
        print(json.dumps({"connected": len(tokens)}), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text())))
