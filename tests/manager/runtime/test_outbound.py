"""What waits to be written to a host: the urgent first, and never more than there is room for."""

import msgspec
import pytest

from manager.core.tasks import Record
from manager.runtime.outbound import Outbound
from shared_types.messages import Ping, TaskAbort, TaskExecute
from shared_types.tasks import TaskRequest, TaskState


def _nobody() -> None:
    return None


def execute(task_id: str, prompt: str = "p") -> tuple[TaskExecute, Record]:
    request = TaskRequest(task_id=task_id, prompt=prompt, cwd="/", agent_type="a")
    record = Record(id=task_id, session_id="s", status=TaskState.ASSIGNED, updated_at=1)
    return TaskExecute(task=request), record


def drained(out: Outbound) -> list[str]:
    frames = []
    while (frame := out.next()) is not None:
        message = msgspec.json.decode(frame)
        frames.append(
            f"{message['type']} {message.get('taskId') or message.get('task', {}).get('taskId') or ''}".strip()
        )
    return frames


def test_control_overtakes_confirmations_and_these_overtake_work() -> None:
    out = Outbound(_nobody)
    out.give(*execute("t1"))
    out.ack("t2", 1, 5)
    out.say(TaskAbort(task_id="t3"))
    out.say(Ping())

    assert drained(out) == ["task:abort t3", "ping", "task:ack t2", "task:execute t1"]


def test_of_many_confirmations_of_an_attempt_only_the_newest_waits() -> None:
    out = Outbound(_nobody)
    for seq in range(1, 100):
        out.ack("t1", 1, seq)

    frame = out.next()

    assert frame is not None
    assert msgspec.json.decode(frame)["seq"] == 99
    assert out.next() is None


def test_work_that_was_not_written_can_be_taken_back() -> None:
    out = Outbound(_nobody)
    out.give(*execute("t1"))
    out.give(*execute("t2"))
    out.next()

    assert not out.take_back(execute("t1")[1])
    assert not out.take_back(msgspec.structs.replace(execute("t2")[1], uid="another attempt"))
    assert out.take_back(execute("t2")[1])
    assert out.next() is None


def test_everything_that_was_not_written_can_be_taken_back() -> None:
    out = Outbound(_nobody)
    out.give(*execute("t1"))
    out.give(*execute("t2"))

    assert [record.id for record in out.take_back_all()] == ["t1", "t2"]
    assert drained(out) == []


def test_work_that_the_socket_did_not_take_is_still_here() -> None:
    out = Outbound(_nobody)
    out.give(*execute("t1"))
    out.say(Ping())
    ping, work = out.next(), out.next()
    assert ping is not None
    assert work is not None

    out.not_written(work)

    assert [record.id for record in out.take_back_all()] == ["t1"]
    out.say(Ping())
    out.not_written(out.next() or b"")
    assert out.is_empty


def test_the_queue_is_bounded_and_takes_more_when_there_is_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manager.runtime.outbound.MAX_WORK_BYTES", 500)
    monkeypatch.setattr("manager.runtime.outbound.MAX_URGENT_BYTES", 60)
    out = Outbound(_nobody)

    assert out.give(*execute("t1", "x" * 400))
    assert not out.give(*execute("t2", "x" * 400))
    assert out.say(TaskAbort(task_id="t1"))
    assert not out.say(TaskAbort(task_id="t2"))
    drained(out)
    assert out.give(*execute("t2", "x" * 400))
    assert out.say(TaskAbort(task_id="t2"))


def test_one_frame_always_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manager.runtime.outbound.MAX_WORK_BYTES", 10)

    assert Outbound(_nobody).give(*execute("t1", "x" * 400))


def test_whoever_writes_is_told_of_everything_that_waits() -> None:
    told: list[str] = []
    out = Outbound(lambda: told.append(repr(out)))

    out.say(Ping())
    out.ack("t1", 1, 1)
    out.give(*execute("t1"))

    assert told == [
        "<Outbound urgent=1 acks=0 work=0>",
        "<Outbound urgent=1 acks=1 work=0>",
        "<Outbound urgent=1 acks=1 work=1>",
    ]
    assert not out.is_empty
