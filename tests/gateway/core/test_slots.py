import pytest

from gateway.core.slots import MIN_FREE_BYTES, Quota, Room, admit
from gateway.errors import CannotRun
from shared_types.hosts import AgentInfo

USABLE = AgentInfo(agent="x", path="/bin/x", auth_ok=True)
GIB = 2**30
WELL = {"agent": "x", "found": USABLE, "mode_problem": None}
FREE = Room(used=1, slots=2, draining=False, free_bytes=MIN_FREE_BYTES)


def refusal(room=FREE, found=USABLE, mode_problem=None):
    with pytest.raises(CannotRun) as refused:
        admit(room, agent="x", found=found, mode_problem=mode_problem)
    assert refused.value.detail
    return refused.value.reason


def test_a_host_with_room_takes_a_task():
    admit(FREE, agent="x", found=USABLE, mode_problem=None)


def test_a_login_that_cannot_be_told_and_a_disk_that_cannot_be_read_are_no_reason_to_refuse():
    unsure = AgentInfo(agent="x", path="/bin/x")
    admit(Room(used=0, slots=1, draining=False), agent="x", found=unsure, mode_problem=None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"room": Room(used=2, slots=2, draining=False)}, "no_free_slot"),
        ({"room": Room(used=0, slots=0, draining=False)}, "no_free_slot"),
        ({"room": Room(used=0, slots=2, draining=True)}, "draining"),
        ({"room": Room(used=0, slots=2, draining=False, free_bytes=MIN_FREE_BYTES - 1)}, "disk_full"),
        ({"room": Room(used=0, slots=2, draining=False, journal_bytes=801, quota_bytes=1000)}, "disk_full"),
        ({"room": Room(used=0, slots=2, draining=False, journal_bytes=1, quota_bytes=0)}, "disk_full"),
        ({"found": None}, "unknown_agent"),
        ({"found": AgentInfo(agent="x", hint="broken")}, "missing_executable"),
        ({"found": AgentInfo(agent="x", path="/bin/x", auth_ok=False)}, "logged_out"),
        ({"mode_problem": "not as root"}, "mode_not_allowed"),
    ],
)
def test_what_speaks_against_a_task_is_named(changes, reason):
    assert refusal(**changes) == reason


def test_journals_may_take_four_fifths_of_their_quota_before_a_task_is_refused():
    admit(Room(used=0, slots=1, draining=False, journal_bytes=800, quota_bytes=1000), **WELL)


@pytest.mark.parametrize(
    ("quota", "disk", "expected"),
    [
        (Quota(), 50 * GIB, 5 * GIB),
        (Quota(), 5000 * GIB, 10 * GIB),
        (Quota(share=1.0), 3 * GIB, 3 * GIB),
        (Quota(size=70 * GIB), 50 * GIB, 70 * GIB),
    ],
)
def test_a_quota_is_a_share_of_the_disk_or_a_size(quota, disk, expected):
    assert quota.of(disk) == expected


def test_what_is_wrong_for_good_is_told_before_a_lack_of_room():
    assert refusal(room=Room(used=2, slots=2, draining=False), found=None) == "unknown_agent"
