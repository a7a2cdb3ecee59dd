"""servers.conf: where the Bitfusion servers are, and the field that clients before version 4 want in it.

The documented form (README of the 0.4 integration, section 2.2, Option B)::

    servers:
    - reachable: 10.202.122.248:56001
      addresses:
      - 10.202.122.248:56001
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bitfusiond.core.fields import Document, Field, Json
from bitfusiond.core.text import cut

Server = Json  # an entry of servers

_ALLOWED = "HOST:PORT with a port from 1 to 65535, for example 10.202.122.248:56001 or [2001:db8::1]:56001"
# Nothing that lists of addresses are separated by, nor what shells and Kubernetes expand.
_HOST = re.compile(r"[\w.-]+")
_HOST_OF_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(%[\w.-]+)?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
# The README prints the field without the blank after the colon, which YAML does not read as a key, and users pasted it.
_MISPRINT = re.compile(r"^([ \t]*(?:-[ \t]+)?reachable:)(?=\S)", re.MULTILINE)


class ServersError(ValueError):
    """servers.conf is wrong; the message is one line that names the first field that is, its value, what is allowed."""


def addresses(document: object) -> list[tuple[str, int]]:
    """Where a server may answer, as (host, port): each once, in the order of the file, ``reachable`` before the rest.

    ``document`` is the parsed servers.conf. An IPv6 host comes without its brackets. Raises ServersError.
    """
    unique: dict[tuple[str, int], None] = {}
    for server in _servers(document):
        for field in _addresses_of(server):
            unique[_read(field)] = None
    return list(unique)


def one_each(document: object) -> list[str]:
    """HOST:PORT of each server, the one that it is reached by first. ``document`` is the parsed servers.conf.

    Raises ServersError.
    """
    addresses(document)
    return [str(_addresses_of(server)[0].value) for server in _servers(document)]


def with_reachable(document: object) -> Json | None:
    """The parsed servers.conf with ``reachable: <its first address>`` put first in each server that has none.

    Everything else is as it was; ``document`` is not changed. None: each server has the field already. Raises
    ServersError.
    """
    addresses(document)
    servers: list[Server] = [server.value for server in _servers(document)]
    if not isinstance(document, dict) or all(server.get("reachable") is not None for server in servers):
        return None
    return {**document, "servers": [_reachable_first(server) for server in servers]}


def made_of(wanted: Iterable[str]) -> Json:
    """A servers.conf of the servers at ``wanted``, HOST:PORT, as they are documented."""
    return {"servers": [{"addresses": [each]} for each in wanted]}


def of_addresses(document: object, wanted: Iterable[str]) -> Json:
    """The parsed servers.conf with the servers at ``wanted``, HOST:PORT, in that order, and no others.

    An entry that has such an address is taken over as it is; for an address that no entry has there is a new one.
    ``document`` is not changed. Raises ServersError.
    """
    addresses(document)
    known: dict[tuple[str, int], Server] = {}
    for server in _servers(document):
        for field in _addresses_of(server):
            known.setdefault(_read(field), server.value)
    found: list[Server] = []
    for each in wanted:
        entry = known.get(address(each), {"addresses": [each]})
        if not any(entry is other for other in found):
            found.append(entry)
    return {**(document if isinstance(document, dict) else {}), "servers": found}


def repaired(text: str) -> str:
    """``text`` with the blank that the README's ``- reachable:10.202.122.248:56001`` lacks; any other text as it is."""
    return _MISPRINT.sub(r"\1 ", text)


def _servers(document: object) -> list[Field]:
    """The entries of the file, which must be mappings. Raises ServersError."""
    if not isinstance(document, dict):
        raise ServersError(f"it must be a mapping with the key servers, not {_kind(document)}")
    listed = Document(document)["servers"]
    servers = listed.elements()
    if not servers:
        raise ServersError(f"servers must be a list with at least one server, not {_kind(listed.value)}")
    for server in servers:
        if not isinstance(server.value, dict):
            raise ServersError(f"{server.path} must be a mapping with the key addresses, not {_kind(server.value)}")
    return servers


def _addresses_of(server: Field) -> list[Field]:
    """The fields of one server that hold an address. Raises ServersError."""
    reachable, listed = server["reachable"], server["addresses"]
    elements = listed.elements()
    if not elements:
        raise ServersError(f"{listed.path} must be a list with at least one {_ALLOWED}; it is {_kind(listed.value)}")
    found = elements if reachable.value is None else [reachable, *elements]
    # Blanks around an address are no matter to those who read this file.
    return [field.read_as(field.value.strip()) if isinstance(field.value, str) else field for field in found]


def _read(field: Field) -> tuple[str, int]:
    """The address in ``field``. Raises ServersError that names it."""
    try:
        return address(field.value)
    except ServersError as error:
        raise ServersError(field.line(str(error))) from None


def _reachable_first(server: Server) -> Server:
    if server.get("reachable") is not None:
        return server
    return {"reachable": server["addresses"][0]} | {key: value for key, value in server.items() if key != "reachable"}


def address(value: object) -> tuple[str, int]:
    """(host, port) of ``HOST:PORT``. Raises ServersError, which does not say where it stands."""
    wrong = ServersError(f"{_shown(value)} is not {_ALLOWED}")
    if not isinstance(value, str):
        raise wrong
    host, _, port = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise wrong
    if not (_HOST_OF_IPV6 if bracketed else _HOST).fullmatch(host) or (":" in host) != bracketed:
        raise wrong
    return host, int(port)


def _kind(value: object) -> str:
    """What stands where a mapping or a list belongs, without its content: a client.yaml that was given in place of
    servers.conf must not end up in a log."""
    match value:
        case None:
            return "missing"
        case dict():
            return "a mapping"
        case list():
            return "a list" if value else "an empty list"
        case str():
            return "a text"
        case _:
            return f"a {type(value).__name__}"


def _shown(value: object) -> str:
    """What stands where an address belongs, cut so that the message can be read."""
    if isinstance(value, (dict, list)) or value is None:
        return _kind(value)
    return cut(repr(value), 80)
