import msgspec
import pytest

from shared_types.api import TaskCreate
from shared_types.tasks import FINAL, Reason, Task, TaskRequest, TaskState


@pytest.mark.parametrize("state", TaskState)
def test_a_task_is_final_in_a_final_state(state):
    task = Task(
        id="task_1", session_id="s", status=state, prompt="p", agent_type="gemini", created_at=1, updated_at=1, rv=1
    )

    assert task.is_final == (state in FINAL)


def test_reasons_are_spelled_once():
    assert len({reason.value for reason in Reason}) == len(Reason)


def test_a_task_of_the_base_dialect_needs_five_fields():
    task = msgspec.json.decode(b'{"taskId":"t","prompt":"p","cwd":"/","agentType":"my-script"}', type=TaskRequest)

    assert msgspec.to_builtins(task) == {"taskId": "t", "prompt": "p", "cwd": "/", "agentType": "my-script"}


REFUSED = {
    "an empty prompt": {"prompt": ""},
    "a negative timeout": {"timeout": -1},
    "no time at all": {"timeout": 0},
    "a timeout that is a text": {"timeout": "5m"},
    "a fraction of a millisecond": {"timeout": 1.5},
    "an agent that looks like a flag": {"agentType": "--yolo"},
    "a model that looks like a flag": {"model": "-x"},
    "a model with a newline": {"model": "a\nb"},
    "a host id with a slash": {"hostId": "../h"},
    "a priority below 0": {"priority": -1},
    "a priority above 9": {"priority": 10},
    "a mode we do not know": {"permissionMode": "root"},
    "a field that is not there": {"promt": "typo"},
    "a label rule that is not there": {"labels": {"requires": {}}},
    "labels that are no texts": {"labels": {"require": {"gpu": 1}}},
    "an environment that is no texts": {"env": {"A": 1}},
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED.keys())
def test_a_wish_that_makes_no_sense_is_refused(change):
    body = {"prompt": "p", "agentType": "gemini"}

    msgspec.convert(body, TaskCreate)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(body | change, TaskCreate)
