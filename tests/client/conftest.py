"""For the client's tests: nothing of this machine's own settings is seen, and a manager to speak to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.fake_api import FakeApi


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home of its own, which is not there yet."""
    for name in (
        "FLEETGATE_URL",
        "FLEETGATE_TOKEN",
        "FLEETGATE_TOKEN_FILE",
        "MANAGER_PORT",
        "MANAGER_HOST",
        "NO_COLOR",
    ):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    monkeypatch.setenv("FLEETGATE_HOME", str(home))
    return home


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    """A manager that commands find by themselves, with a token it does not look at."""
    with FakeApi() as api:
        monkeypatch.setenv("FLEETGATE_URL", api.url)
        monkeypatch.setenv("FLEETGATE_TOKEN", "fgp_test")
        yield api
