"""One remoting client as data: what is copied into a pod, what stands before its program, what its environment says.

Texts of an entry may hold placeholders, ``{gpus}``: those of Python's format strings, by name alone. What they stand
for is worked out for each container, see :class:`Values`.
"""

from __future__ import annotations

import posixpath
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

BITFUSION = "bitfusion"  # the name of the client whose entries are BitfusionClients
BINARY = "/usr/bin/bitfusion"  # in every tree of it

# What a placeholder may be where a program is wrapped, and in a variable; SERVER and INDEX are of one server.
WRAP_PLACEHOLDERS = ("gpus", "fraction", "megabytes", "filters", "binary")
SERVERS, SERVER, INDEX = "servers", "server", "index"
VARIABLE_PLACEHOLDERS = ("gpus", "fraction", "megabytes", SERVERS, SERVER, INDEX)
_OF_SERVERS = frozenset({SERVERS, SERVER, INDEX})
ALWAYS_KNOWN = _OF_SERVERS | {"gpus"}  # in a pod that was admitted
_BETWEEN_SERVERS = ","

# Words that stand or fall together: without a value for its placeholder the whole group is left out.
Group = tuple[str, ...]
Values = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of an entry. ``name`` and ``value`` may hold placeholders.

    ``between``: ``value`` once a server, joined with that. ``prepends``: the value goes in front of the container's own
    with that between the two; None = the container's own value wins.
    """

    name: str
    value: str
    between: str | None = None
    prepends: str | None = None

    @property
    def names_servers(self) -> bool:
        """Whether it says where the servers are."""
        used = placeholders(self.name) | placeholders(self.value)
        return self.between is not None or not used.isdisjoint(_OF_SERVERS)


@dataclass(frozen=True, slots=True)
class Client:
    """One entry. ``os`` and ``version`` are None where the entry names none: it serves whatever a pod says.

    ``tree`` is the directory that is copied into the pod, None = its image has the client. ``library_path`` goes in
    front of ``LD_LIBRARY_PATH``; ``binary_path`` is what ``{binary}`` stands for. ``wrap`` is what goes before the
    program, in groups; with none the command stays as it is. ``servers`` are HOST:PORT, in place of the pool's.
    ``size`` is what the tree takes on a disk, in bytes; None = not known.
    """

    name: str
    os: str | None = None
    version: str | None = None
    tree: str | None = None
    binary_path: str | None = None
    library_path: str | None = None
    wrap: tuple[Group, ...] = ()
    env: tuple[Variable, ...] = ()
    servers: tuple[str, ...] = ()
    takes_tokens: bool = False
    size: int | None = None
    _used: frozenset[str] = field(init=False, repr=False, compare=False)  # each pod asks for them again

    def __post_init__(self) -> None:
        texts = [word for group in self.wrap for word in group]
        texts += [text for each in self.env for text in (each.name, each.value)]
        object.__setattr__(self, "_used", frozenset[str]().union(*map(placeholders, texts)))

    @property
    def is_bitfusion(self) -> bool:
        """Whether users may call it by the name ``bitfusion`` in their commands."""
        return self.name == BITFUSION

    @property
    def package(self) -> str:
        """The name of the tree: for Bitfusion the file name of the package that it was unpacked from."""
        return posixpath.basename(self.tree or "")

    @property
    def wants_reachable(self) -> bool:
        """Whether its servers.conf needs the field ``reachable``: the Bitfusion clients before version 4 do.

        Source: the README of the 0.4 integration, section 2.2, Option B (for its "client version 3.5").
        """
        version = self.version or ""
        return self.is_bitfusion and int(version[0]) < 4 if version[:1].isdecimal() else False

    @property
    def wants_servers(self) -> bool:
        """Whether some variable names the servers."""
        return any(each.names_servers for each in self.env)

    @property
    def merges_library_path(self) -> bool:
        """Whether its value of LD_LIBRARY_PATH goes in front of another."""
        return self.library_path is not None

    def uses(self, placeholder: str) -> bool:
        """Whether ``placeholder`` stands anywhere in what the client is told."""
        return placeholder in self._used

    def __str__(self) -> str:
        """As a list of choices says it: ``ubuntu18/450``, ``lupine 2.1``."""
        if self.is_bitfusion:
            return f"{self.os}/{self.version}"
        return " ".join(part for part in (self.name, self.os, self.version) if part)


@lru_cache(maxsize=1024)  # each pod asks again for those of its client
def placeholders(text: str) -> frozenset[str]:
    """The names of the placeholders in ``text``. Raises ValueError where it is no format string or has other fields."""
    wrong = ValueError("a placeholder is a name in braces, such as {servers}; {{ and }} are braces")
    try:
        fields = [field for field in string.Formatter().parse(text) if field[1] is not None]
    except ValueError:  # its words are about Python
        raise wrong from None
    if any(form or conversion or not str(name).isidentifier() for _, name, form, conversion in fields):
        raise wrong
    return frozenset(str(name) for _, name, _, _ in fields)


def wrapped_words(groups: Sequence[Group], values: Values, filters: Sequence[str]) -> list[str]:
    """The words before the program: each group once, with ``{filters}`` in it once a filter."""
    words: list[str] = []
    for group in groups:
        wanted = _placeholders_of(group)
        if not wanted - {"filters"} <= values.keys():
            continue
        if "filters" in wanted:
            for each in filters:
                words += [word.format(**values, filters=each) for word in group]
        else:
            words += [word.format_map(values) for word in group]
    return words


@lru_cache(maxsize=1024)
def _placeholders_of(group: Group) -> frozenset[str]:
    return frozenset[str]().union(*map(placeholders, group))


def environment(variables: Sequence[Variable], values: Values, servers: Sequence[str]) -> Iterator[Variable]:
    """The variables of a container, placeholders filled in; one with a placeholder without a value is left out."""
    for each in variables:
        wanted = placeholders(each.name) | placeholders(each.value)
        if not wanted - _OF_SERVERS <= values.keys():
            continue
        if each.between is not None:
            joined = each.between.join(_of_server(each.value, values, *numbered) for numbered in enumerate(servers))
            yield Variable(each.name, joined, prepends=each.prepends)
        elif INDEX in wanted:
            for index, server in enumerate(servers):
                name, value = (_of_server(text, values, index, server) for text in (each.name, each.value))
                yield Variable(name, value, prepends=each.prepends)
        else:
            value = each.value.format(**values, servers=_BETWEEN_SERVERS.join(servers))
            yield Variable(each.name, value, prepends=each.prepends)


def _of_server(text: str, values: Values, index: int, server: str) -> str:
    return text.format(**values, server=server, index=index)
