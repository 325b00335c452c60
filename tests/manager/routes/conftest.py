"""A manager's edge for each test; see world.py."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.manager.routes.world import World, world


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def w(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


@pytest.fixture
async def c(w: World) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a personal token."""
    async with w.client() as client:
        yield client
