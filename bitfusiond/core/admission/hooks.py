"""What the kubelet runs in a container beside its program, by a command: lifecycle hooks and probes."""

from __future__ import annotations

from dataclasses import dataclass

from bitfusiond.core.admission import calls
from bitfusiond.core.fields import Field, strings

_PLACES = (
    ("lifecycle", "postStart"),
    ("lifecycle", "preStop"),
    ("livenessProbe",),
    ("readinessProbe",),
    ("startupProbe",),
)
_KEYS = frozenset(place[0] for place in _PLACES)


@dataclass(frozen=True, slots=True)
class Hook:
    """One whose ``words`` mention the client: ``field`` is its command."""

    field: Field
    words: list[str]


def read(container: Field) -> list[Hook]:
    """Those of ``container`` that mention the client."""
    found: list[Hook] = []
    if _KEYS.isdisjoint(container.value):
        return found
    for place in _PLACES:
        keys = (*place, "exec", "command")
        field = container
        for key in keys:
            field = field[key]
        words = strings(field.value)
        if any(map(calls.mentions_client, words)):
            found.append(Hook(field, words))
    return found
