"""What people do with tasks: submit, abort, retry, input, why; and what they are told when it cannot be."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from manager.errors import Conflict, Invalid, NotFound, Refused, StoreUnavailable, TooLarge, TooMany
from manager.ports import StoredInput
from shared_types.api import InputState, TaskCreate
from shared_types.messages import TaskAbort, TaskAccepted, TaskExecute, TaskRefused, TaskStart
from shared_types.tasks import LabelRules, PermissionMode, TaskState
from tests.fakes.host import FakeHost, Plan
from tests.manager.runtime.hall import hall
from tests.manager.runtime.test_host_link import greeting, running

HOLDS = Plan(holds=True, events=0)


# --- submit ---------------------------------------------------------------------------------------------


async def test_everything_asked_for_is_in_the_record(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        create = TaskCreate(
            prompt="p",
            agent_type="claude",
            cwd="/srv",
            model="opus",
            env={"MY_NAME": "x"},
            timeout=5,
            idle_timeout=6,
            metadata={"team": "a"},
            labels=LabelRules(require={"os": "linux"}),
            priority=1,
            queue_ttl=7_000,
            permission_mode=PermissionMode.DENY,
        )

        task, is_new = await h.tasks.submit(create, actor="me", trace_id="trace")

        assert is_new
        assert task.id.startswith("task_")
        assert task.session_id == "session" + task.id.removeprefix("task")
        assert (task.agent_type, task.actor, task.trace_id) == ("claude-code", "me", "trace")
        assert task.env == {"MY_NAME": "***"}
        assert (task.cwd, task.model, task.timeout, task.idle_timeout) == ("/srv", "opus", 5, 6)
        assert (task.labels, task.priority, task.queue_ttl) == (create.labels, 1, 7_000)
        assert (task.permission_mode, task.metadata) == (PermissionMode.DENY, {"team": "a"})


async def test_the_same_key_gives_the_same_task_and_another_request_under_it_is_refused(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        create = TaskCreate(prompt="p", agent_type="opencode", metadata={"a": 1, "b": 2})
        first, _ = await h.tasks.submit(create, actor="me", idempotency_key="k")

        again, is_new = await h.tasks.submit(
            TaskCreate(prompt="p", agent_type="opencode", metadata={"b": 2, "a": 1}), actor="me", idempotency_key="k"
        )

        assert (again.id, is_new) == (first.id, False)
        with pytest.raises(Conflict) as refused:
            await h.tasks.submit(TaskCreate(prompt="q", agent_type="opencode"), actor="me", idempotency_key="k")
        assert refused.value.code == "IDEMPOTENCY_MISMATCH"


BAD: list[tuple[dict[str, Any], type[Refused], str, str]] = [
    ({"agent_type": "nonsense"}, Invalid, "UNKNOWN_AGENT", "$.agentType"),
    ({"prompt": "x" * (256 * 1024 + 1)}, TooLarge, "PROMPT_TOO_LARGE", "$.prompt"),
    ({"prompt": "ü" * (128 * 1024 + 1)}, TooLarge, "PROMPT_TOO_LARGE", "$.prompt"),
    ({"cwd": "relative/path"}, Invalid, "CWD_NOT_ABSOLUTE", "$.cwd"),
    ({"cwd": "/a\0b"}, Invalid, "CWD_NOT_ABSOLUTE", "$.cwd"),
    ({"env": {"LD_PRELOAD": "/x.so"}}, Invalid, "ENV_NOT_ALLOWED", "$.env.LD_PRELOAD"),
    ({"env": {"with space": "x"}}, Invalid, "ENV_NOT_ALLOWED", "$.env"),
    ({"env": {"OK": "a\0b"}}, Invalid, "ENV_NOT_ALLOWED", "$.env.OK"),
]


@pytest.mark.parametrize(("fields", "kind", "code", "field"), BAD, ids=lambda value: str(value)[:30])
async def test_what_cannot_be_is_refused_with_a_code_and_the_field(
    tmp_path: Path, fields: dict[str, Any], kind: type[Refused], code: str, field: str
) -> None:
    async with hall(tmp_path) as h:
        create = TaskCreate(**{"prompt": "p", "agent_type": "opencode", **fields})

        with pytest.raises(kind) as refused:
            await h.tasks.submit(create, actor="me")

        assert (refused.value.code, refused.value.field) == (code, field)
        assert (await h.store.counts())[TaskState.QUEUED] == 0


async def test_a_prompt_of_exactly_the_limit_is_taken(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        await h.submit("ü" * (128 * 1024))


async def test_an_agent_that_a_host_declared_is_known_also_when_the_host_is_away(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        await h.online(FakeHost(agents=("my-script",), plan=lambda _: HOLDS))
        await h.submit(agent="my-script")
        await h.cut()

        assert await h.submit(agent="my-script")


async def test_a_host_that_does_not_exist_is_not_waited_for(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        with pytest.raises(NotFound) as refused:
            await h.submit(host_id="nowhere")

        assert refused.value.code == "NO_SUCH_HOST"


async def test_a_full_queue_says_so(tmp_path: Path) -> None:
    async with hall(tmp_path, max_queued=2) as h:
        await h.submit()
        await h.submit()

        with pytest.raises(TooMany) as refused:
            await h.submit()

        assert refused.value.code == "QUEUE_FULL"


# --- abort ----------------------------------------------------------------------------------------------


async def test_a_queued_task_is_aborted_at_once(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        task_id = await h.submit()

        task = await h.tasks.abort(task_id, reason="no need", actor="me")

        assert (task.status, task.reason, task.detail) == (
            TaskState.ABORTED,
            "aborted_by_user",
            "Stopped by me: no need",
        )


async def test_an_assigned_task_that_is_aborted_is_never_started(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting())
        task_id = await h.submit()
        await hand.expect(TaskExecute)

        assert (await h.tasks.abort(task_id)).status is TaskState.STOPPING
        await hand.say(TaskAccepted(task_id=task_id, attempt=1))  # it crossed our wish on the wire
        assert (await hand.expect(TaskAbort)).attempt == 1
        await hand.say(TaskRefused(task_id=task_id, attempt=1, reason="aborted_by_user"))
        await h.until(task_id, TaskState.ABORTED)

        assert not [message for message in hand.heard if isinstance(message, TaskStart)]


async def test_a_running_task_is_aborted_when_its_host_says_that_it_is_gone(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(plan=lambda _: HOLDS))
        task_id = await h.submit()
        await h.until(task_id, TaskState.RUNNING)

        await h.tasks.abort(task_id, reason="enough", actor="me")
        task = await h.until(task_id, TaskState.ABORTED)

        assert task.reason == "aborted_by_user"
        await h.until_true(lambda: not host.attempts)


async def test_kill_leaves_no_grace(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        hand = h.hand()
        await hand.register(greeting())
        task_id = (await running(h, hand)).task.task_id

        await h.tasks.abort(task_id)
        assert (await hand.expect(TaskAbort)).grace_ms is None
        await h.tasks.abort(task_id, kill=True)

        assert (await hand.expect(TaskAbort)).grace_ms == 0


async def test_an_abort_whose_sender_hung_up_meanwhile_still_reaches_the_host(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        await h.online(FakeHost(plan=lambda _: HOLDS))
        task_id = await h.submit()
        await h.until(task_id, TaskState.RUNNING)

        with anyio.CancelScope() as sender:
            sender.cancel()
            await h.tasks.abort(task_id)

        await h.until(task_id, TaskState.ABORTED)


async def test_a_task_whose_host_is_away_is_aborted_when_it_comes_back(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(plan=lambda _: HOLDS))
        task_id = await h.submit()
        await h.until(task_id, TaskState.RUNNING)
        await h.cut()
        await h.until_disconnected(task_id)

        assert (await h.tasks.abort(task_id)).status is TaskState.STOPPING
        await h.online(host)

        await h.until(task_id, TaskState.ABORTED)


async def test_what_has_ended_cannot_be_aborted(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        task_id = await h.submit()
        await h.tasks.abort(task_id)

        with pytest.raises(Conflict) as refused:
            await h.tasks.abort(task_id)
        with pytest.raises(NotFound):
            await h.tasks.abort("task_nothing")

        assert refused.value.code == "TASK_ENDED"


# --- retry ----------------------------------------------------------------------------------------------


async def test_a_failed_task_can_be_retried_and_is_given_out_again(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        plans = [Plan(fail="agent_error"), Plan()]
        await h.online(FakeHost(plan=lambda task: plans[0]))
        task_id = await h.submit()
        await h.until(task_id, TaskState.FAILED)
        plans.pop(0)

        await h.tasks.retry(task_id, "me")
        task = await h.until(task_id, TaskState.COMPLETED)

        assert task.attempt == 2


async def test_only_what_ended_without_success_can_be_retried(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        queued = await h.submit()
        await h.online(FakeHost(agents=("gemini",)))
        done = await h.submit(agent="gemini")
        await h.until(done, TaskState.COMPLETED)

        for task_id in (queued, done):
            with pytest.raises(Conflict) as refused:
                await h.tasks.retry(task_id)
            assert refused.value.code == "NOT_RETRYABLE"


# --- input ----------------------------------------------------------------------------------------------


async def test_input_reaches_the_running_agent_and_is_taken_when_the_agent_has_it(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(plan=lambda _: HOLDS))
        task_id = await h.submit()
        await h.until(task_id, TaskState.RUNNING)

        receipt = await h.tasks.input(task_id, "more", "i1")

        assert (receipt.input_id, receipt.state) == ("i1", InputState.SENT)
        await h.until_true(lambda: host.inputs == [(task_id, "more")])

        async def is_taken() -> bool:
            return (await h.tasks.input(task_id, "more", "i1")).state is InputState.TAKEN

        await h.until_true(is_taken)
        assert host.inputs == [(task_id, "more")]
        assert "input" in await h.kinds(task_id)


async def test_input_that_the_agent_does_not_get_waits_no_more_and_is_not_said_again(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(plan=lambda _: HOLDS, input_state="refused"))
        task_id = await h.submit()
        await h.until(task_id, TaskState.RUNNING)

        await h.tasks.input(task_id, "more", "i1")

        async def is_refused() -> bool:
            return (await h.tasks.input(task_id, "more", "i1")).state is InputState.REFUSED

        await h.until_true(is_refused)
        assert await h.store.open_inputs(task_id) == []
        await h.cut()
        await h.online(host)
        await h.tasks.input(task_id, "still more", "i2")
        await h.until_true(lambda: len(host.inputs) == 2)
        assert host.inputs == [(task_id, "more"), (task_id, "still more")]


async def test_input_for_a_queued_task_is_kept_until_its_agent_runs(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        task_id = await h.submit()
        receipts = [await h.tasks.input(task_id, text) for text in ("one", "two")]
        assert [receipt.state for receipt in receipts] == [InputState.STORED, InputState.STORED]

        host = await h.online(FakeHost(plan=lambda _: HOLDS))

        await h.until_true(lambda: host.inputs == [(task_id, "one"), (task_id, "two")])


async def test_input_kept_by_an_earlier_manager_is_delivered_too(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        task_id = await h.submit()
        await h.tasks.input(task_id, "kept")

    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(plan=lambda _: HOLDS))

        await h.until_true(lambda: host.inputs == [(task_id, "kept")])


async def test_input_that_is_about_to_be_said_when_its_host_hangs_up_is_said_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(plan=lambda _: HOLDS))
        task_id = await h.submit()
        await h.until(task_id, TaskState.RUNNING)
        look = h.store.open_inputs

        async def and_then_it_hangs_up(task_id: str) -> list[StoredInput]:
            found = await look(task_id)
            monkeypatch.undo()
            await h.cut()
            return found

        monkeypatch.setattr(h.store, "open_inputs", and_then_it_hangs_up)
        await h.tasks.input(task_id, "more")
        await h.online(host)

        await h.until_true(lambda: host.inputs == [(task_id, "more")])


async def test_input_while_the_host_is_away_is_said_when_it_is_back(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(plan=lambda _: HOLDS))
        task_id = await h.submit()
        await h.until(task_id, TaskState.RUNNING)
        await h.cut()
        await h.until_disconnected(task_id)

        assert (await h.tasks.input(task_id, "more")).state is InputState.STORED
        await h.online(host)

        await h.until_true(lambda: host.inputs == [(task_id, "more")])


async def test_many_inputs_at_once_arrive_in_order_and_once(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(plan=lambda _: HOLDS))
        task_id = await h.submit()
        await h.until(task_id, TaskState.RUNNING)

        async def say(number: int) -> None:
            await h.tasks.input(task_id, str(number), f"i{number}")

        for number in range(20):
            h.group.start_soon(say, number)

        await h.until_true(lambda: len(host.inputs) >= 20)
        assert [content for _, content in host.inputs] == [str(number) for number in range(20)]


async def test_more_inputs_than_a_connection_takes_at_once_do_not_end_it(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(plan=lambda _: HOLDS))
        task_id = await h.submit()
        await h.until(task_id, TaskState.RUNNING)
        await h.cut()
        await h.until_disconnected(task_id)
        inputs = [f"{number}" + "x" * 250_000 for number in range(20)]
        for content in inputs:
            await h.tasks.input(task_id, content)

        await h.online(host)

        await h.until_true(lambda: len(host.inputs) == 20)
        assert [content for _, content in host.inputs] == inputs
        assert len(host.welcomes) == 2


async def test_an_input_that_comes_while_its_host_is_being_welcomed_reaches_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(plan=lambda _: HOLDS))
        task_id = await h.submit()
        await h.until(task_id, TaskState.RUNNING)
        await h.cut()
        await h.until_disconnected(task_id)
        look = h.store.open_inputs

        async def and_then_one_comes(task_id: str) -> list[StoredInput]:
            found = await look(task_id)
            monkeypatch.undo()
            h.group.start_soon(h.tasks.input, task_id, "late")
            await h.until_true(lambda: look(task_id))
            return found

        monkeypatch.setattr(h.store, "open_inputs", and_then_one_comes)
        await h.online(host)

        await h.until_true(lambda: host.inputs == [(task_id, "late")])


@pytest.mark.parametrize("step", ["claim_of", "open_inputs", "mark_input"])
async def test_an_input_that_is_stored_is_answered_and_said_when_the_store_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(plan=lambda _: HOLDS))
        task_id = await h.submit()
        await h.until(task_id, TaskState.RUNNING)

        async def away(*_: Any) -> Any:
            raise StoreUnavailable("disk full", code="DISK_FULL")

        monkeypatch.setattr(h.store, step, away)
        receipt = await h.tasks.input(task_id, "more", "i1")
        await h.until_true(lambda: h.fleet.arrears.trouble)
        monkeypatch.undo()
        await h.until_true(lambda: host.inputs)

        assert receipt.state is InputState.STORED
        assert host.inputs == [(task_id, "more")]


async def test_an_input_of_somebody_who_hung_up_meanwhile_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hall(tmp_path) as h:
        host = await h.online(FakeHost(plan=lambda _: HOLDS))
        task_id = await h.submit()
        await h.until(task_id, TaskState.RUNNING)
        add = h.store.add_input

        with anyio.CancelScope() as asking:

            async def and_hangs_up(*arguments: Any) -> StoredInput:
                asking.cancel()
                return await add(*arguments)

            monkeypatch.setattr(h.store, "add_input", and_hangs_up)
            await h.tasks.input(task_id, "more", "i1")

        await h.until_true(lambda: host.inputs == [(task_id, "more")])


async def test_inputs_that_the_store_kept_from_a_starting_agent_are_said_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hall(tmp_path) as h:
        task_id = await h.submit()
        await h.tasks.input(task_id, "early")
        failed = anyio.Event()

        async def away(*_: Any) -> Any:
            failed.set()
            raise StoreUnavailable("disk full", code="DISK_FULL")

        monkeypatch.setattr(h.store, "open_inputs", away)
        host = await h.online(FakeHost(plan=lambda _: HOLDS))
        await failed.wait()
        monkeypatch.undo()

        await h.until_true(lambda: host.inputs == [(task_id, "early")])


async def test_input_for_what_is_over_or_unknown_is_refused(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        task_id = await h.submit()
        await h.tasks.abort(task_id)

        with pytest.raises(Conflict) as ended:
            await h.tasks.input(task_id, "more")
        with pytest.raises(NotFound):
            await h.tasks.input("task_nothing", "more")
        with pytest.raises(TooLarge) as large:
            await h.tasks.input(task_id, "x" * (256 * 1024 + 1))

        assert (ended.value.code, large.value.code) == ("TASK_ENDED", "INPUT_TOO_LARGE")


# --- why ------------------------------------------------------------------------------------------------


async def test_why_says_which_condition_of_which_host_does_not_hold(tmp_path: Path) -> None:
    async with hall(tmp_path) as h:
        await h.online(FakeHost("h1", slots=1, plan=lambda _: HOLDS))
        await h.online(FakeHost("h2", agents=("gemini",)))
        first = await h.submit()
        await h.until(first, TaskState.RUNNING)

        second, third = await h.submit(), await h.submit()
        why = await h.tasks.why(third)

        by_host = {host.host_id: [c.name for c in host.conditions if not c.holds] for host in why.hosts}
        assert by_host == {"h1": ["slots"], "h2": ["agent"]}
        assert why.would_run_if == "host h1 had a free slot"
        assert why.position == 1
        assert (await h.tasks.why(second)).position == 0
        assert "Runs on host h1" in (await h.tasks.why(first)).summary
