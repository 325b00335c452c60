"""Each contract test runs once for each adapter."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from manager.ports import Store
from manager.storage.sqlite import SqliteStore
from tests.contracts.making import Place, closing


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["sqlite"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """Where the adapter's store lives; open it again to see what is durable."""
    openers = {"sqlite": lambda now: SqliteStore.open(tmp_path / "data" / "fleetgate.db", now=now)}
    async with closing(Place(openers[request.param])) as place:
        yield place


@pytest.fixture
async def store(place: Place) -> Store:
    return await place.open()
