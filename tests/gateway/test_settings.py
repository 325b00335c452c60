"""Each setting from each source, and each mistake with its name."""

import re

import pytest

from gateway.core.slots import Quota
from gateway.errors import BadSettings
from gateway.settings import describe, load, parser

TOKEN = {"GATEWAY_AUTH_TOKEN": "fgh_secret"}


@pytest.fixture
def home(tmp_path):
    return tmp_path


def read(home, *argv, toml=None, mode=0o600, **env):
    if toml is not None:
        (home / "gateway.toml").write_text(toml)
        (home / "gateway.toml").chmod(mode)
    return load(argv, {"FLEETGATE_HOME": str(home), **TOKEN, **env})


def problem(home, *argv, **more):
    with pytest.raises(BadSettings) as bad:
        read(home, *argv, **more)
    return bad.value


def test_defaults_are_those_of_the_documentation(home, monkeypatch):
    monkeypatch.chdir(home)
    settings = read(home)

    assert settings.server_url == "ws://localhost:3001/agent/ws"
    assert settings.max_concurrent == 2
    assert settings.cwd == home
    assert settings.allowed_project_roots == (home,)
    assert settings.task_timeout_ms == 24 * 3_600_000
    assert settings.drain_timeout_ms == 0
    assert settings.warm_keepers == 1
    assert settings.task_env is None
    assert settings.host_id
    assert settings.home == home


def test_flags_go_before_environment_before_file(home):
    toml = 'max_concurrent = 3\nhost_id = "file"\nhost_name = "file"'

    settings = read(home, "--max-concurrent", "5", toml=toml, GATEWAY_MAX_CONCURRENT="4", GATEWAY_HOST_ID="env")

    assert (settings.max_concurrent, settings.host_id, settings.host_name) == (5, "env", "file")


def test_the_file_may_be_written_as_toml_is(home):
    settings = read(home, toml='labels = {gpu = "yes"}\nagent_env = ["A", "B_*"]\npermission_modes = ["plan"]')

    assert settings.labels == {"gpu": "yes"}
    assert settings.agent_env == ("A", "B_*")
    assert settings.permission_modes == {"plan"}


def test_lists_and_pairs_from_the_environment(home):
    (home / "a").mkdir()

    settings = read(
        home,
        GATEWAY_LABELS="os=linux, gpu=1",
        GATEWAY_ALLOWED_PROJECT_ROOTS=f"{home}/a,{home}",
        GATEWAY_TASK_ENV="TASK_*",
        GATEWAY_ONLY_AGENTS="claude-code",
        GATEWAY_DRAIN_TIMEOUT="5m",
    )

    assert settings.labels == {"os": "linux", "gpu": "1"}
    assert settings.allowed_project_roots == (home / "a", home)
    assert settings.task_env == ("TASK_*",)
    assert settings.only_agents == ("claude-code",)
    assert settings.drain_timeout_ms == 300_000


def test_an_agent_may_be_named_as_people_name_it(home):
    settings = read(home, GATEWAY_ONLY_AGENTS="claude,gemini-cli")

    assert settings.only_agents == ("claude-code", "gemini")


def test_an_agent_that_nobody_knows_is_not_silently_the_only_one(home):
    with pytest.raises(BadSettings, match="GATEWAY_ONLY_AGENTS: claud is neither"):
        read(home, GATEWAY_ONLY_AGENTS="claud")


def test_the_token_may_stand_in_a_file(home):
    (home / "token").write_text("fgh_filed\n")

    settings = load([], {"FLEETGATE_HOME": str(home), "GATEWAY_AUTH_TOKEN_FILE": str(home / "token")})

    assert settings.auth_token.value == "fgh_filed"


def test_a_token_shows_itself_to_nobody(home):
    assert "fgh_secret" not in repr(read(home))
    assert "token" not in " ".join(action.dest for action in parser()._actions)


