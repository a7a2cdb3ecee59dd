"""A tree, packed by the tools that build real packages, comes out as it was."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes import packages
from tests.unit.operate.distros.place import DEB, NOBODY, RPM, UNPRIVILEGED, Place, shape

PACKED = [
    pytest.param(packages.deb, DEB, marks=[packages.needs_deb, packages.needs_bsdtar]),
    pytest.param(packages.rpm, RPM, marks=[packages.needs_rpm, packages.needs_bsdtar]),
]
Build = Callable[[Path, Path, str], Path]


@pytest.mark.parametrize(("build", "name"), PACKED)
def test_a_tree_survives_byte_for_byte_mode_for_mode_and_second_for_second(
    place: Place, build: Build, name: str
) -> None:
    build(place.tree, place.packages, name)

    result = place.run()

    assert (result.status, result.problems) == (0, [])
    assert result.lines[0].endswith(", unpacked, 8.8 MB")
    made, wanted = shape(place.out / name), shape(place.tree)
    if build is packages.rpm:  # which does not list them, as they are not the package's own
        for each in ("usr", "opt"):
            assert made.pop(each)[0] == wanted.pop(each)[0] == "drwxr-xr-x"
    assert made == wanted
    assert (place.out / name).stat().st_mode & 0o7777 == 0o755
    assert made["opt/bitfusion/bin/helper"][0] == "-rwsr-xr-x"
    assert made["opt/bitfusion/share/nothing yet"][0] == "drwxrwxrwt"
    assert not packages.TRACE.exists(), "a maintainer script was run"


@pytest.mark.parametrize(("build", "name"), PACKED)
def test_without_root_all_but_the_owners_survives(place: Place, build: Build, name: str) -> None:
    build(place.tree, place.packages, name)
    place.out.mkdir()
    place.out.chmod(0o777)

    first, second = (place.run(program=("-c", UNPRIVILEGED)) for _ in range(2))

    assert (first.status, first.problems) == (0, [])
    made, wanted = shape(place.out / name), shape(place.tree)
    unreadable = "opt/bitfusion/share/doc/caf\udce9"  # mode 0600 is no hindrance: the files are the user's own
    assert made[unreadable] == wanted[unreadable]
    assert {path: each for path, each in made.items() if path not in {"usr", "opt"}} == {
        path: each for path, each in wanted.items() if path not in {"usr", "opt"}
    }
    owner = NOBODY if os.geteuid() == 0 else os.geteuid()
    assert {path.lstat().st_uid for path in (place.out / name).rglob("*")} == {owner}
    assert second.lines[0].endswith("unpacked before")

    # Directories that their owner may not write to can be taken away and made again.
    build(place.small_tree(), place.packages, name)
    assert place.run(program=("-c", UNPRIVILEGED)).status == 0
    assert (place.out / name / "usr/bin/bitfusion").read_text() == "#!/bin/sh\n"


@packages.needs_deb
@packages.needs_bsdtar
@pytest.mark.parametrize("compression", ["none", "xz", "zstd"])
def test_every_compression_of_a_deb_is_read(place: Place, compression: str) -> None:
    packages.deb(place.tree, place.packages, DEB, compression=compression)
    assert place.run().status == 0
    assert shape(place.out / DEB) == shape(place.tree)


@packages.needs_rpm
@packages.needs_bsdtar
@pytest.mark.parametrize("payload", ["w6.xzdio", "w9.bzdio", "w3.zstdio"])
def test_every_compression_of_an_rpm_is_read(place: Place, payload: str) -> None:
    packages.rpm(place.tree, place.packages, RPM, payload=payload)
    assert place.run().status == 0
    assert shape(place.out / RPM)["opt/bitfusion/VERSION"] == shape(place.tree)["opt/bitfusion/VERSION"]


@packages.needs_deb
def test_dpkg_deb_will_do_for_a_deb_and_loses_but_times_of_directories(place: Place) -> None:
    packages.deb(place.tree, place.packages, DEB)

    result = place.run(path=place.path_with("dpkg-deb", "tar"))

    assert (result.status, result.problems) == (0, [])
    made, wanted = shape(place.out / DEB), shape(place.tree)
    assert made.keys() == wanted.keys()
    for path, each in made.items():
        assert each == wanted[path] or (str(each[0])[0] == "d" and each[0] == wanted[path][0]), path
    assert not packages.TRACE.exists(), "a maintainer script was run"


@packages.needs_deb
@packages.needs_bsdtar
def test_a_private_umask_and_a_private_top_directory_of_a_package_bar_nobody(place: Place) -> None:
    """`populate` runs as the workload's user."""
    tree = place.small_tree()
    tree.chmod(0o700)
    packages.deb(tree, place.packages, DEB)
    if shutil.which("rpmbuild"):
        packages.rpm(tree, place.packages, RPM)
    start = "from bitfusiond.operate.distros.__main__ import main; sys.exit(main(sys.argv[1:]))"
    code = f"import os, sys; os.umask(0o077); {start}"

    assert place.run(program=("-c", code)).status == 0

    for name in place.distros():
        for path in [place.out / name, *(place.out / name).rglob("*")]:
            assert path.stat().st_mode & 0o044 == 0o044, path
