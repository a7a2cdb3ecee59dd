"""A second run, changed packages, damaged distros, and runs that were killed or are not alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes import packages
from tests.fakes.processes import running, wait_until
from tests.unit.operate.distros.place import DEB, LIBRARIES, Place, shape

pytestmark = [packages.needs_deb, packages.needs_bsdtar]

# Kills the process when it is about to do something with a name that matches, for the Nth time.
KILLED = """
import os, signal, sys
event, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
def hook(happens, arguments):
    global count
    if happens == event and name in str(arguments):
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
from bitfusiond.operate.distros.__main__ import main
sys.exit(main(sys.argv[4:]))
"""
MOMENTS = [
    ("os.mkdir", f".{DEB}.partial", 1),
    ("subprocess.Popen", "bsdtar", 1),
    ("subprocess.Popen", "bsdtar", 2),
    ("os.chmod", f".{DEB}.partial", 1),
    ("os.rename", DEB, 1),
    ("os.rename", DEB, 2),
    ("open", f"{DEB}.unpacked", 2),
    ("shutil.rmtree", f".{DEB}.old", 1),
    ("open", ".bitfusion-client-config.yaml.partial", 1),
    ("os.rename", "bitfusion-client-config.yaml", 1),
]


def lines(place: Place) -> str:
    """The first line of a run that ends well."""
    result = place.run()
    assert (result.status, result.problems) == (0, [])
    assert place.hidden() == {f".{DEB}.unpacked"}
    return result.lines[0]


def test_an_unchanged_package_is_not_unpacked_again(place: Place) -> None:
    package = packages.deb(place.tree, place.packages, DEB)
    assert lines(place) == f"{DEB}: ubuntu18/450, unpacked, 8.8 MB"
    before = (place.out / DEB).stat().st_ino, place.catalogue.stat().st_mtime_ns
    os.utime(package)  # a copy of the same package is the same package
    assert lines(place) == f"{DEB}: ubuntu18/450, unpacked before"
    assert ((place.out / DEB).stat().st_ino, place.catalogue.stat().st_mtime_ns) == before


def test_a_package_with_other_bytes_is_unpacked_again_even_of_the_same_size_and_time(place: Place) -> None:
    tree = place.small_tree()
    package = packages.deb(tree, place.packages, DEB, compression="none")
    lines(place)
    info = package.stat()
    content = package.read_bytes().replace(b"small", b"SMALL")
    package.write_bytes(content)
    os.utime(package, ns=(info.st_atime_ns, info.st_mtime_ns))

    assert "unpacked, " in lines(place)
    assert (place.out / DEB / LIBRARIES / "libcuda.so.1").read_text() == "SMALL"


@pytest.mark.parametrize(
    "damage",
    [
        "rm opt/bitfusion/VERSION",
        "echo >> opt/bitfusion/VERSION",
        "touch opt/bitfusion/VERSION",
        "chmod u-s opt/bitfusion/bin/helper",
        "mkdir usr/lib",
        "ln -sfn bin opt/bitfusion/lib64",
        f"cp --remove-destination -p {LIBRARIES}/libcuda.so.1 x; mv x {LIBRARIES}/libcuda.so.450.80",
        'mv "$PWD" ../elsewhere; rm -rf ../elsewhere/usr',
    ],
)
def test_a_distro_that_is_not_as_it_was_is_made_anew(place: Place, damage: str) -> None:
    packages.deb(place.tree, place.packages, DEB)
    lines(place)
    subprocess.run(["bash", "-euc", damage], cwd=place.out / DEB, check=True)

    assert "unpacked, " in lines(place)
    assert shape(place.out / DEB) == shape(place.tree)


@pytest.mark.parametrize(("event", "name", "count"), MOMENTS)
def test_killed_anywhere_there_is_no_half_distro_and_the_next_run_ends_right(
    place: Place, event: str, name: str, count: int
) -> None:
    packages.deb(place.small_tree(), place.packages, DEB)
    lines(place)
    packages.deb(place.tree, place.packages, DEB)
    place.catalogue.unlink()
    wholes = [shape(place.out / DEB), shape(place.tree)]

    command = [sys.executable, "-c", KILLED, event, name, str(count), str(place.packages), str(place.out)]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == -signal.SIGKILL

    if (place.out / DEB).exists():
        assert shape(place.out / DEB) in wholes
    wait_until(lambda: place.run().status == 0, "the tool of the killed run ends by itself")
    assert lines(place).endswith("unpacked before")
    assert shape(place.out / DEB) == shape(place.tree)
    assert place.catalogue.exists()


def test_two_runs_at_once_do_not_meet_even_where_one_was_killed_and_its_tool_lives_on(
    place: Place, tmp_path: Path
) -> None:
    packages.deb(place.tree, place.packages, DEB)
    path = place.path_with("bsdtar", "sh", "sleep", "touch")
    real = (path / "bsdtar").readlink()
    (path / "bsdtar").unlink()
    started, go = place.directory / "started", place.directory / "go"
    slow = f'#!/bin/sh\ntouch {started}\nwhile [ ! -e {go} ]; do sleep 0.05; done\nexec {real} "$@"\n'
    (path / "bsdtar").write_text(slow)
    (path / "bsdtar").chmod(0o755)
    command = [
        "env",
        f"PATH={path}",
        sys.executable,
        "-m",
        "bitfusiond.operate.distros",
        str(place.packages),
        str(place.out),
    ]

    with running(command, tmp_path / "log") as first:
        wait_until(started.exists, "the tool is at work")
        alive = place.run()
        first.kill()
        first.wait()
        orphaned = place.run()
        go.touch()

    for refused in (alive, orphaned):
        assert refused.status == 1
        assert refused.problems == [f"OUT_DIR: {place.out}: another run is at work there: wait for its end"]
    wait_until(lambda: place.run().status == 0, "the tool ends")
    assert shape(place.out / DEB) == shape(place.tree)
