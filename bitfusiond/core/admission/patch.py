"""RFC 6902 operations and RFC 6901 pointers: how a change to a pod is said to the API server."""

from __future__ import annotations

from typing import Any

from bitfusiond.core.fields import Json, segment

Operation = Json


def pointer(*parts: str | int) -> str:
    """A JSON Pointer to ``parts``."""
    return "".join(map(segment, parts))


def add(path: str, value: object) -> Operation:
    return {"op": "add", "path": path, "value": value}


def replace(path: str, value: object) -> Operation:
    return {"op": "replace", "path": path, "value": value}


def remove(path: str) -> Operation:
    return {"op": "remove", "path": path}


def append(path: str, present: object, values: list[Any]) -> list[Operation]:
    """Operations that put ``values`` at the end of the array at ``path``.

    ``present`` is what is there now: an array is appended to; none, or null, is made. An empty ``values`` is no
    operation.
    """
    if not values:
        return []
    if not isinstance(present, list):
        return [add(path, values)]
    return [add(f"{path}/-", value) for value in values]
