"""Client packages: what a file name says, and the catalogue document for the packages that were unpacked.

The names are those under which the clients are published, ``bitfusion-client-ubuntu1804_4.5.0-4_amd64.deb`` and
``bitfusion-client-centos7-4.5.0-4.x86_64.rpm``; a new guest OS or version fits in without code.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from bitfusiond.core.clients.client import BINARY
from bitfusiond.core.clients.entries import ROOT
from bitfusiond.core.fields import Json
from bitfusiond.core.quantity import MEGABYTE
from bitfusiond.core.text import shown

SUFFIXES = (".deb", ".rpm")
NAMES = (
    "bitfusion-client-OS_VERSION-RELEASE_amd64.deb, such as bitfusion-client-ubuntu1804_4.5.0-4_amd64.deb",
    "bitfusion-client-OS-VERSION-RELEASE.x86_64.rpm, such as bitfusion-client-centos7-4.5.0-4.x86_64.rpm",
)
PROGRAM = BINARY.removeprefix("/")
OPT = "opt/bitfusion"
_OS = r"bitfusion-client-(?P<os>[a-z]+)(?P<release>\d+)"
_VERSION = r"(?P<version>\d+(\.\d+){2,})-[A-Za-z0-9.~+]+"
_FORMS = {
    ".deb": (re.compile(rf"{_OS}_{_VERSION}_(?P<arch>[a-z0-9]+)\.deb", re.ASCII), "amd64"),
    ".rpm": (re.compile(rf"{_OS}-{_VERSION}\.(?P<arch>\w+)\.rpm", re.ASCII), "x86_64"),
}
_LIBRARIES = "opt/bitfusion/lib/x86_64-linux-gnu/bitfusion/lib"
_LIKE_LIBRARIES = re.compile(r"opt/bitfusion/(.+/)?bitfusion/lib")


class PackageError(ValueError):
    """A package that cannot be a client's; the message names it and says what would be right."""


class Package(NamedTuple):
    """A package by its file name; ``os`` and ``version`` as the catalogue and the annotations say them."""

    file: str
    os: str
    version: str

    def __str__(self) -> str:
        return f"{self.os}/{self.version}"


def parse(file: str) -> Package:
    """What a file name says: ``ubuntu1804`` and ``4.5.0-4`` are ``ubuntu18`` and ``450``, as documented for 0.4.

    Raises PackageError.
    """
    form, wanted = next((form for suffix, form in _FORMS.items() if file.endswith(suffix)), (None, ""))
    match = form.fullmatch(file) if form else None
    if match is None:
        raise PackageError(f"{shown(file)}: not the name of a client package: it must be {' or '.join(NAMES)}")
    if match["arch"] != wanted:
        raise PackageError(f"{file}: is for the processor {match['arch']}: take the package for {wanted}")
    # Ubuntu's four digits are year and month; the catalogue has the year alone.
    release = match["release"][:2] if match["os"] == "ubuntu" and len(match["release"]) == 4 else match["release"]
    return Package(file, match["os"] + release, match["version"].replace(".", ""))


def clashes(packages: Iterable[Package]) -> list[str]:
    """One line for each pair of OS and version that several packages are for: a pod could not say which it means."""
    files: dict[str, list[str]] = {}
    for package in packages:
        files.setdefault(str(package), []).append(package.file)
    return [
        f"{' and '.join(sorted(same))}: all are for {pair}: keep one of them"
        for pair, same in files.items()
        if same[1:]
    ]


def library_directory(file: str, directories: Iterable[str]) -> str:
    """Where the libraries are, among the ``directories`` of a tree (paths relative to it).

    The place of the known versions, or else the only directory below ``opt/bitfusion`` that is called
    ``bitfusion/lib``. Raises PackageError.
    """
    candidates = sorted(path for path in directories if _LIKE_LIBRARIES.fullmatch(path))
    if _LIBRARIES in candidates:
        return _LIBRARIES
    if len(candidates) == 1:
        return candidates[0]
    there = f"there are {', '.join(candidates)}" if candidates else "there is none like it"
    raise PackageError(f"{file}: the library directory {_LIBRARIES} is not in the package, and {there}")


def document(
    libraries: Mapping[Package, str], default: object = None, sizes: Mapping[Package, int] | None = None
) -> Json:
    """``bitfusion-client-config.yaml`` for packages and the library directories in their trees.

    ``default`` is the operator's ``Default``, if there is one; ``catalogue.parse`` says whether it fits. ``sizes`` are
    the bytes of the trees, where they are known.
    """
    kept = {} if default is None else {"Default": default}
    entries = [_entry(package, path, (sizes or {}).get(package)) for package, path in libraries.items()]
    return {**kept, "BitfusionClients": entries}


def _entry(package: Package, libraries: str, size: int | None) -> dict[str, str]:
    tree = f"{ROOT}/{package.file}"
    return {
        "BitfusionVersion": package.version,
        "OSVersion": package.os,
        "BinaryPath": f"{tree}{BINARY}",
        "EnvVariable": f"{tree}/{libraries}/",
        **({} if size is None else {"Size": f"{-(-size // MEGABYTE)}M"}),
    }


def shortcomings(present: Mapping[str, tuple[int, int]]) -> list[str]:
    """What of PROGRAM and OPT a tree lacks: ``present`` has the mode and the size in bytes of what is there of them.

    The program may be a link, such as one into OPT; where it leads to is the package's affair.
    """
    problems = [f"{name} is missing in it" for name in (PROGRAM, OPT) if name not in present]
    mode, size = present.get(PROGRAM, (stat.S_IFLNK, 0))
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        problems.append(f"{PROGRAM} is not a file")
    elif stat.S_ISREG(mode) and size == 0:
        problems.append(f"{PROGRAM} is empty")
    if not stat.S_ISDIR(present.get(OPT, (stat.S_IFDIR, 0))[0]):
        problems.append(f"{OPT} is not a directory")
    return problems
