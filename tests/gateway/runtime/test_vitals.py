import anyio

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
    monkeypatch.setattr(module, "read", lambda disk: next(looks))
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


async def test_free_space_is_known(tmp_path):
    signs = VitalSigns(tmp_path)
    await signs.look()

    assert signs.free_bytes > 0
