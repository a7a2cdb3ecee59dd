"""What the file names of client packages say, and the catalogue document that is made of them."""

from __future__ import annotations

import stat

import pytest

from bitfusiond.core.clients import catalogue, packages
from bitfusiond.core.clients.packages import PackageError
from bitfusiond.core.text import shown
from bitfusiond.files import read

LIBRARIES = "opt/bitfusion/lib/x86_64-linux-gnu/bitfusion/lib"


@pytest.mark.parametrize(
    ("file", "os", "version"),
    [
        ("bitfusion-client-ubuntu1804_4.5.0-4_amd64.deb", "ubuntu18", "450"),
        ("bitfusion-client-ubuntu2004_4.0.1-5_amd64.deb", "ubuntu20", "401"),
        ("bitfusion-client-ubuntu2204_4.6.1-1_amd64.deb", "ubuntu22", "461"),
        ("bitfusion-client-debian12_4.10.0-12~rc1_amd64.deb", "debian12", "4100"),
        ("bitfusion-client-centos7-4.5.0-4.x86_64.rpm", "centos7", "450"),
        ("bitfusion-client-centos8-4.0.1-5.x86_64.rpm", "centos8", "401"),
        ("bitfusion-client-rocky8-4.6.1-2.x86_64.rpm", "rocky8", "461"),
        ("bitfusion-client-rhel9-4.6.1.2-2.el9.x86_64.rpm", "rhel9", "4612"),
    ],
)
def test_a_file_name_says_os_and_version_as_the_catalogue_does(file: str, os: str, version: str) -> None:
    assert packages.parse(file) == (file, os, version)


def test_the_packaged_catalogue_is_what_its_packages_make() -> None:
    """All eight documented clients, each from its package's name alone."""
    known = read.load_clients(None)
    found = [packages.parse(client.package) for client in known.clients.values()]
    assert catalogue.parse(packages.document(dict.fromkeys(found, LIBRARIES))).clients == known.clients


@pytest.mark.parametrize(
    "file",
    [
        "bitfusion-client-ubuntu1804_4.5.0-4_amd64.deb.part",
        "bitfusion-client-ubuntu1804_4.5.0-4_amd64 (1).deb",
        "bitfusion-client-ubuntu1804-4.5.0-4_amd64.deb",
        "bitfusion-client-ubuntu_4.5.0-4_amd64.deb",
        "bitfusion-client-ubuntu1804_4.5-4_amd64.deb",
        "bitfusion-client-ubuntu1804_4.5.0_amd64.deb",
        "bitfusion-client-centos7_4.5.0-4_x86_64.rpm",
        "bitfusion-client-centos7-4.5.0-4.rpm",
        "bitfusion-server-centos7-4.5.0-4.x86_64.rpm",
        "../bitfusion-client-centos7-4.5.0-4.x86_64.rpm",
        "bitfusion-client-centos7-4.5.0-4.x86_64.rpm\n",
        "curl_7.88.1-10_amd64.deb",
        "",
    ],
)
def test_another_name_is_refused_with_the_names_that_are_right(file: str) -> None:
    with pytest.raises(PackageError) as error:
        packages.parse(file)
    assert str(error.value).startswith(
        f"{shown(file)}: not the name of a client package: it must be bitfusion-client-OS_"
    )
    assert "such as bitfusion-client-centos7-4.5.0-4.x86_64.rpm" in str(error.value)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (
            "bitfusion-client-ubuntu1804_4.5.0-4_arm64.deb",
            "is for the processor arm64: take the package for amd64",
        ),
        (
            "bitfusion-client-centos8-4.5.0-4.aarch64.rpm",
            "is for the processor aarch64: take the package for x86_64",
        ),
    ],
)
def test_a_package_for_another_processor_is_refused(file: str, message: str) -> None:
    with pytest.raises(PackageError) as error:
        packages.parse(file)
    assert str(error.value) == f"{file}: {message}"


