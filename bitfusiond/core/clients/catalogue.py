"""The client catalogue: which remoting client serves a pod, and where its files are there."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitfusiond.core import quantity
from bitfusiond.core.clients import entries
from bitfusiond.core.clients.client import BINARY, BITFUSION, Client, Group
from bitfusiond.core.clients.entries import LONGEST_CLIENT_NAME
from bitfusiond.core.fields import Document, Field
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
    file = Document(document)
    clients = _documented(file["BitfusionClients"])
    others = entries.read(file["Clients"])
    given = document.get("BitfusionClients")
    if not (given or others or file.problems) or not isinstance(given, list | None):
        raise CatalogueError("BitfusionClients must be a list with at least one client, or Clients")
    _check_default(file["Default"], clients)
    _check_keys(file, _KEYS)
    if file.problems:
        raise CatalogueError("; ".join(file.problems))
    default = document.get("Default")
    return Catalogue(clients, (str(default["os"]), str(default["version"])) if default else None, others)


def _documented(listed: Field) -> dict[tuple[str, str], Client]:
    """The clients of ``BitfusionClients`` by (OS, version), as far as they are right."""
    clients: dict[tuple[str, str], Client] = {}
    elements = listed.elements()
    for entry in elements:
        _check(entry)
    for entry in (each for each in elements if each.is_sound):
        client = _bitfusion(entry.value)
        pair = (str(client.os), str(client.version))
        if pair in clients:
            entry.problem(f"a second client for {shown(str(client))}: keep one of them")
        clients[pair] = client
    return clients


def _bitfusion(entry: Mapping[str, object]) -> Client:
    """A documented entry, as what it is short for."""
    version, os, binary, library = (str(entry[key]) for key in _FIELDS)
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


def _check(entry: Field) -> None:
    """Note what is wrong with one documented entry."""
    if not isinstance(entry.value, dict):
        entry.sentence(f"must be a mapping of {', '.join(_FIELDS)}")
        return
    for key in _FIELDS:
        _check_text(entry[key], is_version=key == "BitfusionVersion", is_name=key in _NAMES)
    _check_keys(entry, (*_FIELDS, _SIZE))
    if _SIZE in entry.value and not entries.is_size(entry[_SIZE].value):
        entry[_SIZE].sentence(f"must be a number of bytes such as 350M, not {entry[_SIZE].value!r}")
    if entry.is_sound:
        _check_paths(entry["BinaryPath"], entry["EnvVariable"])


def _check_keys(mapping: Field, allowed: Sequence[str]) -> None:
    for key in mapping.value:
        if key not in allowed:
            mapping.problem(f"unknown key {key!r}: allowed are {', '.join(allowed)}")


def _check_text(field: Field, *, is_version: bool, is_name: bool) -> None:
    value = field.value
    # YAML reads an unquoted 450 as a number: operators leave the quotes out, and it means the same.
    number = is_version and isinstance(value, int) and not isinstance(value, bool)
    if not number and not (isinstance(value, str) and value.strip()):
        field.sentence(f"must be a string that is not empty, not {value!r}")
    elif is_name and len(str(value)) > LONGEST_CLIENT_NAME:
        field.sentence(f"has {len(str(value))} characters: at most {LONGEST_CLIENT_NAME} are allowed")


def _check_paths(binary: Field, library: Field) -> None:
    tree = binary.value.removesuffix(BINARY)
    if tree == binary.value or not tree.startswith("/") or posixpath.basename(tree) in {"", ".", ".."}:
        binary.sentence(f"must be /bitfusion/PACKAGE{BINARY}, not {binary.value!r}")
    elif not posixpath.normpath(library.value).startswith(tree + "/"):
        library.sentence(f"must be a directory below {shown(tree)}, not {library.value!r}")


def _check_default(field: Field, clients: Mapping[tuple[str, str], Client]) -> None:
    value = field.value
    if value is None:
        return
    if not isinstance(value, dict) or set(value) != {"os", "version"}:
        field.sentence(f"must be a mapping of os and version, not {value!r}")
    elif (pair := (str(value["os"]), str(value["version"]))) not in clients:
        field.problem(f"there is no client for {shown('/'.join(pair))} in BitfusionClients")
