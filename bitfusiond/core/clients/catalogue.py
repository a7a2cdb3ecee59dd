"""The client catalogue: which Bitfusion client serves a guest OS and a version, and where its files are in a pod."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bitfusiond.core import raw

BINARY = "/usr/bin/bitfusion"  # in every tree
_FIELDS = ("BitfusionVersion", "OSVersion", "BinaryPath", "EnvVariable")


class CatalogueError(ValueError):
    """The operator's catalogue is wrong; the message names every problem, separated by ``; ``."""


class UnknownClientError(LookupError):
    """No client for this OS and version; the message lists the pairs that there are."""


@dataclass(frozen=True, slots=True)
class Client:
    """One entry: ``binary_path`` is ``<tree>/usr/bin/bitfusion``, ``library_path`` a directory in the same tree."""

    os: str
    version: str
    binary_path: str
    library_path: str

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
        pairs = ", ".join(raw.shown(f"{os}/{version}") for os, version in self.clients)
        return f"choose one of {pairs} (os/version)"


def parse(document: object) -> Catalogue:
    """The catalogue out of a parsed ``bitfusion-client-config.yaml``. Raises CatalogueError."""
    if not isinstance(document, dict):
        raise CatalogueError("the file must be a mapping with the key BitfusionClients")
    entries = document.get("BitfusionClients")
    if not isinstance(entries, list) or not entries:
        raise CatalogueError("BitfusionClients must be a list with at least one client")
    problems: list[str] = []
    clients: dict[tuple[str, str], Client] = {}
    for index, entry in enumerate(entries):
        where = f"BitfusionClients[{index}]"
        client = _client(entry, where, problems)
        if client is None:
            continue
        if (client.os, client.version) in clients:
            problems.append(
                f"{where}: a second client for {raw.shown(f'{client.os}/{client.version}')}: keep one of them"
            )
        clients[client.os, client.version] = client
    default = _default(document.get("Default"), clients, problems)
    problems += [
        f"unknown key {key!r}: allowed are BitfusionClients, Default"
        for key in document
        if key not in {"BitfusionClients", "Default"}
    ]
    if problems:
        raise CatalogueError("; ".join(problems))
    return Catalogue(clients, default)


def _client(entry: Any, where: str, problems: list[str]) -> Client | None:
    if not isinstance(entry, dict):
        problems.append(f"{where} must be a mapping of {', '.join(_FIELDS)}")
        return None
    before = len(problems)
    for field in _FIELDS:
        value = entry.get(field)
        # YAML reads an unquoted 450 as a number: operators leave the quotes out, and it means the same.
        number = field == "BitfusionVersion" and isinstance(value, int) and not isinstance(value, bool)
        if not number and not (isinstance(value, str) and value.strip()):
            problems.append(f"{where}.{field} must be a string that is not empty, not {value!r}")
    problems += [f"{where}: unknown key {key!r}" for key in entry if key not in _FIELDS]
    if len(problems) > before:
        return None
    version, os, binary, library = (str(entry[field]) for field in _FIELDS)
    tree = binary.removesuffix(BINARY)
    if tree == binary or not tree.startswith("/") or posixpath.basename(tree) in {"", ".", ".."}:
        problems.append(f"{where}.BinaryPath must be /bitfusion/PACKAGE{BINARY}, not {binary!r}")
        return None
    if not posixpath.normpath(library).startswith(tree + "/"):
        problems.append(f"{where}.EnvVariable must be a directory below {raw.shown(tree)}, not {library!r}")
        return None
    return Client(os, version, binary, library)


def _default(value: Any, clients: Mapping[tuple[str, str], Client], problems: list[str]) -> tuple[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != {"os", "version"}:
        problems.append(f"Default must be a mapping of os and version, not {value!r}")
        return None
    pair = (str(value["os"]), str(value["version"]))
    if pair not in clients:
        problems.append(f"Default: there is no client for {raw.shown('/'.join(pair))} in BitfusionClients")
        return None
    return pair
