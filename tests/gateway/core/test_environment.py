"""Nothing dangerous gets in, nothing of ours gets out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.environment import OURS, REFUSED, build, check, matches, of_host
from gateway.errors import CannotRun


@pytest.mark.parametrize(
    "name",
    [
        *("LD_PRELOAD", "LD_LIBRARY_PATH", "PATH", "HOME", "PYTHONPATH", "PYTHONSTARTUP", "NODE_OPTIONS", "BASH_ENV"),
        *("ENV", "GIT_SSH_COMMAND", "GIT_CONFIG_GLOBAL", "ANTHROPIC_BASE_URL", "OPENAI_BASE_URL", "http_proxy"),
        *("HTTPS_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "TMPDIR", "XDG_CONFIG_HOME", "IFS"),
        *("CLAUDE_CONFIG_DIR", "OPENCODE_CONFIG_CONTENT", "GEMINI_CLI_TRUST_WORKSPACE", "GATEWAY_AUTH_TOKEN"),
        *("AWS_ENDPOINT_URL_BEDROCK", "ANTHROPIC_UNIX_SOCKET", "GCE_METADATA_HOST", "AZURE_AUTHORITY_HOST"),
        *("AWS_CONFIG_FILE", "RIPGREP_CONFIG_PATH", "MAKEFLAGS", "DOTNET_STARTUP_HOOKS", "TAR_OPTIONS"),
        *("SELF_HOSTED_RUNNER_HOOKS_DIR", "GEMINI_SYSTEM_MD", "GEMINI_WRITE_SYSTEM_MD", "SANDBOX_FLAGS"),
        *("FLEETGATE_HOME", "PERL5OPT", "RUBYOPT", "JAVA_TOOL_OPTIONS", "SSH_AUTH_SOCK", "EDITOR", "IS_SANDBOX"),
        "PIP_INDEX_URL",
    ],
)
def test_a_task_may_not_set_names_that_change_what_is_run_or_trusted(name):
    with pytest.raises(CannotRun, match=name) as refused:
        check({name: "x"}, None)

    assert refused.value.reason == "env_not_allowed"


@pytest.mark.parametrize("name", ["", "A=B", "1A", "A B", "Ä", "A\0", "A" * 200])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(CannotRun, match="not a name"):
        check({name: "x"}, None)


def test_a_value_with_a_nul_is_refused():
    with pytest.raises(CannotRun, match="NUL"):
        check({"A": "x\0y"}, None)


def test_a_task_may_set_other_names():
    check({"DEPLOY_TARGET": "staging", "ANTHROPIC_API_KEY": "k", "DEBUG": "", "DB_HOST": "db"}, None)
    check({"AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "a", "GEMINI_API_KEY": "g"}, None)


def test_a_host_may_allow_only_a_list():
    check({"TASK_ID": "1"}, ("TASK_*",))

    with pytest.raises(CannotRun, match="DEBUG"):
        check({"DEBUG": "1"}, ("TASK_*",))


def test_a_hosts_list_does_not_lift_what_is_refused_everywhere():
    with pytest.raises(CannotRun):
        check({"LD_PRELOAD": "x"}, ("*",))


def test_an_agent_sees_base_names_and_allowed_names_and_nothing_else():
    host = {"PATH": "/bin", "LC_ALL": "C", "API_KEY": "k", "AWS_SECRET": "s", "GATEWAY_AUTH_TOKEN": "t"}

    assert of_host(host, ["API_*"]) == {"PATH": "/bin", "LC_ALL": "C", "API_KEY": "k"}


@given(st.dictionaries(st.sampled_from(["GATEWAY_AUTH_TOKEN", "FLEETGATE_X", "JWT_SECRET", "OK"]), st.text()))
def test_nothing_of_ours_is_passed_on_even_when_everything_is_allowed(host):
    assert not any(matches(name, OURS) for name in of_host(host, ["*"]))


def test_the_agent_kind_has_the_last_word_and_the_task_the_word_before():
    env = build({"PATH": "/bin", "A": "host"}, {"A": "task", "B": "task"}, {"B": "kind", "TERM": "xterm"}, "/tmp/x")

    assert env == {
        **{"PATH": "/bin", "A": "task", "B": "kind"},
        **{"CI": "1", "NO_COLOR": "1", "TERM": "xterm", "TMPDIR": "/tmp/x"},
    }


def test_every_name_of_ours_is_refused_from_a_task():
    assert set(OURS) <= set(REFUSED)
