"""The SQLite store's own fixtures."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from manager.storage.sqlite import SqliteStore
from tests.contracts.making import T0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "fleetgate.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    async with await SqliteStore.open(path, now=T0) as store:
        yield store
