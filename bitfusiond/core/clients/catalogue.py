"""The client catalogue: which remoting client serves a pod, and where its files are there."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bitfusiond.core import quantity
from bitfusiond.core.clients import entries
from bitfusiond.core.clients.client import BINARY, BITFUSION, Client, Group
from bitfusiond.core.clients.entries import LONGEST_CLIENT_NAME
from bitfusiond.core.fields import Field
from bitfusiond.core.text import shown

_KEYS = ("BitfusionClients", "Clients", "Default")
_FIELDS = ("BitfusionVersion", "OSVersion", "BinaryPath", "EnvVariable")
_SIZE = "Size"  # ours, and optional
_NAMES = ("BitfusionVersion", "OSVersion")  # by which a pod asks for a client
# What `bitfusion run` takes. A container asks for a share of memory by one of the two.
_WRAP: tuple[Group, ...] = (
    ("{binary}", "run", "-n", "{gpus}"),
    ("-m", "{megabytes}"),
    ("-p", "{fraction}"),
    ("--filter", "{filters}"),
    ("--",),
)


class CatalogueError(ValueError):
    """The operator's catalogue is wrong; the message names every problem, separated by ``; ``."""


class UnknownClientError(LookupError):
    """No client for this OS and version; the message lists the pairs that there are."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The documented clients by (OS, version), and ``others``, in the order of the file.

    ``default`` is the pair for pods that name neither OS nor version.
    """

    clients: Mapping[tuple[str, str], Client]
    default: tuple[str, str] | None = None
    others: tuple[Client, ...] = ()

    def find(self, os: str, version: str) -> Client:
        """A documented client. Raises UnknownClientError that lists what there is."""
        try:
            return self.clients[os, version]
        except KeyError:
            raise UnknownClientError(
                f"there is no client for os {os!r} version {version!r}; {self.choices()}"
            ) from None

    def choices(self) -> str:
        pairs = ", ".join(shown(str(client)) for client in self.clients.values())
        return f"choose one of {pairs} (os/version)"

    def named(self, name: str, os: str | None, version: str | None) -> Client:
        """The client ``name``, other than Bitfusion's, for what a pod says of OS and version; None = nothing.

        Raises UnknownClientError that lists what there is.
        """
        known = [each for each in self.others if each.name == name]
        if not known:
            all_names = dict.fromkeys([BITFUSION, *(each.name for each in self.others)])
            raise UnknownClientError(f"there is no client {shown(name)}; choose one of {', '.join(all_names)}")
        fitting = [
            each
            for each in known
            if (os is None or each.os in {None, os}) and (version is None or each.version in {None, version})
        ]
        if len(fitting) == 1:
            return fitting[0]
        asked = "".join(f" {word} {shown(value)}" for word, value in (("os", os), ("version", version)) if value)
        problem = f"several clients {name} fit" if fitting else f"there is no client {name} for{asked}"
        raise UnknownClientError(f"{problem}; choose os and version of one of {', '.join(map(str, fitting or known))}")


def parse(document: object) -> Catalogue:
    """The catalogue out of a parsed ``bitfusion-client-config.yaml``. Raises CatalogueError."""
    if not isinstance(document, dict):
        raise CatalogueError("the file must be a mapping with the key BitfusionClients")
    file = Field(document)
    others = entries.read(file["Clients"])
    documented = document.get("BitfusionClients")
    if documented is None and (others or file.problems):
        documented = []
    if not isinstance(documented, list) or not (documented or others or file.problems):
        raise CatalogueError("BitfusionClients must be a list with at least one client, or Clients")
    wheres = [f"BitfusionClients[{index}]" for index in range(len(documented))]
    faults = [_faults(entry, where) for entry, where in zip(documented, wheres, strict=True)]
    problems = [*itertools.chain.from_iterable(faults)]
    clients: dict[tuple[str, str], Client] = {}
    for entry, where, wrong in zip(documented, wheres, faults, strict=True):
        if wrong:
            continue
        client = _bitfusion(entry)
        pair = (str(client.os), str(client.version))
        if pair in clients:
            problems.append(f"{where}: a second client for {shown(str(client))}: keep one of them")
        clients[pair] = client
    default = document.get("Default")
    problems += [*file.problems, *_faults_of_default(default, clients)]
    problems += [f"unknown key {key!r}: allowed are {', '.join(_KEYS)}" for key in document if key not in _KEYS]
    if problems:
        raise CatalogueError("; ".join(problems))
    return Catalogue(clients, (str(default["os"]), str(default["version"])) if default else None, others)


def _bitfusion(entry: Mapping[str, object]) -> Client:
    """A documented entry, as what it is short for."""
    version, os, binary, library = (str(entry[field]) for field in _FIELDS)
    return Client(
        name=BITFUSION,
        os=os,
        version=version,
        tree=binary.removesuffix(BINARY),
        binary_path=binary,
        library_path=library,
        wrap=_WRAP,
        takes_tokens=True,
        size=quantity.integer(entry[_SIZE]) if _SIZE in entry else None,
    )


def _faults(entry: object, where: str) -> list[str]:
    """What is wrong with one entry; ``where`` is its place in the file."""
    if not isinstance(entry, dict):
        return [f"{where} must be a mapping of {', '.join(_FIELDS)}"]
    faults = [fault for field in _FIELDS for fault in _faults_of_field(entry.get(field), field, where)]
    allowed = (*_FIELDS, _SIZE)
    faults += [f"{where}: unknown key {key!r}: allowed are {', '.join(allowed)}" for key in entry if key not in allowed]
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
    if not entries.is_size(value):
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
