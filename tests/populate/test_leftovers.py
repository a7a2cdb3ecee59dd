"""What a workload or a killed run left in the volumes, whatever it is: the next run ends right all the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.populate.pod import NOBODY, Pod, hidden, shape, shown

# Root of a container that may not read what is not root's.
WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all")


def truncate_the_program(pod: Pod) -> None:
    os.truncate(pod.distro / "usr/bin/bitfusion", 0)


def closed_directory(path: Path, mode: int) -> None:
    path.mkdir()
    (path / "file").write_text("the workload's")
    path.chmod(mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="run as root: only root can make a directory of another user")
@pytest.mark.parametrize("mode", [0o700, 0o744])  # the second shows its names and nothing about them
def test_a_directory_that_another_user_closed_does_not_make_a_tree_incomplete(pod: Pod, mode: int) -> None:
    pod.run()
    closed_directory(pod.distro / "private", mode)
    os.chown(pod.distro / "private", 1234, 1234)

    again = pod.run_below(WITHOUT_CAPABILITIES)

    assert [each["event"] for each in again.events] == ["already there"] * 3 + ["done"]


@pytest.mark.skipif(os.geteuid() != 0, reason="run as root: only root can make a directory of another user")
def test_a_damaged_tree_is_mended_around_what_another_user_closed(pod: Pod) -> None:
    pod.run()
    closed_directory(pod.distro / "private", 0o700)
    os.chown(pod.distro / "private", 1234, 1234)
    truncate_the_program(pod)

    again = pod.run_below(WITHOUT_CAPABILITIES)

    assert again.event("copied distro")["files"] == 1
    assert (pod.distro / "usr/bin/bitfusion").read_bytes() == (pod.source / "usr/bin/bitfusion").read_bytes()
    assert (pod.distro / "private/file").exists()


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_damaged_tree_with_a_directory_that_the_workload_closed_is_mended(pod: Pod, mode: int) -> None:
    for path in pod.source.rglob("*"):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o444)
    (pod.tokens / "client.yaml").chmod(0o644)
    assert pod.run_unprivileged().status == 0
    closed_directory(pod.distro / "foreign", mode)
    if os.geteuid() == 0:
        os.chown(pod.distro / "foreign", NOBODY, NOBODY)
    truncate_the_program(pod)

    again = pod.run_unprivileged()

    assert again.status == 0, again.stderr
    assert again.event("copied distro")["files"] == 1
    assert not (pod.distro / "foreign").exists()
    assert pod.run_unprivileged().event("already there", what="distro")


def link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def file(path: Path, victim: Path) -> None:
    path.write_text("half")


def directory(path: Path, victim: Path) -> None:
    path.mkdir()
    (path / "file").write_text("half")


@pytest.mark.parametrize("make", [link, file, directory])
@pytest.mark.parametrize("first", [True, False], ids=["before the first run", "before another"])
def test_hidden_names_are_taken_away_and_nothing_is_written_through_them(
    pod: Pod, make: Callable[[Path, Path], None], first: bool
) -> None:
    victim = pod.directory / "victim"
    victim.write_text("untouched")
    if not first:
        assert pod.run().status == 0
    for path in (
        pod.distro_target / ".bitfusiond-sample",
        pod.distro_target / ".bitfusiond-probe",
        pod.opt_target / ".bitfusiond-probe",
        pod.client_dir / ".client.yaml.partial",
    ):
        make(path, victim)

    assert pod.run().status == 0

    assert victim.read_text() == "untouched"
    assert hidden(pod.distro_target) | hidden(pod.opt_target) | hidden(pod.client_dir) == set()
    assert shape(pod.distro) == shape(pod.source)


def test_a_name_too_long_for_a_hidden_one_beside_it_is_copied(pod: Pod) -> None:
    longest = "n" * 255
    (pod.source / "opt/bitfusion" / longest).write_text("x")

    assert pod.run().status == 0

    assert (pod.opt_target / longest).read_text() == "x"
    assert hidden(pod.opt_target) == set()
    assert shape(pod.distro) == shape(pod.source)
    assert longest in shown(pod.opt_target)
