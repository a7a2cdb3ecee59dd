"""The pool's inventory, an operator's file: which GPU servers there are, and where each one answers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bitfusiond.core import names
from bitfusiond.core.clients import servers_conf
from bitfusiond.core.fields import Field
from bitfusiond.core.text import shown

_MOST_SERVERS = 1000
_KEYS = ("name", "address", "attributes", "gpus")


class PoolError(ValueError):
    """The inventory is wrong; the message names every problem, separated by ``; ``."""


@dataclass(frozen=True, slots=True)
class Server:
    """A GPU server; ``address`` is HOST:PORT."""

    name: str
    address: str


def parse(document: object) -> tuple[Server, ...]:
    """The servers of a parsed ``pool.yaml``, in its order. Raises PoolError."""
    if not isinstance(document, dict):
        raise PoolError("the file must be a mapping with the key servers")
    file = Field(document)
    file.problems += [f"unknown key {key!r}: allowed is servers" for key in document if key != "servers"]
    found: dict[str, Server] = {}
    entries = file["servers"].items(_MOST_SERVERS)
    if not entries and not file.problems:
        file["servers"].problem("must name at least one server")
    for entry in entries:
        for key in entry.value:
            if key not in _KEYS:
                entry.problem(f"unknown key {key!r}: allowed are {', '.join(_KEYS)}")
        entry["attributes"].mapping()
        entry["gpus"].objects()
        name, address = entry["name"], entry["address"]
        if not isinstance(name.value, str) or not re.fullmatch(names.LABEL, name.value):
            name.problem(f"{shown(name.value)} is not a name of at most 63 lower-case letters, digits and -")
        elif name.value in found:
            name.problem(f"{shown(name.value)} is there twice")
        try:
            servers_conf.address(address.value, address.path)
        except servers_conf.ServersError as error:
            file.problems.append(str(error))
        found[str(name.value)] = Server(str(name.value), str(address.value))
    if file.problems:
        raise PoolError("; ".join(file.problems))
    return tuple(found.values())
