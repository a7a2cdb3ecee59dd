"""A ResourceQuota, as far as it counts GPU shares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bitfusiond.core import names, quantity
from bitfusiond.core.fields import mapping, objects, strings
from bitfusiond.core.objects import ResourceQuota

KEY = f"requests.{names.GPU}"


@dataclass(frozen=True, slots=True)
class Quota:
    """In shares; 100 = one GPU. It counts the pods alone that have all of its ``scopes``."""

    namespace: str
    name: str
    hard: int
    used: int
    scopes: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """Its name, and which pods it is about where those are not all."""
        return f"{self.name} (scope {', '.join(self.scopes)})" if self.scopes else self.name

    @property
    def left(self) -> int:
        return max(0, self.hard - self.used)


def share_quotas(quotas: Iterable[ResourceQuota]) -> list[Quota]:
    """Those of ``quotas`` that count shares, as they were counted last."""
    return [
        Quota(
            str(mapping(each, "metadata").get("namespace")),
            str(mapping(each, "metadata").get("name")),
            number(mapping(each, "spec", "hard")[KEY]),
            number(mapping(each, "status", "used").get(KEY)),
            _scopes(each),
        )
        for each in quotas
        if KEY in mapping(each, "spec", "hard")
    ]


def _scopes(quota: ResourceQuota) -> tuple[str, ...]:
    """``NotTerminating``, ``PriorityClass In high``."""
    matches = objects(mapping(quota, "spec", "scopeSelector").get("matchExpressions"))
    selected = [
        " ".join([str(each.get("scopeName")), *([str(each.get("operator"))] if values else []), *values])
        for each in matches
        for values in [strings(each.get("values"))]
    ]
    return (*strings(mapping(quota, "spec").get("scopes")), *selected)


def number(value: object) -> int:
    """A quantity that the API server has taken; 0 for what is none."""
    try:
        return int(quantity.parse(value))
    except ValueError:
        return 0
