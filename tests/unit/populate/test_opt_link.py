"""``opt`` in the distro's own volume, as the packaged template has it: a link, in place of thousands of names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.fakes.distro import make_distro
from tests.fakes.volumes import PACKAGE, Pod, copied_shape, hidden, shape, shown

OTHER = "bitfusion-client-centos7-4.5.0-4.x86_64.rpm"
INSIDE = f"{PACKAGE}/opt/bitfusion"


@pytest.fixture
def one_volume(pod: Pod) -> Pod:
    pod.opt_target.rmdir()
    pod.opt_target = pod.distro_target / "opt"
    return pod


def test_opt_leads_to_the_libraries_of_the_distro(one_volume: Pod) -> None:
    pod = one_volume
    result = pod.run()

    assert [each["event"] for each in result.events] == ["copied distro", "linked opt", "copied tokens", "done"]
    assert pod.opt_target.readlink() == Path(INSIDE)
    assert shape(pod.distro) == copied_shape(pod.source)
    assert (shown(pod.distro_target), hidden(pod.distro_target)) == ({PACKAGE, "opt"}, set())


def test_it_still_leads_there_where_the_volume_is_mounted_elsewhere(one_volume: Pod) -> None:
    one_volume.run()
    moved = one_volume.distro_target.rename(one_volume.directory / "bitfusion")

    assert (moved / "opt/VERSION").samefile(moved / INSIDE / "VERSION")


def test_a_second_run_finds_it_there(one_volume: Pod) -> None:
    one_volume.run()
    before = one_volume.opt_target.lstat().st_ino

    result = one_volume.run()

    assert [each["event"] for each in result.events] == ["already there"] * 3 + ["done"]
    assert one_volume.opt_target.lstat().st_ino == before


@pytest.mark.parametrize("elsewhere", ["/etc", f"{OTHER}/opt/bitfusion", "nowhere"])
def test_a_link_that_leads_elsewhere_is_replaced_and_nothing_is_written_through_it(
    one_volume: Pod, elsewhere: str
) -> None:
    make_distro(one_volume.distro_target, OTHER)
    before = shape(one_volume.distro_target / OTHER)
    one_volume.opt_target.symlink_to(elsewhere)

    assert one_volume.run().event("linked opt")["to"] == INSIDE

    assert one_volume.opt_target.readlink() == Path(INSIDE)
    assert shape(one_volume.distro_target / OTHER) == before


def test_a_directory_that_is_there_is_filled(one_volume: Pod) -> None:
    one_volume.opt_target.mkdir()

    assert one_volume.run().event("copied opt")
    assert (one_volume.opt_target / "VERSION").samefile(one_volume.distro / "opt/bitfusion/VERSION")


def test_opt_appears_after_the_distro_and_a_killed_run_is_made_good(one_volume: Pod) -> None:
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    # Twice the distro: renamed to its own name, and then the link.
    assert one_volume.run_hooked(kill, "os.rename", 2).status == -9
    assert shown(one_volume.distro_target) == {PACKAGE}
    assert len(hidden(one_volume.distro_target)) == 1

    assert one_volume.run().event("linked opt")

    assert (shown(one_volume.distro_target), hidden(one_volume.distro_target)) == ({PACKAGE, "opt"}, set())


def test_a_lost_distro_is_made_anew_below_the_link(one_volume: Pod) -> None:
    one_volume.run()
    subdirectory = one_volume.distro / "opt/bitfusion/share/doc"
    subdirectory.chmod(0o755)
    shutil.rmtree(one_volume.distro)
    assert not one_volume.opt_target.exists()
    assert os.path.lexists(one_volume.opt_target)

    assert one_volume.run().event("already there", what="opt")

    assert shape(one_volume.distro) == copied_shape(one_volume.source)
