"""What was confirmed is there, however the manager ended."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from manager.storage.sqlite import SqliteStore
from tests.contracts.making import T0, whole_log

ROOT = Path(__file__).parents[3]

SCRIPT = """
import pathlib, sys
import anyio
from manager.storage.sqlite import SqliteStore
from tests.contracts.making import T0, submit

async def ask(store):
    while True:
        print((await submit(store, prompt="x" * 3_000)).id, flush=True)

async def main():
    store = await SqliteStore.open(pathlib.Path(sys.argv[1]), now=T0)
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(ask, store)

anyio.run(main)
"""


@pytest.mark.parametrize("confirmed", [1, 40, 300])
async def test_a_killed_manager_forgets_nothing_it_confirmed(path: Path, confirmed: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        names = [process.stdout.readline().strip() for _ in range(confirmed)]
    finally:
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=10)
    names += [name for name in rest.splitlines() if name]

    async with await SqliteStore.open(path, now=T0) as store:
        for name in names:
            task = await store.task(name)
            assert task.status == "queued"
            assert await whole_log(store, task.session_id) == [(1, "status")]
        assert (await store.counts())["queued"] >= len(names) >= confirmed
