"""Everything is killed, again and again, while tasks come in: the promises hold together, not only one by one."""

import json
import os
import signal
import time
from pathlib import Path

import anyio
import httpx
import pytest

from e2e.chaos.world import Life, World, a_world, figures, is_whole, lasting, numbered, said
from e2e.harness import FINAL, Json, until, wait_ready

pytestmark = pytest.mark.timeout(900)

HOSTS = 3
LINES = 40


async def submit_surely(world: World, number: int) -> str:
    """As a careful client does it: with a key, again until it is answered."""
    body = {"prompt": f"lines --count {LINES} --rate 40 --code 3\n", "agentType": "fake"}
    while True:
        try:
            answer = await world.api.http.post("/api/tasks", json=body, headers={"Idempotency-Key": f"n{number}"})
        except httpx.HTTPError:
            await anyio.sleep(0.05)  # nobody there
            continue
        if answer.status_code in (200, 201):
            return str(answer.json()["id"])
        await anyio.sleep(0.05)


async def end_of(world: World, task_id: str) -> Json:
    task = await world.api.task(task_id)

    async def has_ended() -> bool:
        task.update(await world.api.task(task_id))
        return task["status"] in FINAL

    await until(has_ended, 90, f"{task_id} has ended: {task}\n{world.signed(task_id)}", every_s=0.1)
    return task


class Storm:
    """Kills at random moments, also what has hardly begun, and starts it again."""

    def __init__(self, world: World) -> None:
        self.kills = {"gateway": 0, "manager": 0, "keeper": 0}
        self.without_keeper: set[str] = set()  # tasks whose keeper was killed
        self._world = world

    async def over(self, life: Life, most_s: float) -> None:
        while True:
            await anyio.sleep(self._world.chance.uniform(0.0, most_s))  # the random moment
            with anyio.CancelScope(shield=True):
                await life.kill()
                self.kills[life.argv[0]] += 1
                await life.start(wait=False)

    async def over_keepers(self, most_s: float) -> None:
        while True:
            await anyio.sleep(self._world.chance.uniform(0.0, most_s))  # the random moment
            paths = [path for host in self._world.hosts.values() for path in host.attempts().values()]
            if paths:
                self._kill_keeper(self._world.chance.choice(paths))

    def _kill_keeper(self, path: Path) -> None:
        """Unless there is none: not yet, or not any more."""
        try:
            task_id = json.loads((path / "task.json").read_text())["taskId"]
            pid = json.loads((path / "state.json").read_text())["pid"]
            handle = os.pidfd_open(pid)
            is_keeper = b"/keeper/" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return
        if is_keeper:
            self.without_keeper.add(task_id)
            self.kills["keeper"] += 1
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)

    async def calm(self) -> None:
        for life in (self._world.manager, *self._world.hosts.values()):
            assert life.program is not None
            await wait_ready(life.program, 60)


async def test_every_task_runs_exactly_once_through_a_storm_of_kills(tmp_path: Path):
    """Faults 1 to 5 at once, on three hosts: every task that was answered ends; it was started exactly once, its log
    is whole, its exit code kept. Only a task whose keeper was killed may be `lost`, and says so.
    """
    count = lasting(12, 200)
    async with a_world(tmp_path, hosts=HOSTS, slots=4) as world:
        storm = Storm(world)
        began = time.monotonic()
        async with anyio.create_task_group() as group:
            for host in world.hosts.values():
                group.start_soon(storm.over, host, 3.0)
            group.start_soon(storm.over, world.manager, 6.0)
            group.start_soon(storm.over_keepers, 4.0)
            tasks = []
            for number in range(count):
                tasks.append(await submit_surely(world, number))
                await anyio.sleep(0.25)  # so that they come all the time
            group.cancel_scope.cancel()
        await storm.calm()
        ends = [await end_of(world, task_id) for task_id in tasks]
        took = time.monotonic() - began
        logs = {task_id: await world.api.events(task_id) for task_id in tasks}

    for end in ends:
        task_id = end["id"]
        assert is_whole([event["id"] for event in logs[task_id]]), end
        if task_id in storm.without_keeper and end["status"] == "lost":
            assert end["reason"] == "supervisor_died", end
            continue
        assert (end["status"], end["result"]["exitCode"]) == ("failed", 3), end
        assert said(logs[task_id]) == numbered(LINES), end
        assert len(world.signed(task_id)) == 1, end
    lost = sum(end["status"] == "lost" for end in ends)
    figures("storm", tasks=count, **storm.kills, lost=lost, attempts=sum(end["attempt"] for end in ends), took_s=took)
