"""`bootId` is the same only while everything that was started here can be named."""

from pathlib import Path

import anyio
import pytest

from gateway.app import put_together
from gateway.runtime.memory import FILE, Memory
from gateway.settings import load
from manager.core.lifecycle import Cause
from manager.core.link import FULL, Link
from manager.core.tasks import Record
from shared_types.messages import Register
from shared_types.tasks import TaskState
from tests.gateway.conftest import Hasty, environment
from tests.gateway.test_gateway import processes_of, until


def test_it_keeps_its_name_as_long_as_its_file_is_there(tmp_path: Path):
    first, second = Memory(tmp_path, "boot"), Memory(tmp_path, "boot")

    assert first.name == second.name
    assert first.name is not None
    assert first.name.startswith("boot.")


def test_another_boot_another_home_and_a_lost_file_are_other_names(tmp_path: Path):
    name = Memory(tmp_path, "boot").name
    booted, elsewhere = Memory(tmp_path, "boot 2").name, Memory(tmp_path / "elsewhere", "boot").name
    (tmp_path / FILE).unlink()

    assert len({name, booted, elsewhere, Memory(tmp_path, "boot").name}) == 4


def test_what_was_lost_is_lost_for_the_next_process_too(tmp_path: Path):
    memory = Memory(tmp_path, "boot")
    before = memory.name

    memory.lost()

    assert memory.name != before
    assert memory.name == Memory(tmp_path, "boot").name


@pytest.mark.parametrize("boot_id", [None, ""])
def test_who_does_not_know_when_the_machine_was_booted_has_no_name(tmp_path: Path, boot_id: str | None):
    assert Memory(tmp_path, boot_id).name is None


def test_a_home_that_takes_nothing_has_no_name(tmp_path: Path):
    (tmp_path / "home").write_text("a file")

    assert Memory(tmp_path / "home", "boot").name is None


def test_a_name_that_cannot_be_written_anew_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    memory = Memory(tmp_path, "boot")
    before = memory.name

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "write_text", full)
        memory.lost()
        assert memory.name is None

    assert Memory(tmp_path, "boot").name not in (None, before)


# --- what the manager makes of it -----------------------------------------------------------------------


def judged(before: Register, after: Register, uid: str) -> Cause | None:
    """What becomes of an attempt that was given under the first greeting, when nothing was heard of it."""
    record = Record(
        id="t1",
        session_id="s",
        status=TaskState.ASSIGNED,
        updated_at=1,
        host_id="h1",
        attempt=1,
        uid=uid,
        boot=before.boot_id,
        accepted=True,
    )
    (change,) = Link("h1", 2, FULL).welcome(after, [record], 3, is_same_instance=False).changes
    return change.cause


async def running(manager, start) -> str:
    async with start():
        attempt = await manager.offer("t1", agent="fake", prompt="stubborn\nsay up\nwait")
        await manager.wait(lambda: attempt.texts("message"))
    return attempt.uid


async def test_an_agent_that_is_declared_no_more_may_have_run(manager, start):
    uid = await running(manager, start)

    async with start(GATEWAY_ONLY_AGENTS="talk"):
        before, after = manager.greetings
        assert after.running == ()
        assert judged(before, after, uid) is Cause.HOST_LOST


async def test_what_can_no_longer_be_read_may_have_run(manager, start, home: Path):
    uid = await running(manager, start)
    file = home / "attempts" / uid / "task.json"
    file.write_bytes(file.read_bytes().replace(b'"executable"', b'"executive"'))

    async with start():
        before, after = manager.greetings
        assert judged(before, after, uid) is Cause.HOST_LOST


async def test_what_was_never_started_changes_no_name(manager, start, home: Path):
    async with start():
        pass
    (home / "attempts" / "0badc0de").mkdir(parents=True)

    async with start():
        before, after = manager.greetings
        assert before.boot_id == after.boot_id
        assert judged(before, after, "0badc0de") is Cause.NEVER_STARTED


async def test_a_gateway_of_another_home_knows_nothing_of_what_runs(manager, start, home: Path, tmp_path: Path):
    uid = await running(manager, start)
    other = tmp_path / "other-home"
    other.mkdir(mode=0o700)
    (other / "gateway.toml").write_text((home / "gateway.toml").read_text())
    environ = environment(other, manager)
    second = put_together(load([], environ), environ, Hasty())

    async with anyio.create_task_group() as group:
        await group.start(second.live)
        await manager.wait_connected(2)
        group.cancel_scope.cancel()

    before, after = manager.greetings
    assert processes_of(uid)
    assert judged(before, after, uid) is Cause.HOST_LOST
    async with start() as gateway:
        gateway.crew.stop_all()
        await until(lambda: not processes_of(uid))
