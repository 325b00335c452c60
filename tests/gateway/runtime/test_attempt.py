import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from gateway.runtime import attempt
from gateway.runtime.attempt import forget, found, make, tidy, void
from gateway.runtime.process import Keeper
from tests.fakes.attempts import House, wait_heard


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(tmp_path) as house:
        yield house


@pytest.mark.parametrize("uid", ["", ".", "..", "a/b", "../x", ".hidden", "a\nb", "x" * 129])
async def test_what_is_no_name_of_an_attempt_touches_nothing(house: House, uid: str):
    with pytest.raises(ValueError, match="not the name"):
        make(house.home, uid)
    with pytest.raises(ValueError, match="not the name"):
        forget(house.home, uid)
    with pytest.raises(ValueError, match="not the name"):
        await Keeper.adopt(house.home, uid)


async def test_attempts_are_found_and_forgotten(house: House):
    one, two = await house.start("exits"), await house.start("silent")
    await one.wait_gone()
    assert found(house.home) == sorted([one.uid, two.uid])

    await anyio.to_thread.run_sync(forget, house.home, one.uid)

    assert found(house.home) == [two.uid]
    assert [path.name for path in (house.home / "attempts").iterdir()] == [two.uid]


async def test_what_is_about_to_end_is_waited_for_before_it_is_forgotten(house: House):
    keeper = await house.start("echo")

    async with anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, forget, house.home, keeper.uid)
        await keeper.write("end", b"", close=True)

    assert found(house.home) == []


async def test_what_still_runs_is_not_forgotten(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attempt, "_PATIENCE_S", 0.05)
    keeper = await house.start("silent")

    with pytest.raises(TimeoutError):
        forget(house.home, keeper.uid)

    assert found(house.home) == [keeper.uid]


def test_no_host_has_attempts_before_the_first(house: House):
    assert found(house.home) == []
    forget(house.home, "never-heard-of")


def test_only_directories_with_our_mark_are_deleted(house: House):
    stranger = house.home / "attempts" / "stranger"
    stranger.mkdir(parents=True)
    (stranger / "thesis.txt").write_text("three years of work")
    target = make(house.home, "target")
    (house.home / "attempts" / "link").symlink_to(target)

    forget(house.home, "stranger")
    forget(house.home, "link")

    assert (stranger / "thesis.txt").exists()
    assert target.exists()
    assert found(house.home) == ["link", "target"]


def test_links_out_of_a_directory_are_not_followed_when_it_is_deleted(house: House):
    precious = house.cwd / "precious"
    precious.mkdir(mode=0o750)
    (precious / "file").touch()
    path = make(house.home, "one")
    (path / "private" / "link").symlink_to(precious)
    shut = path / "private" / "shut"
    shut.mkdir()
    (shut / "file").touch()
    shut.chmod(0)

    forget(house.home, "one")

    assert not path.exists()
    assert (precious / "file").exists()
    assert precious.stat().st_mode & 0o777 == 0o750


def test_what_was_left_half_deleted_is_deleted_with_the_next(house: House):
    half = make(house.home, "half")
    half.rename(half.with_name(".gone-half"))
    make(house.home, "next")

    assert found(house.home) == ["next"]
    forget(house.home, "next")

    assert list((house.home / "attempts").iterdir()) == []


@pytest.mark.parametrize("steps", range(4))
def test_whenever_the_making_of_a_directory_was_cut_short_it_is_found_or_tidied_away(house: House, steps: int):
    with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
        cut_short(patch, steps)
        make(house.home, "one")

    tidy(house.home)

    attempts = house.home / "attempts"
    assert found(house.home) == [path.name for path in attempts.glob("*")]


def cut_short(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Let the gateway die after so many changes of the disk."""
    left = iter(range(steps))

    def counted(do: Callable[..., None]) -> Callable[..., None]:
        def change(path: Path, *args: object, **named: object) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            do(path, *args, **named)

        return change

    for name in ("mkdir", "touch"):
        patch.setattr(Path, name, counted(getattr(Path, name)))


def test_what_a_gateway_left_half_made_or_half_deleted_is_tidied_away_by_the_next(house: House):
    kept = make(house.home, "kept")
    (kept.parent / "half-made").mkdir()
    make(house.home, "half").rename(kept.with_name(".gone-half"))

    tidy(house.home)

    assert list(kept.parent.iterdir()) == [kept]


async def test_what_a_keeper_took_on_cannot_be_made_void(house: House):
    keeper = await house.start("exits")
    new = make(house.home, house.uid())

    assert not void(keeper.path)
    assert [void(new), void(new)] == [True, True]


async def test_many_are_forgotten_at_once(house: House):
    names = [f"a{number}" for number in range(30)]
    for name in names:
        folder = make(house.home, name) / "private" / "x"
        folder.mkdir()
        for number in range(20):
            (folder / str(number)).mkdir()

    with capture_logs() as said:
        async with anyio.create_task_group() as group:
            for name in names:
                group.start_soon(anyio.to_thread.run_sync, forget, house.home, name)

    assert said == []
    assert list((house.home / "attempts").iterdir()) == []


def test_what_is_nested_deeper_than_a_path_may_be_long_is_deleted(house: House):
    path = make(house.home, "one")
    folder = os.open(path / "private", os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d" * 50, 0o700, dir_fd=folder)
        outer, folder = folder, os.open("d" * 50, os.O_RDONLY, dir_fd=folder)
        os.close(outer)
    os.close(folder)

    forget(house.home, "one")

    assert list((house.home / "attempts").iterdir()) == []


def test_what_cannot_be_deleted_keeps_nothing_else_from_being_deleted(house: House):
    stuck, half = make(house.home, "a"), make(house.home, "half")
    stuck.rename(stuck.with_name(".gone-a"))
    half.rename(half.with_name(".gone-half"))
    make(house.home, "next")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempt, "_delete", refusing(attempt._delete, ".gone-a"))
        forget(house.home, "next")

    assert [path.name for path in (house.home / "attempts").iterdir()] == [".gone-a"]


def refusing(delete: Callable[[Path], None], name: str) -> Callable[[Path], None]:
    """As where a file is immutable, or a disk has errors."""

    def refuse(path: Path) -> None:
        if path.name == name:
            raise PermissionError(1, "Operation not permitted", str(path))
        delete(path)

    return refuse


async def test_nobody_else_may_look_into_an_attempt(house: House):
    keeper = await house.start("echo")
    await wait_heard(keeper, b"ready")

    modes = {path.name: path.stat().st_mode & 0o777 for path in keeper.path.iterdir()}
    assert keeper.path.stat().st_mode & 0o777 == 0o700
    assert set(modes.values()) == {0o600, 0o700}
    assert modes["ctl.sock"] & 0o077 == 0
