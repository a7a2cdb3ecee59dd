"""The entries of ``Clients``: any remoting client in the operator's catalogue, each field checked before it is used."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence

from bitfusiond.core import names, quantity
from bitfusiond.core.clients import servers_conf
from bitfusiond.core.clients.client import (
    BITFUSION,
    INDEX,
    SERVER,
    SERVERS,
    VARIABLE_PLACEHOLDERS,
    WRAP_PLACEHOLDERS,
    Client,
    Group,
    Variable,
    placeholders,
)
from bitfusiond.core.fields import Field, mapping
from bitfusiond.core.text import shown

ROOT = "/bitfusion"  # where a pod sees the trees
LONGEST_CLIENT_NAME = 63  # characters
_MOST_ENTRIES = 100
_MOST_VARIABLES = 100
_MOST_SERVERS = 64
_KEYS = (
    "Name",
    "Version",
    "OSVersion",
    "Tree",
    "Binary",
    "Wrap",
    "Env",
    "Libraries",
    "Servers",
    "Tokens",
    "Size",
)
_PATH = re.compile(r"/[^\s{}/][^\s{}]*")
_TREE = re.compile(rf"{ROOT}/[A-Za-z0-9_][A-Za-z0-9._-]*")
_TAKEN = f"{ROOT}/opt"  # the packaged template's link for /opt/bitfusion
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FORMS = (("Value", "Prepend"), ("PerServer", "Join"))


def read(clients: Field) -> tuple[Client, ...]:
    """The clients of the list ``Clients``; what is wrong with one is a problem of its field."""
    found: dict[tuple[str, str | None, str | None], Client] = {}
    first: dict[str, Client] = {}
    for entry in clients.items(_MOST_ENTRIES):
        client = _client(entry)
        key = (client.name, client.os, client.version)
        other = first.setdefault(client.name, client)
        if (client.os is None) != (other.os is None) or (client.version is None) != (other.version is None):
            name = shown(client.name)
            entry.problem(f"not all entries of {name} name Version, or OSVersion: name them in all or in none")
        if key in found:
            entry.problem(f"a second client {shown(str(client))}: keep one of them")
        elif entry.is_sound:
            found[key] = client
    return tuple(found.values())


def _client(entry: Field) -> Client:
    for key in entry.value:
        if key not in _KEYS:
            entry.problem(f"unknown key {key!r}: allowed are {', '.join(_KEYS)}")
    tree, binary = _path(entry["Tree"]), _path(entry["Binary"])
    if tree and (not _TREE.fullmatch(tree) or tree == _TAKEN):
        entry["Tree"].problem(f"{shown(tree)} must be {ROOT}/NAME, and not {_TAKEN}")
    for field in (entry["Libraries"], entry["Binary"]):
        path = field.value
        if (
            tree
            and isinstance(path, str)
            and f"{path}/".startswith(f"{ROOT}/")
            and not f"{path}/".startswith(f"{tree}/")
        ):
            field.problem(f"{shown(field.value)} is not below the Tree {shown(tree)}")
    client = Client(
        name=_name(entry["Name"]),
        os=_label(entry["OSVersion"]),
        version=_label(entry["Version"]),
        tree=tree,
        binary_path=binary,
        library_path=_path(entry["Libraries"]),
        wrap=_wrap(entry["Wrap"], has_binary=binary is not None),
        env=tuple(_env(entry["Env"])),
        servers=tuple(servers(entry["Servers"])),
        takes_tokens=_tokens(entry["Tokens"]),
        size=_size(entry["Size"]),
    )
    if all(entry.value.get(key) in (None, [], {}) for key in ("Wrap", "Env", "Libraries")):
        entry.problem("needs Wrap, Env or Libraries: with none of them no program would reach a GPU")
    return client


def _name(field: Field) -> str:
    if not isinstance(field.value, str) or not re.fullmatch(names.LABEL, field.value):
        field.problem(f"{shown(field.value)} is not a name of at most 63 lower-case letters, digits and -")
    elif field.value == BITFUSION:
        field.problem(f"{BITFUSION} is the name of the entries of BitfusionClients: take another")
    return str(field.value)


def _label(field: Field) -> str | None:
    """A version or an OS. YAML reads an unquoted 450 as a number, which means the same; 2.10 it would make 2.1."""
    value = field.value
    if value is None:
        return None
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if not is_number and not (isinstance(value, str) and value.strip()):
        field.problem(f"{shown(value)} is not a string that is not empty: put it in quotation marks")
    elif len(str(value)) > LONGEST_CLIENT_NAME:
        field.problem(f"has {len(str(value))} characters: at most {LONGEST_CLIENT_NAME} are allowed")
    return str(value)


def _path(field: Field) -> str | None:
    value = field.value
    if value is None:
        return None
    if not isinstance(value, str) or not _PATH.fullmatch(value) or posixpath.normpath(value) != value.rstrip("/"):
        field.problem(f"{shown(value)} is not an absolute path of plain characters without . and ..")
    return str(value)


def _wrap(field: Field, *, has_binary: bool) -> tuple[Group, ...]:
    """A word, or a list of words that stand or fall together."""
    if field.value is None:
        return ()
    if not isinstance(field.value, list):
        field.problem(f"must be a list of words, not {shown(field.value)}")
        return ()
    groups: list[Group] = []
    for item in field.elements():
        words = [item.value] if isinstance(item.value, str) else item.strings()
        if not words or "" in words:
            item.problem(f"{shown(item.value)} is not a word, or a list of words")
        for word in words:
            _check_placeholders(item, word, WRAP_PLACEHOLDERS)
        groups.append(tuple(words))
    used = {name for group in groups for word in group for name in _known(word)}
    if "binary" in used and not has_binary:
        field.problem("{binary} needs the field Binary, the path of the client's program")
    if groups and any(_known(word) - {"binary"} for word in groups[0]):
        field.problem(f"begins with {shown(groups[0][0])}: the first word must be the client's program")
    return tuple(groups) if field.is_sound else ()


def _env(field: Field) -> Iterable[Variable]:
    index = f"{{{INDEX}}}"
    numbered = [str(name).partition(index) for name in mapping(field.value) if index in str(name)]
    for name in field.mapping(_MOST_VARIABLES):
        if any(re.fullmatch(rf"{re.escape(head)}\d+{re.escape(tail)}", str(name)) for head, _, tail in numbered):
            # Noted by another Field than ``variable`` below, which stays sound and is read too.
            field.entry(name).problem("is there again, by a name with {index}: keep one of them")
        variable = field.entry(name)
        if found := _variable(str(name), variable):
            yield found


def _variable(name: str, field: Field) -> Variable | None:
    """One variable: its value, or a mapping that says more of it."""
    given = {"Value": field.value} if isinstance(field.value, str) else mapping(field.value)
    form = next((form for form in _FORMS if form[0] in given), ())
    if not form or not {*given} <= {*form, "Prepend"} or not all(isinstance(each, str) for each in given.values()):
        field.problem(
            f"{shown(field.value)} is not a text, nor {{Value: TEXT, Prepend: SEPARATOR}}, nor"
            " {PerServer: TEXT, Join: SEPARATOR}"
        )
        return None
    value, between = given[form[0]], given.get("Join", " ") if form[0] == "PerServer" else None
    _check_placeholders(field, name, (INDEX,))
    _check_placeholders(field, value, VARIABLE_PLACEHOLDERS)
    if not field.is_sound:
        return None
    if not _VARIABLE.fullmatch(name.replace("{" + INDEX + "}", "0")):
        field.problem("is not the name of a variable")
    if name == names.LD_LIBRARY_PATH:
        field.problem("is what Libraries is for")
    if name == "PATH":
        field.problem("would take the place of the image's: write the whole path of what is to be found")
    one_server = {SERVER, INDEX} & _known(value)
    if between is None and one_server and INDEX not in _known(name):
        field.problem(f"{{{min(one_server)}}} is of one server: put {{{INDEX}}} into the name, or write PerServer")
    if (one_server or between is not None or INDEX in _known(name)) and SERVERS in _known(value):
        field.problem("{servers} are all servers, and this is once a server")
    if between is not None and INDEX in _known(name):
        field.problem("PerServer joins all servers in one variable: no {index} in its name")
    return Variable(name, value, between, given.get("Prepend"))


def _check_placeholders(field: Field, text: str, allowed: Sequence[str]) -> None:
    try:
        unknown = placeholders(text) - set(allowed)
    except ValueError as error:
        field.problem(f"{shown(text)}: {error}")
        return
    for name in sorted(unknown):
        field.problem(f"{{{name}}} is unknown here: allowed are {', '.join(f'{{{each}}}' for each in allowed)}")


def _known(text: str) -> frozenset[str]:
    """The placeholders of ``text``; none where it is wrong, which is said already."""
    try:
        return placeholders(text)
    except ValueError:
        return frozenset()


def servers(field: Field) -> list[str]:
    """Addresses of servers, HOST:PORT."""
    found = field.strings()
    if len(found) > _MOST_SERVERS:
        field.problem(f"names {len(found)} servers: bitfusiond takes at most {_MOST_SERVERS}")
    if field.value == []:
        field.problem("must name at least one server, HOST:PORT")
    for each in field.elements() if found else ():
        try:
            servers_conf.address(each.value)
        except servers_conf.ServersError as error:
            each.problem(str(error))
    return found


def _tokens(field: Field) -> bool:
    if field.value not in (None, "none", BITFUSION):
        field.problem(f"{shown(field.value)} is not one of none, {BITFUSION}")
    return bool(field.value == BITFUSION)


def _size(field: Field) -> int | None:
    if field.value is None:
        return None
    if not is_size(field.value):
        field.problem(f"must be a number of bytes such as 350M, not {shown(field.value)}")
        return None
    return quantity.integer(field.value)


def is_size(value: object) -> bool:
    """Whether it says how many bytes a tree takes."""
    try:
        return quantity.integer(value) >= 0
    except ValueError:
        return False
