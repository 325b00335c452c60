"""The doctor: each line says how it is, and what to do."""

import json
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from client.cli import run
from client.clock import now_ms
from client.commands.doctor import FAIL, OK, WARN, clock, home_findings, host_findings, hosts_findings, port, python
from shared_types.hosts import HostStatus
from tests.client.fake_api import FakeApi, a_host

NOW = 1_700_000_000_000


def host(**fields: Any) -> HostStatus:
    return msgspec.convert(a_host(**fields), HostStatus)


def states(findings: list[Any]) -> list[str]:
    return [finding.state for finding in findings]


@pytest.fixture
def healthy(api: FakeApi) -> FakeApi:
    numbers = {"hostsOnline": 1, "tasksQueued": 0, "tasksRunning": 0, "uptimeMs": 5}
    api.answer("GET", "/api/health", {"status": "ok", "version": "0.1.0", "epoch": "e", "degraded": {}, **numbers})
    api.answer("GET", "/api/auth/tokens", [])
    api.answer("GET", "/api/hosts", [a_host(lastHeartbeat=now_ms())])
    return api


def test_all_is_well(healthy: FakeApi, capsys):
    assert run(["doctor"]) == 0

    told = capsys.readouterr().out
    assert "warn" not in told
    assert f"manager      {healthy.url} answers in" in told
    assert "token        good (from FLEETGATE_TOKEN)" in told


def test_json_is_one_document_with_stable_names(healthy: FakeApi, capsys):
    run(["doctor", "--json"])

    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert {"python", "home", "disk", "manager", "clock", "token", "host laptop"} == {
        check["name"] for check in report["checks"]
    }


def test_a_bad_token_fails_with_what_to_do(healthy: FakeApi, capsys):
    healthy.refuse("GET", "/api/auth/tokens", 401, "UNAUTHORIZED", "This token is not known here.", hint="Log in.")

    assert run(["doctor"]) == 1
    told = capsys.readouterr().out
    assert "✗ fail  token" in told
    assert "Log in." in told


def test_no_manager_fails_and_looks_at_the_port(capsys):
    assert run(["doctor", "--url", "http://127.0.0.1:1"]) == 1
    assert "1 is free: nothing runs there" in capsys.readouterr().out


def test_a_port_that_something_else_has_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (finding,) = port(f"http://127.0.0.1:{taken.getsockname()[1]}")

    assert finding.state == FAIL
    assert "by something that is no manager" in finding.found


def test_degraded_parts_are_named(healthy: FakeApi, capsys):
    numbers = {"hostsOnline": 1, "tasksQueued": 3, "tasksRunning": 0, "uptimeMs": 5}
    trouble = {"status": "degraded", "version": "9.9", "epoch": "e", "degraded": {"store": "disk full"}}
    healthy.answer("GET", "/api/health", {**trouble, **numbers})
    run(["doctor"])

    told = capsys.readouterr().out
    assert "store: disk full" in told
    assert "the manager 9.9" in told
    assert "3 tasks in the queue" in told


def test_files_that_others_can_read_are_warned_of(home: Path):
    home.mkdir(mode=0o700)
    (home / "client.toml").write_text("")
    (home / "client.toml").chmod(0o644)
    findings = home_findings(home)

    assert states(findings) == [OK, WARN]
    assert findings[1].hint == f"chmod 600 {home / 'client.toml'}"


@pytest.mark.parametrize(("skew_s", "state"), [(0.5, OK), (-29, OK), (45, WARN), (-3600, WARN)])
def test_a_clock_may_be_a_little_off(skew_s: float, state: str):
    assert clock(skew_s).state == state


def test_an_old_python_fails():
    assert python((3, 10, 1)).state == FAIL


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"status": "offline"}, "offline"),
        ({"draining": True}, "takes no new tasks"),
        ({"agents": []}, "offers no agent"),
        ({"agents": [{"agent": "gemini", "path": "/g", "authOk": False, "hint": "log in"}]}, "not logged in"),
        ({"agents": [{"agent": "gemini", "authOk": True}]}, "cannot be run"),
        ({"vitals": {"cpu": 0.1, "memory": 0.1, "disk": 0.97, "load": 0.1}}, "97% full"),
        ({"vitals": {"cpu": 0.1, "memory": 0.1, "disk": 0.1, "load": 0.1, "journals": 0.85}}, "take 85% of what"),
        ({"lastHeartbeat": NOW - 200_000}, "silent for 3m"),
    ],
)
def test_what_is_not_as_it_should_be_on_a_host_is_warned_of(fields: dict[str, Any], word: str):
    warned = [finding.found for finding in host_findings(host(**fields), NOW, "laptop") if finding.state == WARN]

    assert any(word in found for found in warned)


def test_a_host_that_is_well_has_nothing_but_ok():
    assert states(host_findings(host(), NOW, "laptop")) == [OK, OK]


def test_without_a_connected_host_no_task_can_run():
    assert states(hosts_findings([], NOW)) == [WARN]
    assert FAIL in states(hosts_findings([host(status="offline")], NOW))
