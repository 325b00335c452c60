"""A manager's HTTP on a real port, answering what a test says: for the commands, which make their own client.

with FakeApi() as api:
    api.answer("GET", "/api/hosts", [])
    assert run(["hosts"]) == 0
"""

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]
STREAM = "text/event-stream"


@dataclass(frozen=True)
class Held:
    """A stream that says `first`, stays open until `api.go` is set, and then says `then`."""

    first: bytes
    then: bytes


@dataclass
class Seen:
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any


@dataclass
class FakeApi:
    answers: dict[tuple[str, str], list[tuple[int, bytes | Held, str]]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    url: str = ""
    go: threading.Event = field(default_factory=threading.Event)

    def answer(self, method: str, path: str, *bodies: Any, status: int = 200) -> None:
        """These in turn, then the last one for ever. Bytes are a stream of events."""
        self.answers[method, path] = [
            (status, body, STREAM)
            if isinstance(body, bytes | Held)
            else (status, json.dumps(body).encode(), "application/json")
            for body in bodies
        ]

    def refuse(self, method: str, path: str, status: int, code: str, detail: str, **more: Any) -> None:
        self.answer(
            method, path, {"title": "x", "status": status, "code": code, "detail": detail, **more}, status=status
        )

    def sent(self, method: str, path: str) -> list[Any]:
        return [one.body for one in self.seen if (one.method, one.path) == (method, path)]

    def __enter__(self) -> "FakeApi":
        api = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                path, _, query = self.path.partition("?")
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                method = self.command
                headers = {name.lower(): value for name, value in self.headers.items()}
                api.seen.append(Seen(method, path, query, headers, json.loads(body) if body else None))
                kept = api.answers.get((method, path))
                missing = {"title": "Not Found", "status": 404, "code": "NO_SUCH_PATH", "detail": f"no {path}"}
                status, said, kind = (404, json.dumps(missing).encode(), "application/json") if not kept else kept[0]
                if kept and len(kept) > 1:
                    kept.pop(0)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                if isinstance(said, Held):
                    self.close_connection = True
                    self.end_headers()
                    self.wfile.write(said.first)
                    api.go.wait(20)
                    said = said.then
                else:
                    self.send_header("Content-Length", str(len(said)))
                    self.end_headers()
                try:
                    self.wfile.write(said)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # who asked has left

            do_GET = do_POST = do_DELETE = handle_any

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *args: object) -> None:
        self.go.set()
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


def a_host(**more: Any) -> Json:
    host: Json = {
        "hostId": "h1",
        "name": "laptop",
        "status": "online",
        "capabilities": {"name": "laptop", "agents": ["claude-code"], "maxConcurrent": 2, "cwd": "/w", "labels": {}},
        "activeTasks": [],
        "lastHeartbeat": 1_700_000_000_000,
        "connectedAt": 1_700_000_000_000,
        "agents": [{"agent": "claude-code", "version": "2.1", "path": "/bin/claude", "authOk": True}],
        "slotsUsed": 1,
        "slots": 2,
        "protocol": 2,
    }
    return {**host, **more}
