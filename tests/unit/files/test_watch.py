"""A file that is followed: no change is missed, and a load that failed is tried again."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
import trio

from bitfusiond.files import watch


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.02)


async def test_a_change_between_reading_and_watching_is_not_missed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("1")
    following = watch.Watch(file)
    file.write_text("22")
    changed = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(following.follow, changed.set, never)
        with trio.fail_after(5):
            await changed.wait()
        nursery.cancel_scope.cancel()


def never(error: Exception) -> None:
    raise AssertionError from error


async def test_a_load_that_failed_is_tried_again_until_it_succeeds_and_each_reason_is_told_once(tmp_path: Path) -> None:
    """A lack of file descriptors passes without another change of the file."""
    file = tmp_path / "file"
    file.write_text("1")
    following = watch.Watch(file)
    reasons = ["no descriptor", "no descriptor", "no disk", "no descriptor"]
    calls, told = [], []

    def load() -> None:
        calls.append(trio.current_time())
        if len(calls) <= len(reasons):
            raise OSError(reasons[len(calls) - 1])

    file.write_text("22")
    with trio.move_on_after(watch.POLL_SECONDS * 20):
        await following.follow(load, lambda error: told.append(str(error)))
    assert len(calls) == len(reasons) + 1
    assert told == ["no descriptor", "no disk", "no descriptor"]
    assert min(after - before for before, after in itertools.pairwise(calls)) >= watch.POLL_SECONDS / 2


async def test_what_takes_long_to_fail_is_tried_seldom_until_the_file_changes(tmp_path: Path) -> None:
    """A pool of many thousand GPUs that is broken: reading it again and again would leave no time for pods."""
    file = tmp_path / "file"
    file.write_text("1")
    following = watch.Watch(file)
    tries: list[None] = []
    broken = True

    def load() -> None:
        time.sleep(0.3)
        tries.append(None)
        if broken:
            raise ValueError

    file.write_text("22")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(following.follow, load, lambda _error: None)
        await trio.sleep(1.5)
        assert len(tries) == 1
        broken = False
        file.write_text("333")
        with trio.fail_after(2):
            while len(tries) < 2:
                await trio.sleep(0.02)
        nursery.cancel_scope.cancel()
