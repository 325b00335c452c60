"""A gateway that stands still for longer than its lease: its task goes elsewhere, and nothing of it runs twice."""

import json
from pathlib import Path

import pytest

from e2e.chaos.world import a_world, figures, time_of_day
from e2e.harness import until

pytestmark = pytest.mark.timeout(240)

TTL_S, GRACE_S, KILL_BUDGET_S = 5, 2, 15


async def test_a_host_that_was_frozen_beyond_its_lease_ends_its_agent_before_another_host_starts_it(tmp_path: Path):
    """Fault 6. The gateway stands still, its keeper ends the agent, the manager takes the task for lost and somebody
    retries it; what the first gateway has to say when it moves again changes nothing.
    """
    settings = {"MANAGER_HEARTBEAT_S": "1", "MANAGER_HOST_TTL_S": str(TTL_S), "MANAGER_HOST_GRACE_S": str(GRACE_S)}
    async with a_world(tmp_path, manager_env=settings) as world:
        first = world.host
        task = await world.submit("lines --count 100000 --rate 20")
        await world.wait_signed(task["id"])
        attempt = first.attempt_of(task["id"])
        assert attempt is not None
        first.freeze()
        frozen_at = time_of_day()
        await until((attempt / "exit.json").exists, 60, "its keeper has ended the agent", every_s=0.01)
        ended = json.loads((attempt / "exit.json").read_text())
        lost = await world.api.wait_final(task["id"], within_s=90)
        lost_at = time_of_day()
        await world.add_host("h2")
        await world.api.json("POST", f"/api/tasks/{task['id']}/retry", status=202)
        await until(lambda: len(world.signed(task["id"])) == 2, 60, "it runs elsewhere")
        first.thaw()
        await world.api.wait_host("h1")
        await until(lambda: not first.attempts(), 60, "the first host has let go of it")
        again = await world.api.task(task["id"])
        await world.api.abort(task["id"])
        await world.api.wait_final(task["id"])

    assert (lost["status"], lost["reason"]) == ("lost", "host_lost")
    assert ended["facts"]["stop"] == "lease_expired"
    assert ended["at"] / 1000 - frozen_at <= TTL_S + GRACE_S + KILL_BUDGET_S
    assert ended["at"] / 1000 < lost_at
    assert (again["status"], again["hostId"], again["attempt"]) == ("running", "h2", 2)
    figures("frozen gateway, seconds after it froze", ended=ended["at"] / 1000 - frozen_at, lost=lost_at - frozen_at)
