"""Fixtures for tests that break a world; see world.py."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from e2e.chaos.world import World, a_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A manager and one host, `h1`, with eight places."""
    async with a_world(tmp_path) as started:
        yield started