def test_agents_of_the_owner_are_declared_in_tables(home):
    settings = read(home, toml='[agents.lint]\nargv = ["ruff", "check"]\noutput = "jsonl"')

    (agent,) = settings.command_agents
    assert (agent.name, agent.argv, agent.output) == ("lint", ("ruff", "check"), "jsonl")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("GATEWAY_SERVER_URL", "manager:3001"),
        ("GATEWAY_SERVER_URL", "ftp://x"),
        ("GATEWAY_SERVER_URL", "ws://me:pass@x"),
        ("GATEWAY_SERVER_URL", "ws://x/?token=y"),
        ("GATEWAY_HOST_ID", "a b"),
        ("GATEWAY_HOST_NAME", ""),
        ("GATEWAY_MAX_CONCURRENT", "two"),
        ("GATEWAY_MAX_CONCURRENT", "-1"),
        ("GATEWAY_CWD", "/nowhere/at/all"),
        ("GATEWAY_LABELS", "gpu"),
        ("GATEWAY_ALLOWED_PROJECT_ROOTS", "/nowhere/at/all"),
        ("GATEWAY_PERMISSION_MODES", "anything"),
        ("GATEWAY_TASK_TIMEOUT", "soon"),
        ("GATEWAY_TASK_TIMEOUT", "0"),
        ("GATEWAY_DRAIN_TIMEOUT", "-5s"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_a_wrong_value_is_named_by_its_key(home, key, value):
    assert problem(home, **{key: value}).key == key


def test_a_wrong_flag_is_named_as_a_flag(home):
    assert problem(home, "--max-concurrent", "x").key == "--max-concurrent"


@pytest.mark.parametrize("argv", [["--prot", "1"], ["--cwd"], ["--server", "ws://x"], ["extra"]])
def test_a_flag_that_is_none_is_told_in_a_sentence(home, argv):
    assert str(problem(home, *argv)).endswith("; `fleetgate gateway --help` lists them")


@pytest.mark.parametrize(
    ("toml", "key"),
    [
        ("max_concurent = 3", "max_concurent"),
        ('max_concurrent = "x"', "max_concurrent"),
        ("[agents.x]\nargv = []", "agents.x"),
        ('[agents.x]\nargv = ["a"]\nshell = true', "agents.x"),
        ('agents = ["claude"]', "agents"),
        ("not toml", "gateway.toml"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_the_file(home, toml, key):
    bad = problem(home, toml=toml)

    assert "gateway.toml" in bad.key
    assert key in bad.key


def test_a_gateway_without_a_token_says_how_to_get_one(home):
    with pytest.raises(BadSettings, match="fleetgate join"):
        load([], {"FLEETGATE_HOME": str(home)})


def test_a_token_that_others_can_read_is_refused(home):
    assert "chmod 600" in str(problem(home, toml='auth_token = "x"', mode=0o644))


def test_a_token_file_that_is_not_there_is_named(home):
    with pytest.raises(BadSettings) as bad:
        load([], {"FLEETGATE_HOME": str(home), "GATEWAY_AUTH_TOKEN_FILE": str(home / "none")})

    assert bad.value.key == "GATEWAY_AUTH_TOKEN_FILE"


def test_every_setting_is_described():
    described = describe()

    assert len({setting.env for setting in described}) == len(described)
    assert all(setting.doc.endswith((".", ")")) and setting.default for setting in described)
    assert [setting.key for setting in described if setting.secret] == ["auth_token"]
    flags = set(re.findall(r"--[a-z-]+", parser().format_help())) - {"--help", "--print-ready"}
    assert {setting.flag for setting in described if not setting.secret} <= flags


def test_an_agent_may_be_run_in_another_profile_by_any_of_its_names(home):
    assert read(home).agent_profiles == {}
    assert read(home, GATEWAY_AGENT_PROFILES="claude=oneshot").agent_profiles == {"claude-code": "oneshot"}
    assert read(home, toml='agent_profiles = {gemini = "oneshot"}').agent_profiles == {"gemini": "oneshot"}


@pytest.mark.parametrize("wrong", ["5", "-1", "many", ""])
def test_only_a_few_keepers_may_wait(home, wrong):
    assert read(home).journal_quota == Quota(share=0.1)
    assert read(home, GATEWAY_JOURNAL_QUOTA="3 GiB").journal_quota == Quota(size=3 * 2**30)
    assert [read(home, GATEWAY_CGROUPS=word).cgroups for word in ("auto", "off")] == [True, False]
    assert [read(home, GATEWAY_WARM_KEEPERS=few).warm_keepers for few in "04"] == [0, 4]

    with pytest.raises(BadSettings, match="GATEWAY_WARM_KEEPERS"):
        read(home, GATEWAY_WARM_KEEPERS=wrong)


@pytest.mark.parametrize("wrong", ["claude=telepathy", "nobody=oneshot", "claude"])
def test_a_profile_that_does_not_exist_is_refused(home, wrong):
    with pytest.raises(BadSettings, match="GATEWAY_AGENT_PROFILES"):
        read(home, GATEWAY_AGENT_PROFILES=wrong)
