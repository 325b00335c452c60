"""Fixtures for tests with real processes; see harness.py."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from e2e.crew import Crew, a_crew
from e2e.harness import Gateway, Manager, start_gateway, start_manager


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[Manager]:
    """A manager of its own for this test."""
    async with start_manager(tmp_path / "manager") as started:
        yield started


@pytest.fixture
async def gateway(manager: Manager, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway, `h1`, connected to `manager`."""
    async with start_gateway(manager, tmp_path / "h1", host_id="h1") as started:
        yield started


@pytest.fixture(scope="module")
async def crew(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Crew]:
    """One manager, one gateway and one model for all the tests of a file, with the three real agents."""
    async with a_crew(tmp_path_factory.mktemp("crew")) as started:
        yield started
