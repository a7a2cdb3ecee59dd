"""Server-side apply in small: who owns which field of an object, and what an apply does to it.

A field is a path of words in the spelling of ``metadata.managedFields``: ``f:KEY`` for a key of a map,
``k:{"name":"x"}`` for the element of a list that is merged by name, ``.`` for that element itself. Only ``webhooks`` is
such a list here; every other list is one value, as for the API server where its schema says nothing else.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

Path = tuple[str, ...]
Object = dict[str, Any]

_MERGED_BY_NAME = ("f:webhooks",)
# The API server keeps these itself and gives them to nobody.
_UNOWNED = {"apiVersion", "kind"}
_UNOWNED_METADATA = {
    "name",
    "namespace",
    "generateName",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "managedFields",
}


class Manager(NamedTuple):
    """Who wrote a field, and how: ``Apply`` or ``Update``."""

    name: str
    operation: str


Owners = dict[Manager, set[Path]]


def fields(document: Object) -> dict[Path, Any]:
    """Every field of ``document`` that can have an owner, with its value."""
    owned = {key: value for key, value in document.items() if key not in _UNOWNED}
    metadata = {key: value for key, value in owned.get("metadata", {}).items() if key not in _UNOWNED_METADATA}
    return dict(_fields({**owned, "metadata": metadata}, ()))


def _fields(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict) and (value or not path):
        for key, each in value.items():
            if each not in ({}, None):
                yield from _fields(each, (*path, f"f:{key}"))
    elif path == _MERGED_BY_NAME:
        for element in value:
            below = (*path, f"k:{json.dumps({'name': element['name']}, separators=(',', ':'))}")
            yield (*below, "."), None
            yield from _fields(element, below)
    else:
        yield path, value


def apply(current: Object, owners: Owners, manager: str, body: Object) -> None:
    """Make the fields of ``body`` the manager's, by force; take away what it alone owned and no longer gives."""
    wanted = fields(body)
    before = fields(current)
    us = Manager(manager, "Apply")
    others = set().union(*(paths for each, paths in owners.items() if each != us))
    for path in owners.get(us, set()) - wanted.keys() - others:
        _remove(current, path)
    for path, value in wanted.items():
        if before.get(path, _ABSENT) != value:
            _set(current, path, value)
            for each, paths in owners.items():
                if each != us:
                    paths.discard(path)
    owners[us] = set(wanted)
    _forget_the_idle(owners)


def update(before: Object, after: Object, owners: Owners, manager: str) -> None:
    """A create or a replace: what it changed is the manager's from now on."""
    old, new = fields(before), fields(after)
    changed = {path for path in new if old.get(path, _ABSENT) != new[path]}
    gone = old.keys() - new.keys()
    for paths in owners.values():
        paths.difference_update(changed, gone)
    owners.setdefault(Manager(manager, "Update"), set()).update(changed)
    _forget_the_idle(owners)


def managed_fields(owners: Owners, api_version: str) -> list[Object]:
    """``metadata.managedFields``"""
    entries = []
    for manager, paths in owners.items():
        tree: Object = {}
        for path in sorted(paths):
            level = tree
            for word in path:
                level = level.setdefault(word, {})
        entry = {"manager": manager.name, "operation": manager.operation, "apiVersion": api_version}
        entries.append({**entry, "fieldsType": "FieldsV1", "fieldsV1": tree})
    return entries


_ABSENT = object()


def _forget_the_idle(owners: Owners) -> None:
    for manager in [each for each, paths in owners.items() if not paths]:
        del owners[manager]


def _element(elements: list[Object], word: str) -> Object | None:
    name = json.loads(word.removeprefix("k:"))["name"]
    return next((each for each in elements if each["name"] == name), None)


def _set(document: Object, path: Path, value: Any) -> None:
    level: Any = document
    for word, following in itertools.pairwise(path):
        if word.startswith("k:"):
            element = _element(level, word)
            if element is None:
                element = {"name": json.loads(word.removeprefix("k:"))["name"]}
                level.append(element)
            level = element
        else:
            level = level.setdefault(word.removeprefix("f:"), [] if following.startswith("k:") else {})
    if path[-1] != ".":
        level[path[-1].removeprefix("f:")] = value


def _remove(document: Object, path: Path) -> None:
    level: Any = document
    above: Any = None
    for word in path[:-1]:
        above = level
        level = _element(level, word) if word.startswith("k:") else level.get(word.removeprefix("f:"))
        if level is None:
            return
    if path[-1] == ".":
        above.remove(level)
    else:
        level.pop(path[-1].removeprefix("f:"), None)
