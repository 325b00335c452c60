"""Store, tasks: asking, finding, listing, and what becomes of them."""

from typing import Any

import anyio
import pytest

from manager.core.lifecycle import Cause
from manager.core.tasks import Change
from manager.errors import Conflict, Invalid, NotFound, Refused, TooMany
from manager.ports import Store, TaskQuery, Verdict
from shared_types.tasks import TaskResult, TaskState
from tests.contracts.making import (
    HOUR,
    T0,
    Place,
    a_task,
    bodies,
    claim,
    claim_one,
    connect,
    report,
    start,
    submit,
    take,
    told,
    whole_log,
)


def code(caught: pytest.ExceptionInfo[Refused]) -> str:
    return caught.value.code


async def test_a_new_task_is_queued_and_says_so_in_its_log(store: Store) -> None:
    task = await submit(store, "task_a", session="sess_a", prompt="do it", priority=3, env={"TOKEN": "s3cret"})

    assert (task.id, task.status, task.prompt, task.priority) == ("task_a", TaskState.QUEUED, "do it", 3)
    assert task.deadline_at == T0 + HOUR
    assert task.env == {"TOKEN": "***"}
    assert await store.task("task_a") == task
    assert await whole_log(store, "sess_a") == [(1, "status")]
    assert (await store.counts())[TaskState.QUEUED] == 1


async def test_what_was_accepted_is_there_after_a_restart(place: Place) -> None:
    store = await place.open()
    host = await connect(store)
    ended = await submit(store, prompt="first \N{SNOWMAN}")
    running = await submit(store, prompt="second")
    queued = await submit(store, prompt="third")
    await take(store, report(await start(store, host), host, Cause.SUCCEEDED, result=TaskResult(success=True)))
    await take(store, report(await start(store, host), host, span=(1, 2), events=bodies(1, 3)))
    before = [await store.task(task.id) for task in (ended, running, queued)]
    log = await whole_log(store, running.session_id)
    epoch = store.epoch

    store = await place.open(T0 + 1_000)

    after = [await store.task(task.id) for task in (ended, running, queued)]
    assert (after[0], after[2]) == (before[0], before[2])
    assert store.epoch == epoch
    assert await whole_log(store, running.session_id) == [*log, (len(log) + 1, "status")]
    assert after[1].status is TaskState.RUNNING
    assert after[1].disconnected_since == T0 + 1_000
    assert (await store.counts())[TaskState.QUEUED] == 1
    assert [wish.agent for wish in (await store.requirements()).values()] == ["command"]


async def test_no_task_of_that_name(store: Store) -> None:
    with pytest.raises(NotFound) as caught:
        await store.task("task_nobody")

    assert code(caught) == "NO_SUCH_TASK"


async def test_an_equal_idempotency_key_gives_the_old_task(place: Place) -> None:
    store = await place.open()
    first, _ = await store.add(a_task("task_a", key="k"), max_queued=10)
    again, is_new = await store.add(a_task("task_b", key="k"), max_queued=10)
    await place.open()

    store = await place.open()
    later, is_new_later = await store.add(a_task("task_c", key="k"), max_queued=10)

    assert (again, is_new) == (first, False)
    assert (later, is_new_later) == (first, False)
    assert (await store.counts())[TaskState.QUEUED] == 1


async def test_two_requests_of_one_key_at_once_make_one_task(store: Store) -> None:
    answers: dict[str, tuple[Any, bool]] = {}

    async def ask(name: str) -> None:
        answers[name] = await store.add(a_task(name, key="k"), max_queued=10)

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(ask, f"task_{number}")

    assert sorted(is_new for _, is_new in answers.values()) == [False] * 4 + [True]
    assert len({task.id for task, _ in answers.values()}) == 1


