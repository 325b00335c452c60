from collections.abc import Callable

import anyio
import pytest

from manager.bus.local import LocalBus
from manager.runtime.doors import DRAIN, REVOKED, Doors


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def nothing() -> None:
    raise AssertionError("nobody was to be cut")


async def wait_for(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(5):
        while not condition():  # noqa: ASYNC110  # sweeping is what is tested
            await anyio.sleep(0.005)


async def test_everybody_inside_is_woken_and_asked_to_leave():
    bus = LocalBus()
    doors = Doors(bus)
    with doors.enter("tok", "sse", nothing) as visit:
        async with bus.subscribe(visit.topic) as wakeups:
            doors.drain()
            woken = await wakeups.wait(1)

    assert (woken, visit.leaving) == (True, DRAIN)
    with anyio.fail_after(1):
        await doors.wait_empty()


async def test_who_comes_while_it_drains_is_asked_to_leave_at_once():
    doors = Doors(LocalBus())
    doors.drain()
    with doors.enter("tok", "sse", nothing) as visit:
        assert visit.leaving == DRAIN


async def test_only_who_came_with_a_revoked_token_is_put_out():
    doors = Doors(LocalBus())
    with doors.enter("tok_1", "sse", nothing) as one, doors.enter("tok_2", "ws", nothing) as other:
        doors.put_out("tok_1")

        assert (one.leaving, other.leaving) == (REVOKED, None)
        assert (doors.inside("sse"), doors.inside("ws")) == (1, 1)
    assert (doors.inside("sse"), doors.inside("ws")) == (0, 0)


async def test_only_who_takes_nothing_for_too_long_is_cut_and_once():
    cut: list[str] = []
    doors = Doors(LocalBus(), sweep_s=0.02, send_timeout_s=0.05)
    async with anyio.create_task_group() as group:
        group.start_soon(doors.run)
        with (
            doors.enter("a", "sse", lambda: cut.append("stuck")) as stuck,
            doors.enter("b", "sse", lambda: cut.append("idle")) as idle,
            stuck,
        ):
            await wait_for(lambda: stuck.is_cut)
            swept = stuck.swept
            await wait_for(lambda: stuck.swept > swept + 2 and idle.swept > 2)
        group.cancel_scope.cancel()

    assert cut == ["stuck"]
    assert doors.cut_total == 1