def test_two_packages_for_one_pair_are_refused_by_name() -> None:
    files = [
        "bitfusion-client-ubuntu1804_4.5.0-5_amd64.deb",
        "bitfusion-client-centos7-4.5.0-4.x86_64.rpm",
        "bitfusion-client-ubuntu1804_4.5.0-4_amd64.deb",
        "bitfusion-client-ubuntu1810_4.5.0-4_amd64.deb",
    ]
    (problem,) = packages.clashes(map(packages.parse, files))
    assert problem == (
        "bitfusion-client-ubuntu1804_4.5.0-4_amd64.deb and bitfusion-client-ubuntu1804_4.5.0-5_amd64.deb and "
        "bitfusion-client-ubuntu1810_4.5.0-4_amd64.deb: all are for ubuntu18/450: keep one of them"
    )
    assert packages.clashes(map(packages.parse, files[:2])) == []


@pytest.mark.parametrize(
    ("directories", "found"),
    [
        ([LIBRARIES], LIBRARIES),
        (["opt/bitfusion/lib", LIBRARIES, "opt/bitfusion/lib32/bitfusion/lib"], LIBRARIES),
        (["opt/bitfusion/lib", "opt/bitfusion/lib64/bitfusion/lib"], "opt/bitfusion/lib64/bitfusion/lib"),
        (["opt/bitfusion/bitfusion/lib"], "opt/bitfusion/bitfusion/lib"),
    ],
)  # fmt: skip
def test_the_library_directory_is_found_in_the_tree(directories: list[str], found: str) -> None:
    assert packages.library_directory("x.deb", directories) == found


@pytest.mark.parametrize(
    ("directories", "there"),
    [
        (["opt/bitfusion/lib", "usr/bitfusion/lib", "opt/bitfusion/lib/bitfusion/lib64"], "there is none like it"),
        (["opt/bitfusion/b/bitfusion/lib", "opt/bitfusion/a/bitfusion/lib"],
         "there are opt/bitfusion/a/bitfusion/lib, opt/bitfusion/b/bitfusion/lib"),
    ],
)  # fmt: skip
def test_none_or_several_library_directories_are_refused(directories: list[str], there: str) -> None:
    with pytest.raises(PackageError) as error:
        packages.library_directory("x.deb", directories)
    assert str(error.value) == f"x.deb: the library directory {LIBRARIES} is not in the package, and {there}"


def test_the_document_points_to_where_a_pod_sees_the_tree_and_keeps_the_default() -> None:
    package = packages.parse("bitfusion-client-rocky8-4.6.1-2.x86_64.rpm")
    default = {"os": "rocky8", "version": "461"}
    parsed = catalogue.parse(packages.document({package: "opt/bitfusion/lib64/bitfusion/lib"}, default))
    client = parsed.find("rocky8", "461")
    assert client.binary_path == f"/bitfusion/{package.file}/usr/bin/bitfusion"
    assert client.library_path == f"/bitfusion/{package.file}/opt/bitfusion/lib64/bitfusion/lib/"
    assert parsed.default == ("rocky8", "461")
    assert "Default" not in packages.document({package: LIBRARIES})
    assert client.size is None
    sized = catalogue.parse(packages.document({package: LIBRARIES}, sizes={package: 350_000_001}))
    assert sized.find("rocky8", "461").size == 351_000_000


FILE, DIRECTORY, LINK = (stat.S_IFREG, 5), (stat.S_IFDIR, 4096), (stat.S_IFLNK, 20)


@pytest.mark.parametrize("program", [FILE, LINK])
def test_a_program_and_a_directory_of_libraries_are_a_whole_client(program: tuple[int, int]) -> None:
    assert packages.shortcomings({"usr/bin/bitfusion": program, "opt/bitfusion": DIRECTORY}) == []


def test_what_a_whole_client_lacks_is_named() -> None:
    assert packages.shortcomings({}) == ["usr/bin/bitfusion is missing in it", "opt/bitfusion is missing in it"]


@pytest.mark.parametrize(
    ("program", "problem"),
    [(DIRECTORY, "is not a file"), ((stat.S_IFREG, 0), "is empty"), ((stat.S_IFIFO, 0), "is not a file")],
)
@pytest.mark.parametrize("libraries", [FILE, LINK])
def test_what_a_whole_client_has_as_another_kind_is_named(
    program: tuple[int, int], problem: str, libraries: tuple[int, int]
) -> None:
    assert packages.shortcomings({"usr/bin/bitfusion": program, "opt/bitfusion": libraries}) == [
        f"usr/bin/bitfusion {problem}",
        "opt/bitfusion is not a directory",
    ]
