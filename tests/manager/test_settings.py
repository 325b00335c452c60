"""Every wrong setting is a message that names it as the person wrote it."""

from pathlib import Path

import pytest

from manager import settings
from manager.settings import BadSettings, Settings, describe, from_process, load


def test_defaults_are_what_the_documentation_says():
    assert load({}, {}) == Settings()
    assert (Settings().host, Settings().port) == ("127.0.0.1", 3001)


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path):
    file = tmp_path / "manager.toml"
    file.write_text('port = 1\nlog_level = "debug"\ndrain_s = 1.5\norigins = ["https://a.example"]\n')
    chosen = from_process(["--config", str(file), "--port", "3"], {"MANAGER_PORT": "2", "LOG_LEVEL": "error"}).settings

    assert (chosen.port, chosen.log_level, chosen.drain_s) == (3, "error", 1.5)
    assert chosen.origins == ("https://a.example",)


def test_a_setting_can_be_read_from_a_file_that_is_named(tmp_path: Path):
    (tmp_path / "url").write_text("https://fleet.example\n")

    assert load({}, {"MANAGER_PUBLIC_URL_FILE": str(tmp_path / "url")}).public_url == "https://fleet.example"


def test_a_switch_needs_no_value():
    chosen = from_process(["--insecure-listen", "--host", "0.0.0.0", "--log-requests=no"], {}).settings

    assert (chosen.insecure_listen, chosen.host, chosen.log_requests) == (True, "0.0.0.0", False)


def test_who_waits_for_us_is_named_by_descriptor():
    assert from_process(["--print-ready", "--ready-fd", "5"], {}).ready_descriptors == [1, 5]


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({"MANAGER_PORT": "x"}, "MANAGER_PORT"),
        ({"MANAGER_PORT": "65536"}, "MANAGER_PORT"),
        ({"MANAGER_PORT": "-1"}, "MANAGER_PORT"),
        ({"MANAGER_PORT": ""}, "MANAGER_PORT"),
        ({"MANAGER_HOST": ""}, "MANAGER_HOST"),
        ({"MANAGER_HOST": "0.0.0.0"}, "MANAGER_HOST"),
        ({"MANAGER_HOST": "fleet.example"}, "MANAGER_HOST"),
        ({"MANAGER_INSECURE_LISTEN": "maybe"}, "MANAGER_INSECURE_LISTEN"),
        ({"DATABASE_URL": "postgresql://u:p@h/d"}, "DATABASE_URL"),
        ({"DATABASE_URL": "sqlite:///"}, "DATABASE_URL"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL"),
        ({"MANAGER_ORIGINS": "https://a.example/path"}, "MANAGER_ORIGINS"),
        ({"MANAGER_PUBLIC_URL": "fleet.example"}, "MANAGER_PUBLIC_URL"),
        ({"MANAGER_DRAIN_S": "0"}, "MANAGER_DRAIN_S"),
        ({"MANAGER_DRAIN_S": "nan"}, "MANAGER_DRAIN_S"),
        ({"MANAGER_HOST_TTL_S": "10"}, "MANAGER_HOST_TTL_S"),
        ({"MANAGER_HEARTBEAT_S": "0.1", "MANAGER_HOST_TTL_S": "2"}, "MANAGER_HOST_TTL_S"),
        ({"MANAGER_PORT_FILE": "/nowhere/at/all"}, "MANAGER_PORT_FILE"),
    ],
)
def test_a_wrong_value_in_the_environment_names_its_variable(environ: dict[str, str], key: str):
    with pytest.raises(BadSettings) as caught:
        load({}, environ)

    assert str(caught.value).startswith(f"{key}: ")


def test_a_secret_in_a_wrong_database_url_is_not_repeated():
    with pytest.raises(BadSettings) as caught:
        load({}, {"DATABASE_URL": "postgresql://u:hush@h/d"})

    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["--port", "x"], "--port"),
        (["--prot", "1"], "flags"),
        (["--port"], "flags"),
        (["--config", "/nowhere"], "--config"),
        (["extra"], "flags"),
    ],
)
def test_a_wrong_flag_is_named(arguments: list[str], key: str):
    with pytest.raises(BadSettings) as caught:
        from_process(arguments, {})

    assert str(caught.value).startswith(f"{key}: ")
    assert key != "flags" or str(caught.value).endswith("; `fleetgate manager --help` lists them")


@pytest.mark.parametrize("text", ["prot = 1", "port = 'x'", "port = true", "[port]\na = 1", "not toml", "port = 1.5"])
def test_a_wrong_file_is_named(tmp_path: Path, text: str):
    file = tmp_path / "m.toml"
    file.write_text(text)
    with pytest.raises(BadSettings) as caught:
        load({}, {}, str(file))

    assert str(file) in str(caught.value)


def test_every_setting_is_described():
    rows = describe()

    assert [row.key for row in rows] == list(Settings.__struct_fields__)
    assert all(row.doc and row.env and row.flag.startswith("--") for row in rows)
    assert len({row.env for row in rows}) == len(rows)


def test_help_names_every_setting():
    text = settings.parser().format_help()

    assert all(row.env in text and row.flag in text for row in describe())
