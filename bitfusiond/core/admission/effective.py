"""What the scheduler counts of our resources for a pod: not the sum of all its containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction

from bitfusiond.core import names, quantity
from bitfusiond.core.admission import pod
from bitfusiond.core.fields import Field, Json, mapping


def shares(document: Json) -> int:
    """What a pod that is stored has of ``bitfusion.io/gpu``; 0 for one that is malformed."""
    # So many as the template of an operator, and other webhooks, may have added.
    groups = pod.containers_of(Field(document)["spec"], more=pod.MOST_CONTAINERS)
    return int(resources(groups).get(names.GPU, 0))


def resources(groups: Mapping[str, list[Field]]) -> dict[str, Fraction]:
    """What the scheduler counts of each of our resources: containers and sidecars together, or one initContainer with
    the sidecars before it where that is more.

    Source: Kubernetes' documentation of init containers, "Resource sharing within containers", and KEP-753.
    """
    together: dict[str, Fraction] = {}
    largest: dict[str, Fraction] = {}
    for container in groups["initContainers"]:
        for resource, amount in _ours(container):
            before = together.get(resource, Fraction(0))
            if container["restartPolicy"].value == "Always":  # a sidecar
                together[resource] = before + amount
            largest[resource] = max(largest.get(resource, Fraction(0)), before + amount)
    for container in groups["containers"]:
        for resource, amount in _ours(container):
            together[resource] = together.get(resource, Fraction(0)) + amount
    return {key: max(together.get(key, Fraction(0)), largest.get(key, Fraction(0))) for key in together | largest}


def _ours(container: Field) -> Iterator[tuple[str, Fraction]]:
    for resource, given in limits(container).items():
        if resource.startswith(names.DOMAIN):
            yield resource, amount(given)


def amount(value: object) -> Fraction:
    try:
        return quantity.parse(value)
    except ValueError:  # the API server refuses it with a better message than ours
        return Fraction(0)


def limits(container: Field) -> Json:
    return mapping(container.value, "resources", "limits")
