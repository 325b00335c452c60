"""The description of the API against a real manager: what it says is what is there, and nothing is answered by a 500.

Schemathesis makes requests from the description: right ones, wrong ones, and those at the edges.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import CHECKS, load_all_checks

from manager.routes.openapi import document
from manager.routes.site import HTTP

schema = schemathesis.openapi.from_dict(document(HTTP))
load_all_checks()

# OPTIONS, which it also asks, is answered for each handler of a path by itself (libraries.md, section 1).
LEFT_OUT = {"allow_header_conformance"}
# Whether a request that has the right shape is taken may depend on more: is there such an agent, was this cursor ours,
# do two fields go together. And 5.0, an integer to JSON Schema, is none to us. Each is answered by a 400 that says so.
MORE_THAN_SHAPE = {"createTask", "createToken", "createJoinCode", "listTasks"}


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A manager process: (url, token)."""
    home = tmp_path_factory.mktemp("home")
    argv = [sys.executable, "-m", "manager", "--port", "0", "--print-ready", "--home", str(home)]
    argv += ["--bootstrap-token-file", str(home / "token"), "--log-level", "error"]
    with (home / "log").open("wb") as log, subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log) as process:
        assert process.stdout is not None
        try:
            ready = json.loads(process.stdout.readline())
            yield ready["url"], (home / "token").read_text().strip()
        finally:
            process.terminate()
            code = process.wait(20)
    said = Path(home / "log").read_text()
    assert code == 0, said
    assert "request failed" not in said, said


@schema.parametrize()
@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_api_is_what_its_description_says(manager: tuple[str, str], case: Case):
    url, token = manager
    left_out = LEFT_OUT
    if case.operation.definition.raw["operationId"] in MORE_THAN_SHAPE:
        left_out = LEFT_OUT | {"positive_data_acceptance"}
    checks = [CHECKS.get_one(name) for name in CHECKS.get_all_names() if name not in left_out]
    headers = {"Authorization": f"Bearer {token}"}
    case.call_and_validate(base_url=url, headers=headers, checks=checks, timeout=10)
