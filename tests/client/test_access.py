"""Where the manager and the token come from, and what is kept in files."""

import stat
from pathlib import Path

import pytest

from client.access import find_access, keep_access, make_home, normal_url, read_toml, set_keys, write_secret
from client.errors import BadConfig, BadUsage

KEPT = "https://kept.example"


def environ(home: Path, **more: str) -> dict[str, str]:
    return {"FLEETGATE_HOME": str(home), **more}


@pytest.fixture
def kept(home: Path) -> Path:
    keep_access(home, KEPT, "fgp_kept")
    return home


def test_without_anything_it_is_this_machine_and_there_is_no_token(home: Path):
    found = find_access(environ=environ(home))

    assert (found.url, found.token, found.token_from) == ("http://127.0.0.1:3001", None, "none")


def test_flag_goes_before_environment_before_file(kept: Path):
    file = find_access(environ=environ(kept))
    said = find_access(environ=environ(kept, FLEETGATE_URL="env.example", FLEETGATE_TOKEN="t"))
    flag = find_access("flag.example", environ(kept, FLEETGATE_URL="env.example"))

    assert (file.url, file.token) == (KEPT, "fgp_kept")
    assert (said.url, said.token, said.token_from) == ("http://env.example", "t", "FLEETGATE_TOKEN")
    assert (flag.url, flag.url_from) == ("http://flag.example", "--url")


def test_the_kept_token_goes_to_the_kept_address_and_nowhere_else(kept: Path):
    assert find_access("https://other.example", environ(kept)).token is None
    assert find_access(KEPT + "/", environ(kept)).token == "fgp_kept"


def test_a_token_may_come_from_a_file(home: Path, tmp_path: Path):
    (tmp_path / "token").write_text("fgp_x\n")

    assert find_access(environ=environ(home, FLEETGATE_TOKEN_FILE=str(tmp_path / "token"))).token == "fgp_x"


def test_a_token_file_that_is_not_there_is_named(home: Path):
    with pytest.raises(BadConfig, match="FLEETGATE_TOKEN_FILE"):
        find_access(environ=environ(home, FLEETGATE_TOKEN_FILE="/nowhere/token"))


def test_a_file_that_is_not_toml_is_named(home: Path):
    home.mkdir()
    (home / "client.toml").write_text("url = ")

    with pytest.raises(BadConfig, match=r"client\.toml is not TOML"):
        find_access(environ=environ(home))


@pytest.mark.parametrize("text", ["http://u:p@host", "ftp://host", "http://host/?token=x", "http://", "http://h:x"])
def test_what_is_no_address_is_refused(text: str):
    with pytest.raises(BadUsage):
        normal_url(text)


def test_an_ipv6_address_keeps_its_brackets():
    assert normal_url("http://[::1]:3001/") == "http://[::1]:3001"


def test_what_is_kept_is_for_its_owner_alone(home: Path):
    file = keep_access(home, KEPT, "secret")

    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_toml(file) == {"url": KEPT, "token": "secret"}


def test_an_open_home_is_closed(home: Path):
    home.mkdir(mode=0o755)
    make_home(home)

    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_home_that_cannot_be_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")

    with pytest.raises(BadConfig, match="cannot be used"):
        make_home(tmp_path / "file" / "home")


def test_writing_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path):
    file = tmp_path / "secret"
    file.write_text("old")
    file.chmod(0o644)
    write_secret(file, "new")

    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_other_keys_comments_and_tables_stay():
    text = '# mine\nmax_concurrent = 3\nhost_id = "old"\n\n[agents.x]\nargv = ["a"]\nhost_id = "not this"\n'

    edited = set_keys(text, {"host_id": "new", "auth_token": 'odd "quotes" \\ \x7f ü'})

    assert edited.startswith("# mine\n")
    assert 'host_id = "new"\n' in edited
    assert '[agents.x]\nargv = ["a"]\nhost_id = "not this"\n' in edited


def test_a_file_that_cannot_be_edited_without_harm_is_left_alone():
    with pytest.raises(BadConfig, match="without harm"):
        set_keys('note = """\nurl = old\n"""\n', {"url": "new"})
