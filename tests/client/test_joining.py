"""What a machine keeps when it becomes a host, and whether the gateway can read it."""

import json
import re
import stat
import tomllib
from pathlib import Path

from client.cli import run
from client.joining import gateway_file
from tests.client.fake_api import FakeApi

JOINED = {"hostId": "host_1", "token": "fgh_secret", "url": "", "labels": {"gpu": "1"}}


def test_join_writes_what_the_gateway_needs(api: FakeApi, home: Path, capsys):
    api.answer("POST", "/api/auth/join", JOINED, status=201)

    assert run(["join", api.url, "fgj_code", "--name", "lab"]) == 0

    file = gateway_file(home)
    assert tomllib.loads(file.read_text()) == {
        "server_url": api.url.replace("http", "ws"),
        "host_id": "host_1",
        "host_name": "lab",
        "auth_token": "fgh_secret",
        "labels": "gpu=1",
    }
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert api.sent("POST", "/api/auth/join") == [{"code": "fgj_code", "name": "lab", "hostId": "lab"}]
    told = capsys.readouterr()
    assert told.out == "now run: fleetgate gateway\n"
    assert "fgh_secret" not in told.out + told.err


def test_a_second_machine_of_the_same_name_gets_an_id_like_it(api: FakeApi):
    taken = {"title": "Conflict", "status": 409, "code": "HOST_EXISTS", "detail": "a host called lab has joined"}
    api.answers["POST", "/api/auth/join"] = [
        (409, json.dumps(taken).encode(), "application/json"),
        (201, json.dumps(JOINED).encode(), "application/json"),
    ]

    assert run(["join", api.url, "fgj_code", "--name", "lab"]) == 0
    first, second = api.sent("POST", "/api/auth/join")
    assert first["hostId"] == "lab"
    assert re.fullmatch("lab-[0-9a-f]{6}", second["hostId"])


def test_an_id_that_was_asked_for_is_not_changed(api: FakeApi, capsys):
    api.refuse("POST", "/api/auth/join", 409, "HOST_EXISTS", "a host called lab has joined already")

    assert run(["join", api.url, "fgj_code", "--host-id", "lab"]) == 1
    assert len(api.sent("POST", "/api/auth/join")) == 1
    assert "a host called lab has joined already" in capsys.readouterr().err


def test_join_sends_no_token_of_ours(api: FakeApi):
    api.answer("POST", "/api/auth/join", JOINED, status=201)
    run(["join", api.url, "fgj_code"])

    assert "authorization" not in api.seen[0].headers


def test_what_the_owner_declared_stays(api: FakeApi, home: Path):
    api.answer("POST", "/api/auth/join", JOINED, status=201)
    home.mkdir()
    gateway_file(home).write_text('labels = "mine=1"\n[agents.x]\nargv = ["a"]\n')
    run(["join", api.url, "fgj_code"])

    kept = tomllib.loads(gateway_file(home).read_text())
    assert kept["labels"] == "mine=1"
    assert kept["agents"] == {"x": {"argv": ["a"]}}


def test_a_host_of_another_manager_is_not_taken_over_by_accident(api: FakeApi, home: Path, capsys):
    api.answer("POST", "/api/auth/join", JOINED, status=201)
    home.mkdir()
    gateway_file(home).write_text('server_url = "wss://other.example"\nauth_token = "t"\n')

    assert run(["join", api.url, "fgj_code"]) == 78
    assert "wss://other.example" in capsys.readouterr().err
    assert run(["join", api.url, "fgj_code", "--force"]) == 0


def test_a_code_that_is_used_up_is_said_and_nothing_is_written(api: FakeApi, home: Path, capsys):
    api.refuse("POST", "/api/auth/join", 403, "BAD_CODE", "this join code is used", hint="make a new one")

    assert run(["join", api.url, "fgj_code"]) == 4
    assert capsys.readouterr().err == "error: this join code is used\nhint: make a new one\n"
    assert not gateway_file(home).exists()
