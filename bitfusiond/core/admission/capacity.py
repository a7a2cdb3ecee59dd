"""What the scheduler counts of a pod's shares, and whether a node, or the pool, can ever give as much."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction

from bitfusiond.core import names, quantity
from bitfusiond.core.admission import pod
from bitfusiond.core.fields import Document, Field, Json, mapping
from bitfusiond.core.pool.inventory import Pool
from bitfusiond.core.text import shown

Largest = Mapping[str, int]
"""The most that any one node has (allocatable) of each of our resources. Of a resource of which all have 0 nothing is
said: they had more, and will again.
"""
Amounts = Mapping[str, Fraction]
"""How much of each of our resources."""


_NONE = Fraction(0)


def limits(container: Field, but: frozenset[str] = frozenset()) -> dict[str, Fraction]:
    """What ``container`` limits of our resources, ``but`` some."""
    found = mapping(container.value, "resources", "limits")
    return {name: _amount(value) for name, value in found.items() if name.startswith(names.DOMAIN) and name not in but}


def shares(document: Json) -> int:
    """What the scheduler counts of ``bitfusion.io/gpu`` for a pod that is stored; 0 for one that is malformed."""
    # So many as the template of an operator, and other webhooks, may have added.
    groups = pod.containers_of(Document(document)["spec"], more=pod.MOST_CONTAINERS)
    passing = ((each, limits(each)) for each in groups["initContainers"])
    return int(effective(passing, map(limits, groups["containers"])).get(names.GPU, _NONE))


def effective(init_containers: Iterable[tuple[Field, Amounts]], containers: Iterable[Amounts]) -> dict[str, Fraction]:
    """What the scheduler counts of each resource: containers and sidecars together, or one initContainer with the
    sidecars before it where that is more.

    Source: Kubernetes' documentation of init containers, "Resource sharing within containers", and KEP-753.
    """
    together: dict[str, Fraction] = {}
    largest: dict[str, Fraction] = {}
    for container, amounts in init_containers:
        for resource, amount in amounts.items():
            before = together.get(resource, _NONE)
            if container["restartPolicy"].value == "Always":  # a sidecar
                together[resource] = before + amount
            largest[resource] = max(largest.get(resource, _NONE), before + amount)
    for amounts in containers:
        for resource, amount in amounts.items():
            together[resource] = together[resource] + amount if resource in together else amount
    return {**together, **{key: max(together.get(key, _NONE), amount) for key, amount in largest.items()}}


def problems(wanted: Amounts, nodes: Largest | None, pool: Pool | None) -> Iterator[str]:
    """Why a pod that wants so much would wait for ever; ``nodes`` None = none is known, and nothing is said of them."""
    amount = wanted.get(names.GPU, _NONE)
    if pool is not None and amount > pool.shares:  # a node may offer more than the pool has
        yield (
            f"Resource validation failed: the pod asks for {_number(amount)} of {names.GPU}, the pool has"
            f" {pool.shares}: ask for less"
        )
    if nodes is None:
        return
    for resource, amount in sorted(wanted.items()):
        if resource not in nodes:
            yield f"Resource validation failed: no node has {shown(resource)}: its device plugin must run on one"
        elif amount > nodes[resource] > 0:
            yield (
                f"Resource validation failed: the pod asks for {_number(amount)} of {shown(resource)}, the largest node"
                f" has {nodes[resource]}: ask for less"
            )


def _number(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else str(float(value))


def _amount(value: object) -> Fraction:
    try:
        return quantity.parse(value)
    except ValueError:  # the API server refuses it with a better message than ours
        return _NONE
