"""What a workload or a killed run left in the volumes, whatever it is: the next run ends right all the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.volumes import NOBODY, Pod, copied_shape, hidden, shape, whole

# Root of a container that may not read what is not root's.
WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all")


def closed_directory(path: Path, mode: int) -> None:
    path.mkdir()
    (path / "file").write_text("the workload's")
    path.chmod(mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="run as root: only root can make a directory of another user")
@pytest.mark.parametrize("mode", [0o700, 0o744])  # the second shows its names and nothing about them
@pytest.mark.parametrize("damaged", [False, True])
def test_a_directory_that_another_user_closed_is_in_nobodys_way(pod: Pod, mode: int, damaged: bool) -> None:
    for _ in range(2):
        pod.run()
        closed_directory(pod.distro / "private", mode)
        os.chown(pod.distro / "private", 1234, 1234)
        if damaged:
            os.truncate(pod.distro / "usr/bin/bitfusion", 0)

        again = pod.run_below(WITHOUT_CAPABILITIES)

        assert again.status == 0
        if damaged:
            assert shape(pod.distro) == copied_shape(pod.source)
        else:
            assert [each["event"] for each in again.events] == ["already there"] * 3 + ["done"]
            (pod.distro / "private/file").unlink()
            (pod.distro / "private").rmdir()


@pytest.mark.parametrize("mode", [0o555, 0o000])
@pytest.mark.parametrize("own", [False, True], ids=["beside the client's", "the client's"])
def test_a_damaged_tree_with_a_directory_that_the_workload_closed_is_made_anew(pod: Pod, mode: int, own: bool) -> None:
    pod.open_source()
    assert pod.run_unprivileged().status == 0
    os.truncate(pod.distro / "usr/bin/bitfusion", 0)
    if own:
        (pod.distro / "usr/bin").chmod(mode)
    else:
        closed_directory(pod.distro / "foreign", mode)
        if os.geteuid() == 0:
            os.chown(pod.distro / "foreign", NOBODY, NOBODY)

    again = pod.run_unprivileged()

    assert again.status == 0, again.stderr
    assert shape(pod.distro, owners=False) == copied_shape(pod.source, owners=False)
    assert hidden(*pod.volumes) == set()
    assert pod.run_unprivileged().event("already there", what="distro")


def link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def file(path: Path, victim: Path) -> None:
    path.write_text("half")


def directory(path: Path, victim: Path) -> None:
    path.mkdir()
    (path / "file").write_text("half")
    (path / "link").symlink_to(victim.parent)


@pytest.mark.parametrize("make", [link, file, directory])
@pytest.mark.parametrize("first", [True, False], ids=["before the first run", "before another"])
def test_hidden_names_are_taken_away_and_nothing_through_them(
    pod: Pod, make: Callable[[Path, Path], None], first: bool
) -> None:
    victim = pod.directory / "victim"
    victim.write_text("untouched")
    if not first:
        assert pod.run().status == 0
    for volume in pod.volumes:
        make(volume / ".bitfusiond-0123456789abcdef", victim)

    assert pod.run().status == 0

    assert victim.read_text() == "untouched"
    assert whole(pod)


def test_a_name_of_255_bytes_is_copied(pod: Pod) -> None:
    longest = "n" * 255
    (pod.source / "opt/bitfusion" / longest).write_text("x")

    assert pod.run().status == 0

    assert (pod.opt_target / longest).read_text() == "x"
    assert whole(pod)