async def test_an_idempotency_key_is_not_for_two_different_requests(store: Store) -> None:
    await store.add(a_task(key="k", prompt="one"), max_queued=10)

    with pytest.raises(Conflict) as caught:
        await store.add(a_task(key="k", prompt="two"), max_queued=10)

    assert code(caught) == "IDEMPOTENCY_MISMATCH"


async def test_idempotency_keys_belong_to_whoever_asks(store: Store) -> None:
    await store.add(a_task(key="k", actor="alice"), max_queued=10)

    _, is_new = await store.add(a_task(key="k", actor="bob"), max_queued=10)

    assert is_new


async def test_a_full_queue_refuses_the_next_task_and_no_repeat(store: Store) -> None:
    await store.add(a_task(key="k"), max_queued=2)
    await store.add(a_task(), max_queued=2)

    with pytest.raises(TooMany) as caught:
        await store.add(a_task(), max_queued=2)
    _, is_new = await store.add(a_task(key="k"), max_queued=2)

    assert code(caught) == "QUEUE_FULL"
    assert not is_new
    assert (await store.counts())[TaskState.QUEUED] == 2


async def test_tasks_of_one_session_share_its_log(store: Store) -> None:
    one = await submit(store, session="sess_shared")
    two = await submit(store, session="sess_shared")

    assert (one.first_event_id, one.last_event_id) == (1, 1)
    assert (two.first_event_id, two.last_event_id) == (2, 2)
    assert await whole_log(store, "sess_shared") == [(1, "status"), (2, "status")]


# --- finding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["task_abc1", "abc1", "abc12", "task_abc12"])
async def test_a_task_is_found_by_the_beginning_of_its_name(place: Place, prefix: str) -> None:
    store = await place.open()
    await submit(store, "task_abc12")
    await submit(store, "task_abd12")

    assert await store.find(prefix) == "task_abc12"
    assert await (await place.open()).find(prefix) == "task_abc12"


async def test_a_whole_name_wins_over_longer_ones(store: Store) -> None:
    await submit(store, "task_a")
    await submit(store, "task_ab")

    assert await store.find("a") == "task_a"


async def test_a_beginning_that_fits_several_is_refused(store: Store) -> None:
    await submit(store, "task_a1")
    await submit(store, "task_a2")

    with pytest.raises(Conflict) as caught:
        await store.find("a")

    assert code(caught) == "AMBIGUOUS_ID"


@pytest.mark.parametrize("prefix", ["", "b", "task_b", "a%", "a_", "*"])
async def test_a_beginning_that_fits_none_is_not_found(store: Store, prefix: str) -> None:
    await submit(store, "task_a1")

    with pytest.raises(NotFound) as caught:
        await store.find(prefix)

    assert code(caught) == "NO_SUCH_TASK"


# --- lists --------------------------------------------------------------------------------------------


async def ids(store: Store, **conditions: Any) -> list[str]:
    return [task.id for task in (await store.tasks(TaskQuery(**conditions))).items]


async def test_lists_are_newest_first_and_come_in_pages(store: Store) -> None:
    names = [(await submit(store)).id for _ in range(5)]

    first = await store.tasks(TaskQuery(limit=2))
    second = await store.tasks(TaskQuery(limit=2, cursor=first.next_cursor))
    newer = await submit(store)
    third = await store.tasks(TaskQuery(limit=2, cursor=second.next_cursor))

    found = [task.id for page in (first, second, third) for task in page.items]
    assert found == names[::-1]
    assert newer.id not in found
    assert third.next_cursor is None


async def test_a_page_that_is_just_full_is_the_last(store: Store) -> None:
    await submit(store)
    await submit(store)

    assert (await store.tasks(TaskQuery(limit=2))).next_cursor is None


