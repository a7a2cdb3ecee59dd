"""The client catalogue: which Bitfusion client serves a guest OS and a version, and where its files are in a pod."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bitfusiond.core import quantity
from bitfusiond.core.text import shown

BINARY = "/usr/bin/bitfusion"  # in every tree
_FIELDS = ("BitfusionVersion", "OSVersion", "BinaryPath", "EnvVariable")
_SIZE = "Size"  # ours, and optional
_NAMES = ("BitfusionVersion", "OSVersion")  # by which a pod asks for a client
LONGEST_CLIENT_NAME = 63  # characters


class CatalogueError(ValueError):
    """The operator's catalogue is wrong; the message names every problem, separated by ``; ``."""


class UnknownClientError(LookupError):
    """No client for this OS and version; the message lists the pairs that there are."""


@dataclass(frozen=True, slots=True)
class Client:
    """One entry: ``binary_path`` is ``<tree>/usr/bin/bitfusion``, ``library_path`` a directory in the same tree.

    ``size`` is what the tree takes on a disk, in bytes; None = not known.
    """

    os: str
    version: str
    binary_path: str
    library_path: str
    size: int | None = None

    @property
    def package(self) -> str:
        """The name of the tree: the file name of the package that it was unpacked from."""
        return posixpath.basename(self.binary_path.removesuffix(BINARY))

    @property
    def wants_reachable(self) -> bool:
        """Whether its servers.conf needs the field ``reachable``: the clients before version 4 do.

        Source: the README of the 0.4 integration, section 2.2, Option B (for its "client version 3.5").
        """
        return int(self.version[0]) < 4 if self.version[:1].isdecimal() else False


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Clients by (OS, version), in the order of the file, and the pair for pods that name neither."""

    clients: Mapping[tuple[str, str], Client]
    default: tuple[str, str] | None = None

    def find(self, os: str, version: str) -> Client:
        """Raises UnknownClientError that lists what there is."""
        try:
            return self.clients[os, version]
        except KeyError:
            raise UnknownClientError(
                f"there is no client for os {os!r} version {version!r}; {self.choices()}"
            ) from None

    def choices(self) -> str:
        pairs = ", ".join(shown(f"{os}/{version}") for os, version in self.clients)
        return f"choose one of {pairs} (os/version)"


def parse(document: object) -> Catalogue:
    """The catalogue out of a parsed ``bitfusion-client-config.yaml``. Raises CatalogueError."""
    if not isinstance(document, dict):
        raise CatalogueError("the file must be a mapping with the key BitfusionClients")
    entries = document.get("BitfusionClients")
    if not isinstance(entries, list) or not entries:
        raise CatalogueError("BitfusionClients must be a list with at least one client")
    wheres = [f"BitfusionClients[{index}]" for index in range(len(entries))]
    faults = [_faults(entry, where) for entry, where in zip(entries, wheres, strict=True)]
    problems = [*itertools.chain.from_iterable(faults)]
    clients: dict[tuple[str, str], Client] = {}
    for entry, where, wrong in zip(entries, wheres, faults, strict=True):
        if wrong:
            continue
        version, os, binary, library = (str(entry[field]) for field in _FIELDS)
        if (os, version) in clients:
            problems.append(f"{where}: a second client for {shown(f'{os}/{version}')}: keep one of them")
        size = quantity.integer(entry[_SIZE]) if _SIZE in entry else None
        clients[os, version] = Client(os, version, binary, library, size)
    default = document.get("Default")
    problems += _faults_of_default(default, clients)
    problems += [
        f"unknown key {key!r}: allowed are BitfusionClients, Default"
        for key in document
        if key not in {"BitfusionClients", "Default"}
    ]
    if problems:
        raise CatalogueError("; ".join(problems))
    return Catalogue(clients, (str(default["os"]), str(default["version"])) if default else None)


def _faults(entry: object, where: str) -> list[str]:
    """What is wrong with one entry; ``where`` is its place in the file."""
    if not isinstance(entry, dict):
        return [f"{where} must be a mapping of {', '.join(_FIELDS)}"]
    faults = [fault for field in _FIELDS for fault in _faults_of_field(entry.get(field), field, where)]
    faults += [f"{where}: unknown key {key!r}" for key in entry if key not in {*_FIELDS, _SIZE}]
    faults += _faults_of_size(entry[_SIZE], where) if _SIZE in entry else ()
    return faults or [*_faults_of_paths(entry["BinaryPath"], entry["EnvVariable"], where)]


def _faults_of_field(value: object, field: str, where: str) -> Iterator[str]:
    # YAML reads an unquoted 450 as a number: operators leave the quotes out, and it means the same.
    number = field == "BitfusionVersion" and isinstance(value, int) and not isinstance(value, bool)
    if not number and not (isinstance(value, str) and value.strip()):
        yield f"{where}.{field} must be a string that is not empty, not {value!r}"
    elif field in _NAMES and len(str(value)) > LONGEST_CLIENT_NAME:
        yield f"{where}.{field} has {len(str(value))} characters: at most {LONGEST_CLIENT_NAME} are allowed"


def _faults_of_size(value: object, where: str) -> Iterator[str]:
    try:
        quantity.integer(value)
    except ValueError:
        yield f"{where}.{_SIZE} must be a number of bytes such as 350M, not {value!r}"


def _faults_of_paths(binary: str, library: str, where: str) -> Iterator[str]:
    tree = binary.removesuffix(BINARY)
    if tree == binary or not tree.startswith("/") or posixpath.basename(tree) in {"", ".", ".."}:
        yield f"{where}.BinaryPath must be /bitfusion/PACKAGE{BINARY}, not {binary!r}"
    elif not posixpath.normpath(library).startswith(tree + "/"):
        yield f"{where}.EnvVariable must be a directory below {shown(tree)}, not {library!r}"


def _faults_of_default(value: object, clients: Mapping[tuple[str, str], Client]) -> Iterator[str]:
    if value is None:
        return
    if not isinstance(value, dict) or set(value) != {"os", "version"}:
        yield f"Default must be a mapping of os and version, not {value!r}"
    elif (pair := (str(value["os"]), str(value["version"]))) not in clients:
        yield f"Default: there is no client for {shown('/'.join(pair))} in BitfusionClients"
