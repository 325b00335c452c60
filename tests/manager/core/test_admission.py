"""What a task may ask for at all."""

from typing import Any

import pytest

from gateway.core.environment import REFUSED, matches
from manager.core.admission import KNOWN_AGENTS, MAX_DEPTH, REFUSED_ENV, check_depth, check_env
from manager.errors import Invalid
from shared_types.hosts import canonical_agent

NAMES = [
    *("LD_PRELOAD", "PATH", "HOME", "NODE_OPTIONS", "PYTHONPATH", "PYTHONSTARTUP", "GIT_SSH_COMMAND", "BASH_ENV"),
    *("ANTHROPIC_BASE_URL", "HTTPS_PROXY", "http_proxy", "FLEETGATE_TOKEN", "GATEWAY_AUTH_TOKEN", "SSL_CERT_FILE"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_changes_whom_a_program_trusts_is_refused(name: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_env(name, "x")

    assert refused.value.code == "ENV_NOT_ALLOWED"
    assert name in refused.value.detail


@pytest.mark.parametrize("name", ["MY_TOKEN", "a", "_X1", "PATHS", "HOMEPAGE"])
def test_any_other_name_may_be_set(name: str) -> None:
    check_env(name, "x")


@pytest.mark.parametrize("pattern", REFUSED_ENV)
def test_what_the_manager_refuses_a_host_refuses_too(pattern: str) -> None:
    assert matches(pattern.replace("*", "X"), REFUSED)


def test_known_agents_are_canonical() -> None:
    assert {canonical_agent(agent) for agent in KNOWN_AGENTS} == KNOWN_AGENTS == {"claude-code", "gemini", "opencode"}


def test_metadata_nested_without_end_is_refused() -> None:
    def nested(depth: int) -> dict[str, Any]:
        value: Any = {}
        for number in range(depth - 1):
            value = {"a": value} if number % 2 else {"a": [1, value], "b": {}}
        return dict(value)

    check_depth({"a": 1, "b": [1, 2, {"c": "d"}]})
    check_depth(nested(MAX_DEPTH // 2))
    with pytest.raises(Invalid) as refused:
        check_depth(nested(MAX_DEPTH + 1))

    assert (refused.value.code, refused.value.field) == ("METADATA_TOO_DEEP", "$.metadata")
