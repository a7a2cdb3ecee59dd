"""The pool's inventory, ``pool.yaml`` of an operator: which GPU servers there are, where each answers, its GPUs.

It is checked as a whole: what is wrong anywhere in it is said at once, and none of it is taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bitfusiond.core import names, quantity
from bitfusiond.core.clients import servers_conf
from bitfusiond.core.fields import Document, Field
from bitfusiond.core.text import shown

FILL_IN = "FILL-IN"  # what a first inventory has where only its operator knows the value
MOST_SERVERS = 1000
# Source: ResourceSliceMaxDevicesWithTaintsOrConsumesCounters of k8s.io/api resource/v1.
MOST_GPUS_OF_SERVER = 64
_LONGEST = 64  # characters of an attribute; source: DeviceAttributeMaxValueLength of the same
_LONGEST_GPU = _LONGEST - len("/gpu-")  # characters of a server's name and a GPU's id: one attribute has both
_SERVER_KEYS = ("name", "address", "attributes", "gpus")
_GPU_KEYS = ("id", "name", "memory")


class PoolError(ValueError):
    """The inventory is wrong; the message names every problem, separated by ``; ``."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as its server calls it; ``megabytes`` (10^6 bytes) is its memory."""

    id: str
    name: str
    megabytes: int


@dataclass(frozen=True, slots=True)
class Server:
    """A GPU server. ``address`` is HOST:PORT; None: not known."""

    name: str
    address: str
    gpus: tuple[Gpu, ...]
    hostname: str
    has_rdma: bool | None = None
    cuda_version: str | None = None
    driver_version: str | None = None

    @property
    def host(self) -> str:
        """The address without its port, an IPv6 one without its brackets."""
        return servers_conf.address(self.address)[0]


@dataclass(frozen=True, slots=True)
class Pool:
    """All servers, in the order of the file."""

    servers: tuple[Server, ...]

    def __hash__(self) -> int:
        return hash(len(self.servers))  # it is looked up for each pod, and may be large

    @property
    def shares(self) -> int:
        """What all its GPUs have together, as containers are counted: 100 = one GPU of the smallest memory, as one that
        has twice as much serves twice as many containers that ask for memory.
        """
        sizes = [gpu.megabytes for server in self.servers for gpu in server.gpus]
        smallest = min(sizes)
        return sum(-(-names.SHARES_OF_ONE_GPU * size // smallest) for size in sizes)


_Read = Callable[[Field], Any]


def parse(document: object) -> Pool:
    """The pool of a parsed ``pool.yaml``. Raises PoolError."""
    if not isinstance(document, dict):
        raise PoolError("the file must be a mapping with the key servers")
    file = Document(document)
    for key in document:
        if key != "servers":
            file.problem(f"unknown key {shown(key)}: allowed is servers")
    entries = file["servers"].items(MOST_SERVERS)
    if not entries and file.is_sound:
        file["servers"].problem("must name at least one server")
    servers = [_server(entry) for entry in entries]
    _check_unique((entry["name"] for entry in entries), "name")
    _check_unique((entry["address"] for entry in entries), "address")
    if file.problems:
        raise PoolError("; ".join(file.problems))
    return Pool(tuple(servers))


def _server(entry: Field) -> Server:
    """What ``entry`` says, as far as it is right."""
    _check_keys(entry, _SERVER_KEYS)
    attributes, gpus = entry["attributes"], entry["gpus"].items(MOST_GPUS_OF_SERVER)
    attributes.mapping()
    _check_keys(attributes, _ATTRIBUTES)
    if not gpus and entry["gpus"].value in (None, []):
        entry["gpus"].problem("must name at least one GPU: {id, name, memory}")
    _check_unique((gpu["id"] for gpu in gpus), "id")
    name = _name(entry["name"])
    for gpu in gpus:
        if isinstance(gpu["id"].value, str) and len(name) + len(gpu["id"].value) > _LONGEST_GPU:
            gpu["id"].problem(f"is too long beside the server's name: together they may have {_LONGEST_GPU} characters")
    given = {key: read(attributes.entry(key)) for key, read in _ATTRIBUTES.items() if _is_given(attributes.entry(key))}
    return Server(
        name,
        _address(entry["address"]),
        tuple(_gpu(each) for each in gpus),
        given.get("hostname", name),
        given.get("has-rdma"),
        given.get("cuda-version"),
        given.get("driver-version"),
    )


def _gpu(entry: Field) -> Gpu:
    _check_keys(entry, _GPU_KEYS)
    return Gpu(_name(entry["id"]), _text(entry["name"]), _megabytes(entry["memory"]))


def _check_keys(entry: Field, allowed: Iterable[str]) -> None:
    """Each key must be one of ``allowed``, and what is left to fill in must be filled in."""
    if not isinstance(entry.value, dict):
        return
    for key, value in entry.value.items():
        if key not in allowed:
            entry.problem(f"unknown key {shown(key)}: allowed are {', '.join(allowed)}")
        elif value == FILL_IN:
            entry.entry(key).problem("is still to be filled in: write the value")


def _check_unique(fields: Iterable[Field], what: str) -> None:
    seen: set[str] = set()
    for field in fields:
        if isinstance(field.value, str) and field.value != FILL_IN:
            if field.value in seen:
                field.problem(f"{shown(field.value)} is there twice: each needs {what} of its own")
            seen.add(field.value)


def _is_given(field: Field) -> bool:
    return field.value not in (None, FILL_IN)


def _name(field: Field) -> str:
    value = field.value
    if value == FILL_IN:
        return ""  # said already
    if not isinstance(value, str) or not re.fullmatch(names.LABEL, value):
        field.problem(f"{shown(value)} is not a text of at most 63 lower-case letters, digits and -{_quoted(value)}")
    return str(value)


def _text(field: Field) -> str:
    value = field.value
    if value == FILL_IN:
        return ""
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST or not value.isprintable():
        field.problem(f"{shown(value)} is not a text of 1 to {_LONGEST} characters{_quoted(value)}")
    return str(value)


def _quoted(value: object) -> str:
    """``12.4`` and ``0`` without quotation marks are numbers of YAML, and ``12.10`` is the number 12.1."""
    return ": put it in quotation marks" if isinstance(value, int | float) else ""


def _boolean(field: Field) -> bool:
    if not isinstance(field.value, bool):
        field.problem(f"{shown(field.value)} is not true or false")
    return field.value is True


def _address(field: Field) -> str:
    if field.value == FILL_IN:
        return ""
    try:
        servers_conf.address(field.value)
    except servers_conf.ServersError as error:
        field.problem(str(error))
    if len(str(field.value)) > _LONGEST:
        field.problem(f"has {len(str(field.value))} characters: at most {_LONGEST} are allowed")
    return str(field.value)


def _megabytes(field: Field) -> int:
    if field.value == FILL_IN:
        return 0
    try:
        megabytes = quantity.integer(field.value) // quantity.MEGABYTE
    except ValueError:
        megabytes = 0
    if megabytes < 1:
        field.problem(f"{shown(field.value)} is not a number of bytes of at least 1M, for example 16000M or 16Gi")
    return megabytes


# An attribute of a server by the end of its key in the documented filter, server.KEY.
_ATTRIBUTES: dict[str, _Read] = {
    "hostname": _text,
    "has-rdma": _boolean,
    "cuda-version": _text,
    "driver-version": _text,
}
