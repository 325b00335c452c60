"""What a task may ask for at all."""

import pytest

from gateway.core.environment import REFUSED, matches
from manager.core.admission import KNOWN_AGENTS, REFUSED_ENV, check_env
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
