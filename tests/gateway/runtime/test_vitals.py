import anyio
from structlog.testing import capture_logs

from gateway.core.slots import Quota
from gateway.runtime import attempt
from gateway.runtime import vitals as module
from gateway.runtime.vitals import VitalSigns, read


def test_every_share_is_a_share(tmp_path):
    read(tmp_path)
    vitals = read(tmp_path)

    assert 0 <= vitals.cpu <= 1
    assert 0 < vitals.memory < 1
    assert 0 < vitals.disk <= 1
    assert vitals.load >= 0


async def test_they_are_read_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EVERY_S", 0.001)
    looks = iter(range(1, 1000))
    monkeypatch.setattr(module, "read", lambda disk, journals: next(looks))
    signs = VitalSigns(tmp_path)
    async with anyio.create_task_group() as group:
        group.start_soon(signs.watch)
        with anyio.fail_after(5):
            while signs.latest is None or signs.latest < 3:
                await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()


async def test_a_disk_that_is_gone_is_unknown_not_a_crash(tmp_path):
    signs = VitalSigns(tmp_path / "gone")
    await signs.look()

    assert (signs.latest, signs.free_bytes) == (None, None)


async def test_what_journals_take_is_told_as_a_share_of_what_they_may(tmp_path):
    for uid, size in (("one", 40_000), ("two", 100_000)):
        (attempt.make(tmp_path, uid) / "journal").write_bytes(b"x" * size)
    (tmp_path / "attempts" / "one" / attempt.PRIVATE / "of-the-agent").write_bytes(b"x" * 500_000)
    (tmp_path / "attempts" / "stray").write_text("no directory")
    signs = VitalSigns(tmp_path, Quota(size=200_000))

    await signs.look()

    assert 140_000 <= signs.journal_bytes < 180_000
    assert signs.latest.journals == round(signs.journal_bytes / 200_000, 3)


async def test_that_journals_are_nearly_too_many_is_said_once(tmp_path):
    (attempt.make(tmp_path, "one") / "journal").write_bytes(b"x" * 90_000)
    signs = VitalSigns(tmp_path, Quota(size=100_000))

    with capture_logs() as logs:
        await signs.look()
        await signs.look()
        attempt.forget(tmp_path, "one")
        await signs.look()

    assert [log["event"] for log in logs] == ["journals.full"]
    assert (signs.journal_bytes, signs.latest.journals) == (0, 0)


async def test_free_space_is_known(tmp_path):
    signs = VitalSigns(tmp_path)
    await signs.look()

    assert signs.free_bytes > 0