@pytest.mark.parametrize("cursor", ["", "x", "!!!", "LTE", "\N{SNOWMAN}", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5"])
async def test_a_cursor_of_others_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(Invalid) as caught:
        await store.tasks(TaskQuery(cursor=cursor))

    assert (code(caught), caught.value.field) == ("BAD_CURSOR", "cursor")


async def test_lists_are_filtered_by_every_condition(store: Store) -> None:
    h1, h2 = await connect(store, "h1", "command"), await connect(store, "h2", "other")
    one = await submit(store, agent_type="command", metadata={"team": "red"}, prompt="Fix the BUG")
    two = await submit(store, agent_type="other", metadata={"team": "blue", "red": "team"}, session="sess_x")
    three = await submit(store, agent_type="command", session="sess_x")
    await claim_one(store, h2)
    (claimed,) = await claim(store, h1, slots=1)
    assert claimed.record.id == one.id

    assert await ids(store, host_id="h1") == [one.id]
    assert await ids(store, agent="other") == [two.id]
    assert await ids(store, session_id="sess_x") == [three.id, two.id]
    assert await ids(store, session_id="sess_none") == []
    assert await ids(store, label=("team", "red")) == [one.id]
    assert await ids(store, text="the bug") == [one.id]
    assert await ids(store, text="100% 'quoted\"") == []
    assert await ids(store, statuses=frozenset({TaskState.QUEUED})) == [three.id]
    assert await ids(store, statuses=frozenset({TaskState.ASSIGNED})) == [two.id, one.id]
    assert await ids(store, statuses=frozenset({TaskState.QUEUED, TaskState.ASSIGNED})) == [three.id, two.id, one.id]
    assert await ids(store, statuses=frozenset({TaskState.ASSIGNED}), host_id="h2", agent="other") == [two.id]
    assert await ids(store, statuses=frozenset({TaskState.LOST})) == []


async def test_lists_cut_long_prompts_and_a_task_alone_does_not(store: Store) -> None:
    task = await submit(store, prompt="\N{SNOWMAN}" * 5_000)

    (listed,) = (await store.tasks(TaskQuery())).items

    assert listed.prompt == "\N{SNOWMAN}" * 1_000
    assert (await store.task(task.id)).prompt == "\N{SNOWMAN}" * 5_000


# --- what becomes of them -----------------------------------------------------------------------------


async def test_a_life_from_queued_to_completed(place: Place) -> None:
    store = await place.open()
    host = await connect(store)
    task = await submit(store, session="sess_a")
    record = await start(store, host)
    await take(store, report(record, host, span=(1, 2), events=bodies(1, 2)))
    result = TaskResult(success=True, exit_code=0, output="hello")
    taken = await told(
        store, report(record, host, Cause.SUCCEEDED, span=(3, 3), events=bodies(3, 3), result=result, now=T0 + 9)
    )

    ended = await store.task(task.id)
    assert (ended.status, ended.result, ended.ended_at, ended.deadline_at) == (
        TaskState.COMPLETED,
        result,
        T0 + 9,
        None,
    )
    assert [event.id for event in taken.events] == [6, 7]
    assert [event.attempt for event in taken.events] == [1, 0]
    assert (ended.first_event_id, ended.last_event_id) == (1, 7)
    kinds = ["status", "status", "status", "log", "log", "log", "status"]
    assert await whole_log(store, "sess_a") == list(enumerate(kinds, 1))
    assert await whole_log(await place.open(), "sess_a") == list(enumerate(kinds, 1))
    assert await (await place.open()).task(task.id) == ended


async def test_one_refused_change_does_not_hinder_the_others(store: Store) -> None:
    host = await connect(store)
    one, two = await submit(store), await submit(store)

    taken = await store.change(
        [
            Change(task_id=one.id, now=T0, cause=Cause.STARTED),
            Change(task_id="task_nobody", now=T0, cause=Cause.ABORT),
            Change(task_id=two.id, now=T0, cause=Cause.ABORT),
            Change(task_id=two.id, now=T0, cause=Cause.RETRY),
        ]
    )

    verdicts = [result.verdict for result in taken]
    assert verdicts == [Verdict.ILLEGAL, Verdict.UNKNOWN, Verdict.TAKEN, Verdict.TAKEN]
    assert (await store.task(one.id)).rv == 1
    assert (await store.task(two.id)).status is TaskState.QUEUED
    assert len(await claim(store, host)) == 2


async def test_a_change_that_changes_nothing_writes_nothing(store: Store) -> None:
    host = await connect(store)
    task = await submit(store)
    record = await start(store, host)
    before = await store.task(task.id)

    taken = await told(store, report(record, host, Cause.STARTED))

    assert (taken.verdict, taken.events, taken.status_changed) == (Verdict.TAKEN, (), False)
    assert await store.task(task.id) == before


async def test_a_retry_is_a_new_attempt_with_everything_forgotten_but_the_wish(store: Store) -> None:
    host = await connect(store)
    task = await submit(store)
    record = await start(store, host)
    await take(store, report(record, host, Cause.FAILED, span=(1, 4), reason="no_result"))

    await take(store, Change(task_id=task.id, now=T0 + 5 * HOUR, cause=Cause.RETRY))

    waiting = await store.task(task.id)
    assert (waiting.status, waiting.reason, waiting.deadline_at) == (TaskState.QUEUED, None, T0 + 6 * HOUR)
    again = await start(store, host, now=T0 + 5 * HOUR)
    assert (again.attempt, again.heard) == (2, 0)
    assert again.uid != record.uid


async def test_values_of_the_environment_are_there_for_as_long_as_the_task_may_run_again(place: Place) -> None:
    store = await place.open()
    host = await connect(store)
    task = await submit(store, env={"TOKEN": "s3cret"})
    await take(store, report(await start(store, host), host, Cause.FAILED))
    await told(store, Change(task_id=task.id, now=T0, cause=Cause.RETRY))
    store = await place.open()
    host = await connect(store)
    again = await claim_one(store, host)
    accepted = await take(store, report(again.record, host, Cause.ACCEPTED))

    await take(store, report(accepted, host, Cause.SUCCEEDED, result=TaskResult(success=True)))

    assert again.spec.env == {"TOKEN": "s3cret"}
    assert (await store.task(task.id)).env == {"TOKEN": "***"}
    assert (await (await place.open()).task(task.id)).env == {"TOKEN": "***"}


async def test_positions_count_those_that_go_before(store: Store) -> None:
    late = await submit(store, priority=9)
    first = await submit(store, priority=1)
    middle = await submit(store, priority=5)
    other = await submit(store, agent_type="other")
    await connect(store)

    assert [await store.position(task.id) for task in (first, middle, late, other)] == [0, 1, 2, 0]
    with pytest.raises(NotFound):
        await store.position("task_nobody")


async def test_what_is_due_comes_oldest_first_and_only_while_it_lives(store: Store) -> None:
    later = await submit(store, queue_ttl=2_000)
    sooner = await submit(store, queue_ttl=1_000)
    aborted = await submit(store, queue_ttl=1_000)
    await submit(store, queue_ttl=HOUR)
    await take(store, Change(task_id=aborted.id, now=T0, cause=Cause.ABORT))

    assert await store.due(T0 + 999, 10) == []
    assert [record.id for record in await store.due(T0 + 1_000, 10)] == [sooner.id]
    assert [record.id for record in await store.due(T0 + 9_000, 10)] == [sooner.id, later.id]
    assert [record.id for record in await store.due(T0 + 9_000, 1)] == [sooner.id]


async def test_counts_know_every_state(store: Store) -> None:
    host = await connect(store)
    for _ in range(4):
        await submit(store)
    await take(store, report(await start(store, host), host, Cause.FAILED))
    await claim_one(store, host)

    counts = await store.counts()

    assert set(counts) == set(TaskState)
    assert {state: number for state, number in counts.items() if number} == {
        TaskState.QUEUED: 2,
        TaskState.ASSIGNED: 1,
        TaskState.FAILED: 1,
    }
