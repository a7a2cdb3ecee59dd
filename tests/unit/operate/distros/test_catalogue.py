"""The catalogue that goes with the distros, what is said about it, and ``init`` that installs by it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitfusiond.files import read
from tests.fakes import packages
from tests.fakes.places import tmpfs
from tests.fakes.volumes import OPT, Pod, copied_shape, shape
from tests.unit.operate.distros.place import DEB, LIBRARIES, RPM, Place

pytestmark = [packages.needs_deb, packages.needs_bsdtar]
CENTOS = "bitfusion-client-centos7-4.5.0-4.x86_64.rpm"


@pytest.fixture
def small_disk(place: Place) -> Iterator[Path]:
    """A filesystem of 4 MiB for the distros."""
    place.out.mkdir()
    with tmpfs(place.out, "size=4m") as volume:
        yield volume


@packages.needs_rpm
def test_init_installs_a_client_that_no_packaged_catalogue_has(place: Place) -> None:
    assert ("rocky9", "461") not in read.load_clients(None).clients
    packages.rpm(place.tree, place.packages, RPM)
    place.small_deb()
    assert place.run().status == 0
    volumes = place.directory / "pod"
    volumes.mkdir()
    pod = Pod(volumes)
    pod.distros = place.out

    result = pod.run(os_name="rocky9", version="461")

    assert result.status == 0, result.stderr
    assert shape(pod.distro_target / RPM) == copied_shape(place.out / RPM)
    for top in OPT:
        assert shape(pod.opt_target / top) == copied_shape(place.out / RPM / "opt/bitfusion" / top)
    client = read.load_clients(place.catalogue).find("rocky9", "461")
    seen = pod.distro_target / str(client.library_path).removeprefix("/bitfusion/")
    assert (seen / "libbitfusion.so").resolve().is_file()


def test_the_catalogue_has_the_packages_that_are_there_and_the_end_says_what_to_do_with_it(place: Place) -> None:
    place.small_deb()
    (place.packages / "README (old).txt").touch()
    (place.packages / "directory.deb").mkdir()
    (place.out / "by hand").mkdir(parents=True)

    result = place.run()

    assert (result.status, result.problems) == (0, [])
    assert result.lines == [
        "README (old).txt: ignored, not a package",
        "directory.deb: ignored, no package, nor the tree of a client of the catalogue",
        f"{DEB}: ubuntu18/450, unpacked, 0.0 MB",
        f"{place.out}/by hand: not in the catalogue, as its package is not in {place.packages}",
        f"{place.catalogue}: the catalogue of 1 client. With them in the image, and the catalogue deployed:",
        f"    PACKAGES={place.packages} just build-image",
        f"    CLIENTS={place.catalogue} just deploy",
    ]
    clients = read.load_clients(place.catalogue)
    assert list(clients.clients) == [("ubuntu18", "450")]
    assert clients.default is None
    assert clients.find("ubuntu18", "450").library_path == f"/bitfusion/{DEB}/{LIBRARIES}/"


def test_libraries_in_another_place_of_a_new_version_are_found(place: Place) -> None:
    tree = place.small_tree()
    (tree / LIBRARIES).rename(tree / "opt/bitfusion/moved")
    (tree / "opt/bitfusion/lib64/bitfusion").mkdir(parents=True)
    (tree / "opt/bitfusion/moved").rename(tree / "opt/bitfusion/lib64/bitfusion/lib")
    packages.deb(tree, place.packages, DEB)
    for _ in range(2):
        assert place.run().status == 0
        library_path = read.load_clients(place.catalogue).find("ubuntu18", "450").library_path
        assert library_path == f"/bitfusion/{DEB}/opt/bitfusion/lib64/bitfusion/lib/"


def test_the_operators_default_is_kept(place: Place) -> None:
    place.small_deb()
    assert place.run().status == 0
    with place.catalogue.open("a") as file:
        file.write('Default: {os: ubuntu18, version: "450"}\n')
    place.small_deb("bitfusion-client-ubuntu2204_4.6.1-1_amd64.deb")

    assert place.run().status == 0

    clients = read.load_clients(place.catalogue)
    assert clients.default == ("ubuntu18", "450")
    assert list(clients.clients) == [("ubuntu18", "450"), ("ubuntu22", "461")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('Default: {os: centos7, version: "450"}\n', "Default: there is no client for centos7/450 in BitfusionClients"),
        ("a: [\n", "not YAML: "),
    ],
)
def test_a_catalogue_that_cannot_be_kept_is_left_as_it_is(place: Place, text: str, reason: str) -> None:
    place.small_deb()
    place.out.mkdir()
    place.catalogue.write_text(text)

    result = place.run()

    assert result.status == 1
    (problem,) = result.problems
    assert problem.startswith(f"{place.catalogue}: {reason}")
    assert problem.endswith(": mend the file that is there, or delete it")
    assert place.catalogue.read_text() == text


def test_all_problems_are_said_at_once_and_what_is_right_is_not_done_twice(place: Place) -> None:
    place.small_deb()
    place.small_deb("bitfusion-client-ubuntu1804_4.5.0-5_amd64.deb")
    (place.packages / "bitfusion-client-ubuntu2004_4.5.0-4_arm64.deb").touch()
    (place.packages / "bitfusion-client-ubuntu2004_4.5.0-4_amd64(1).deb").touch()
    truncated = place.small_deb("bitfusion-client-ubuntu2004_4.5.0-4_amd64.deb")
    os.truncate(truncated, truncated.stat().st_size - 100)
    (place.packages / CENTOS).write_bytes(b"<html>Not found</html>")
    tree = place.small_tree("no program")
    (tree / "usr/bin/bitfusion").unlink()
    packages.deb(tree, place.packages, "bitfusion-client-ubuntu2204_4.6.1-1_amd64.deb")
    tree = place.small_tree("no libraries")
    (tree / LIBRARIES / "libcuda.so.1").unlink()
    (tree / LIBRARIES).rmdir()
    packages.deb(tree, place.packages, "bitfusion-client-debian12_4.6.1-1_amd64.deb")

    result = place.run()

    assert result.status == 1
    assert len(result.problems) == 8
    for beginning in (
        "bitfusion-client-ubuntu2004_4.5.0-4_amd64(1).deb: not the name of a client package: it must be",
        "bitfusion-client-ubuntu2004_4.5.0-4_arm64.deb: is for the processor arm64: take the package for amd64",
        f"{DEB} and bitfusion-client-ubuntu1804_4.5.0-5_amd64.deb: all are for ubuntu18/450: keep one of them",
        f"{CENTOS}: cannot be unpacked as it is: ",
        "bitfusion-client-debian12_4.6.1-1_amd64.deb: the library directory opt/bitfusion/lib/x86_64-linux-gnu/",
        "bitfusion-client-ubuntu2004_4.5.0-4_amd64.deb: cannot be unpacked as it is: ",
        "bitfusion-client-ubuntu2204_4.6.1-1_amd64.deb: not a whole client: usr/bin/bitfusion is missing in it",
        f"{place.catalogue}: not written, because of 7 problems",
    ):
        assert sum(problem.startswith(beginning) for problem in result.problems) == 1, (beginning, result.problems)
    assert place.distros() == {DEB, "bitfusion-client-ubuntu1804_4.5.0-5_amd64.deb"}
    assert place.run().lines[0] == f"{DEB}: ubuntu18/450, unpacked before"


def test_no_packages_at_all_is_an_error_with_the_names_that_are_looked_for(place: Place) -> None:
    (place.packages / "client.tar.gz").touch()
    result = place.run()
    assert result.status == 1
    (problem,) = result.problems
    assert problem.startswith(f"{place.packages}: no client packages: their names are bitfusion-client-OS_VERSION")
    assert "such as bitfusion-client-ubuntu1804_4.5.0-4_amd64.deb or " in problem
    assert not place.out.exists()


@pytest.mark.parametrize("suffix", [".deb", ".rpm"])
def test_a_missing_tool_is_named_with_its_debian_package(place: Place, suffix: str) -> None:
    name = DEB if suffix == ".deb" else CENTOS
    (place.packages / name).touch()
    result = place.run(path=place.path_with())
    assert result.status == 1
    assert result.problems[0] == (
        f"{name}: there is no bsdtar to unpack it: install the Debian package libarchive-tools"
    )


def test_directories_that_cannot_be_used_are_wrong_usage(place: Place) -> None:
    package = place.small_deb()

    def problem() -> str:
        result = place.run()
        assert result.status == 2
        (line,) = result.problems
        return line

    place.out = package
    assert problem() == f"OUT_DIR: {package} is not a directory"
    place.out = place.packages / ".." / "packages"
    assert problem().startswith(f"OUT_DIR: {place.out} holds the packages, whose names the distros get")
    place.packages = Path("/no/such/directory")
    assert problem() == "PACKAGES_DIR: /no/such/directory is not a directory"


def test_a_file_in_the_way_of_a_distro_is_left_there(place: Place) -> None:
    place.small_deb()
    place.out.mkdir()
    (place.out / DEB).write_text("the operator's")
    result = place.run()
    assert result.status == 1
    assert result.problems[0] == f"{place.out / DEB}: not a directory, and in the way of the distro: move it elsewhere"
    assert (place.out / DEB).read_text() == "the operator's"


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(place: Place, small_disk: Path) -> None:
    packages.deb(place.tree, place.packages, DEB)

    result = place.run()

    assert result.status == 1
    assert result.problems[0].startswith(f"{DEB}: cannot be unpacked as it is: ")
    assert "No space left on device" in result.problems[0]
    assert list(small_disk.iterdir()) == []
