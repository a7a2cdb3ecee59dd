"""Reading raw JSON that somebody else wrote: absent and null are the same, another type is a problem with a path."""

from __future__ import annotations

import json
from typing import Any

_LONGEST = 80  # characters of a user's value that a message repeats


def shown(value: object) -> str:
    """A user's value as a message repeats it: on one line, cut where it is long, in JSON's words.

    A string is bare, but quoted where blanks would hide what is wrong with it.
    """
    if isinstance(value, str):
        text = value if value == value.strip() and value.isprintable() and value else json.dumps(value)
    else:
        text = json.dumps(value, default=str)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def names_of(items: list[dict[str, Any]], key: str = "name") -> set[str]:
    """What ``items`` are called; those without a string for a name are for the API server to refuse."""
    return {name for item in items if isinstance(name := item.get(key), str)}


def mapping(parent: dict[str, Any], key: str, path: str, problems: list[str]) -> dict[str, Any]:
    """``parent[key]`` as an object; ``{}`` where there is none. ``path`` is its name in the problem."""
    value = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path}: must be an object, not {shown(value)}")
        return {}
    return value


def objects(parent: dict[str, Any], key: str, path: str, problems: list[str]) -> list[dict[str, Any]]:
    """``parent[key]`` as a list of objects; ``[]`` where there is none, or where one of them is no object."""
    return _list(parent, key, path, dict, "objects", problems)


def strings(parent: dict[str, Any], key: str, path: str, problems: list[str]) -> list[str]:
    """``parent[key]`` as a list of strings; ``[]`` where there is none, or where one of them is no string."""
    return _list(parent, key, path, str, "strings", problems)


def _list(parent: dict[str, Any], key: str, path: str, kind: type, plural: str, problems: list[str]) -> list[Any]:
    value = parent.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, kind) for each in value):
        problems.append(f"{path}: must be a list of {plural}, not {shown(value)}")
        return []
    return value
