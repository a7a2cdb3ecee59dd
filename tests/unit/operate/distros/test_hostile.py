"""Packages whose files would land elsewhere: nothing outside of the distro's own directory is ever touched."""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.fakes import packages
from tests.fakes.packages import Member
from tests.unit.operate.distros.place import DEB, RPM, Place

LINK, DIRECTORY, FIFO = stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o755, stat.S_IFIFO | 0o644
# OUTSIDE becomes a directory that is there. A distro is made two levels below what the links and `..` lead to.
ESCAPES = {
    "an absolute name": [Member("OUTSIDE/file")],
    "a name with ..": [Member("./../../outside/file")],
    "a name with .. inside": [Member("./opt", DIRECTORY), Member("./opt/../../../outside/file")],
    "a file behind an absolute link": [Member("./opt", LINK, "OUTSIDE"), Member("./opt/file")],
    "a file behind a relative link": [Member("./opt", LINK, "../../outside"), Member("./opt/file")],
    "a file behind two links": [
        Member("./a", LINK, ".."),
        Member("./b", LINK, "a/../outside"),
        Member("./b/file"),
    ],
}
Build = Callable[[Sequence[Member], Path, str], Path]


def outside(place: Place) -> Path:
    directory = place.directory / "outside"
    directory.mkdir(exist_ok=True)
    return directory


def members(place: Place, wanted: Sequence[Member]) -> list[Member]:
    there = str(outside(place))
    return [
        member._replace(name=member.name.replace("OUTSIDE", there), content=member.content.replace("OUTSIDE", there))
        for member in wanted
    ]


def refused(place: Place, name: str, *, path: Path | None = None) -> str:
    """Run; return the problem. Nothing of the package is left."""
    result = place.run(path=path)
    assert result.status == 1
    assert result.problems[1:] == [f"{place.catalogue}: not written, because of 1 problem"]
    assert result.problems[0].startswith(f"{name}: ")
    assert place.distros() == place.hidden() == set()
    return result.problems[0].removeprefix(f"{name}: ")


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize(
    ("build", "name"),
    [
        pytest.param(packages.hostile_deb, DEB, marks=packages.needs_bsdtar),
        pytest.param(packages.hostile_rpm, RPM, marks=[packages.needs_bsdtar, packages.needs_rpm]),
    ],
)
def test_a_package_that_would_escape_is_refused(place: Place, build: Build, name: str, escape: str) -> None:
    build(members(place, ESCAPES[escape]), place.packages, name)
    assert refused(place, name).startswith("cannot be unpacked as it is: ")
    assert list(outside(place).iterdir()) == []


@packages.needs_deb
@pytest.mark.parametrize("escape", ESCAPES)
def test_dpkg_deb_lets_nothing_escape_either(place: Place, escape: str) -> None:
    packages.hostile_deb(members(place, ESCAPES[escape]), place.packages, DEB)
    assert refused(place, DEB, path=place.path_with("dpkg-deb", "tar")).startswith("cannot be unpacked as it is: ")
    assert list(outside(place).iterdir()) == []


@packages.needs_bsdtar
def test_a_link_that_is_replaced_by_what_it_hides_is_not_followed(place: Place) -> None:
    there = outside(place)
    (there / "file").write_text("untouched")
    hidden = [
        Member("./usr/bin/bitfusion", LINK, f"{there}/file"),
        Member("./usr/bin/bitfusion", content="the client"),
        Member("./opt/bitfusion/lib/x86_64-linux-gnu/bitfusion/lib", DIRECTORY),
    ]
    packages.hostile_deb(hidden, place.packages, DEB)

    assert place.run().status == 0

    assert (there / "file").read_text() == "untouched"
    program = place.out / DEB / "usr/bin/bitfusion"
    assert not program.is_symlink()
    assert program.read_text() == "the client"


@packages.needs_bsdtar
def test_a_program_that_is_no_file_and_libraries_in_no_directory_are_refused(place: Place) -> None:
    packages.hostile_deb([Member("./usr/bin/bitfusion", DIRECTORY), Member("./opt/bitfusion")], place.packages, DEB)
    assert refused(place, DEB) == (
        "not a whole client: usr/bin/bitfusion is not a file, opt/bitfusion is not a directory"
    )


@packages.needs_bsdtar
def test_what_is_no_file_directory_or_link_is_refused(place: Place) -> None:
    """`init` could not copy it."""
    tree = [
        Member("./usr/bin/bitfusion", content="the client"),
        Member("./opt/bitfusion/lib/x86_64-linux-gnu/bitfusion/lib", DIRECTORY),
        Member("./opt/bitfusion/pipe", FIFO),
    ]
    packages.hostile_deb(tree, place.packages, DEB)
    assert refused(place, DEB) == "not a whole client: opt/bitfusion/pipe is neither a file, a directory nor a link"
