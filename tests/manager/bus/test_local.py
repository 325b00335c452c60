"""A wake-up is never lost to one who subscribed before looking."""

import anyio

from manager.bus.local import LocalBus
from manager.ports import Bus


async def test_what_was_published_before_the_wait_ends_it_at_once() -> None:
    bus: Bus = LocalBus()
    async with bus.subscribe("queue", "fleet") as wakeups:
        bus.publish("fleet")

        assert await wakeups.wait(60) is True


async def test_a_wake_up_is_used_up_by_one_wait() -> None:
    bus = LocalBus()
    async with bus.subscribe("queue") as wakeups:
        bus.publish("queue")
        bus.publish("queue")
        await wakeups.wait(60)

        assert await wakeups.wait(0.001) is False


async def test_a_waiter_wakes_when_its_topic_is_published_and_not_for_another() -> None:
    bus = LocalBus()
    woken: list[str] = []

    async def reader(topic: str) -> None:
        async with bus.subscribe(topic) as wakeups:
            ready.set()
            if await wakeups.wait(60):
                woken.append(topic)

    async with anyio.create_task_group() as group:
        for topic in ("a", "b"):
            ready = anyio.Event()
            group.start_soon(reader, topic)
            await ready.wait()
        bus.publish("a")
        await anyio.wait_all_tasks_blocked()

        assert woken == ["a"]
        bus.publish("b")

    assert woken == ["a", "b"]


async def test_a_cancelled_wait_keeps_the_wake_up_for_the_next_one() -> None:
    bus = LocalBus()
    async with bus.subscribe("a") as wakeups:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await wakeups.wait(60)
        bus.publish("a")

        assert await wakeups.wait(60) is True


async def test_topics_without_readers_are_forgotten() -> None:
    bus = LocalBus()
    async with bus.subscribe("a", "b"):
        pass

    bus.publish("a")

    assert repr(bus) == "<LocalBus topics=0>"
