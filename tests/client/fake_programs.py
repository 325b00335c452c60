"""Programs for the supervisor's tests: `python -P -m tests.client.fake_programs WHAT`. Standard library only.

Each says that it is ready by a line of JSON, and writes what happens to it into the file FAKE_DIARY.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DIARY = Path(os.environ["FAKE_DIARY"])


def note(word: str) -> None:
    with DIARY.open("a") as diary:
        diary.write(word + "\n")


def ready(**facts: object) -> None:
    print("some talk before", flush=True)
    print(json.dumps({"ready": True, **facts}), flush=True)


def until_told(name: str, *, ignores: bool = False) -> None:
    told = threading.Event()

    def hear(number: int, frame: object) -> None:
        note(f"{name} heard {signal.Signals(number).name}")
        if not ignores:
            told.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, hear)
    ready(pid=os.getpid())
    while not told.wait(0.05):
        pass


def crashes_once() -> None:
    first = not DIARY.exists() or "crash" not in DIARY.read_text()
    if first:
        note("crash")
        ready(life=1)
        os._exit(3)
    until_told("second life")


def manager() -> None:
    """As much of a manager as `up` asks: tokens, one host, join codes."""
    tokens: dict[str, dict[str, object]] = {}
    home = Path(os.environ["FLEETGATE_HOME"])
    kept = home / "fake-tokens.json"
    if kept.exists():
        tokens = json.loads(kept.read_text())
    else:
        secret = "fgp_bootstrap"
        tokens[secret] = info("tok_0", "bootstrap", "personal", None)
        Path(os.environ["MANAGER_BOOTSTRAP_TOKEN_FILE"]).write_text(secret + "\n")
        kept.write_text(json.dumps(tokens))

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"null")
            secret = self.headers.get("authorization", "").removeprefix("Bearer ")
            status, said = 200, reply(self.command, self.path, body)
            if secret not in tokens:
                status, said = 401, {"title": "x", "status": 401, "code": "UNAUTHORIZED", "detail": "who?"}
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = answer

        def log_message(self, *args: object) -> None:
            pass

    def reply(method: str, path: str, body: dict[str, str] | None) -> object:
        if (method, path) == ("GET", "/api/auth/tokens"):
            return list(tokens.values())
        if (method, path) == ("POST", "/api/auth/tokens"):
            assert body is not None
            secret = f"fgh_{len(tokens)}"
            tokens[secret] = info(f"tok_{len(tokens)}", body["name"], body["kind"], body.get("hostId"))
            kept.write_text(json.dumps(tokens))
            return {"token": secret, "info": tokens[secret]}
        if path == "/api/auth/join-codes":
            return {"code": "fgj_x", "expiresAt": 1}
        found = re.fullmatch(r"/api/hosts/(.+)", path)
        assert found, path
        capabilities = {"name": "here", "agents": [], "maxConcurrent": 2, "cwd": "/"}
        times = {"lastHeartbeat": None, "connectedAt": None}
        return {"hostId": found[1], "name": "here", "status": "online", "capabilities": capabilities} | {
            "activeTasks": [],
            "slots": 2,
            **times,
        }

    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["MANAGER_PORT"])), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    note(f"manager on {'a free port' if os.environ['MANAGER_PORT'] == '0' else 'the same port'}")
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: told.set())
    print(json.dumps({"url": f"http://127.0.0.1:{server.server_address[1]}", "pid": os.getpid()}), flush=True)
    while not told.wait(0.05):
        pass
    note("manager ended")


def info(id: str, name: str, kind: str, host_id: str | None) -> dict[str, object]:
    dates = {"createdAt": 1, "lastUsedAt": None, "revokedAt": None}
    return {"id": id, "name": name, "kind": kind, "hostId": host_id, **dates}


def gateway() -> None:
    token = Path(os.environ["GATEWAY_AUTH_TOKEN_FILE"]).read_text().strip()
    note(f"gateway {os.environ['GATEWAY_HOST_ID']} dials {os.environ['GATEWAY_SERVER_URL'][:5]} with {token}")
    until_told("gateway")
    note("gateway ended")


def main() -> None:
    match sys.argv[1]:
        case "good":
            until_told(sys.argv[2])
        case "stubborn":
            until_told("stubborn", ignores=True)
        case "crashes-once":
            crashes_once()
        case "never-ready":
            sys.stderr.write("one reason\nthe last reason\n")
            sys.exit(9)
        case "ready-then-78":
            ready()
            sys.stderr.write("a setting is wrong\n")
            sys.exit(78)
        case "leaves-a-child":
            child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])  # holds our stdout open
            note(f"left {child.pid}")
            ready()
            sys.exit(78)
        case "manager":
            manager()
        case "gateway":
            gateway()
        case other:
            sys.exit(f"what is {other}?")


if __name__ == "__main__":
    main()
