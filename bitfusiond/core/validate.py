"""Whether a pod, as it will be stored, can reach its GPUs: the second look, after every other webhook had its turn."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from bitfusiond.core import names, quantity, raw, request
from bitfusiond.core.catalogue import BINARY
from bitfusiond.core.mutate import Configuration, Refusal, Untouched
from bitfusiond.core.request import Mode

Largest = Mapping[str, int]


class Allowed:
    """Everything is there."""


Verdict = Allowed | Refusal | Untouched


def validate(pod: dict[str, Any], namespace: str, configuration: Configuration, largest: Largest | None) -> Verdict:
    """The verdict on a pod that is about to be stored in ``namespace``.

    ``largest`` is the most that any one node has (allocatable) of each of our resources; None = no node is known, and
    then nothing is said about them. Nor is it about a resource of which all have 0: they had more, and will again.
    """
    if namespace in configuration.exempt_namespaces:
        return Untouched("exempt namespace")
    problems: list[str] = []
    metadata = raw.mapping(pod, "metadata", "metadata", problems)
    annotations = raw.mapping(metadata, "annotations", "metadata.annotations", problems)
    mode = request.mode(annotations, problems)
    injected = annotations.get(names.STATUS) == names.STATUS_INJECTED
    if problems or (mode is Mode.NONE and not injected):
        return Refusal(problems) if problems else Untouched("not opted in")
    spec = raw.mapping(pod, "spec", "spec", problems)
    groups = {group: raw.objects(spec, group, f"spec.{group}", problems) for group in ("initContainers", "containers")}
    if mode is not Mode.NONE:
        _carries_injection(injected, groups, configuration, problems, wrapped=mode is Mode.ALL)
    if injected and largest is not None:
        _fits_a_node(groups, largest, problems)
    return Refusal(problems) if problems else Allowed()


def _carries_injection(
    injected: bool,
    groups: Mapping[str, list[dict[str, Any]]],
    configuration: Configuration,
    problems: list[str],
    *,
    wrapped: bool,
) -> None:
    """What mutation adds must still be there: without it the pod would start without a GPU.

    With ``wrapped`` the commands of GPU containers must call the client: whichever, as the replica that mutated the pod
    may have had another catalogue a moment ago.
    """
    missing: list[str] = []
    if not injected:
        missing.append(f"metadata.annotations[{names.STATUS}] is not {names.STATUS_INJECTED}")
    present = raw.names_of(groups["initContainers"])
    missing += [
        f"spec.initContainers has no {container['name']}"
        for container in configuration.template.init_containers
        if container["name"] not in present
    ]
    paths = {mount["mountPath"] for mount in configuration.template.volume_mounts}
    served = 0
    for group, containers in groups.items():
        for index, container in enumerate(containers):
            path = f"spec.{group}[{index}]"
            limits = _limits(container)
            missing += [f"{path}.resources still asks for {key}" for key in limits if key in names.REQUEST_RESOURCES]
            if names.GPU in limits:
                served += 1
                missing += [f"{path} has no {what}" for what in _lacks(container, paths, wrapped=wrapped)]
    if not served:
        missing.append(f"no container has {names.GPU}")
    if missing:
        problems.append(
            "the pod opted in but was not injected, or another webhook took parts away: "
            + ", ".join(missing)
            + f". Create it again without metadata.annotations[{names.STATUS}]; if that does not help, the mutating"
            " webhook was not asked"
        )


def _lacks(container: dict[str, Any], paths: set[str], *, wrapped: bool) -> list[str]:
    mounted = raw.names_of(raw.objects(container, "volumeMounts", "", []), "mountPath")
    variables = raw.names_of(raw.objects(container, "env", "", []))
    lacking = [f"mount at {path}" for path in sorted(paths - mounted)]
    if names.LD_LIBRARY_PATH not in variables:
        lacking.append(names.LD_LIBRARY_PATH)
    words = raw.strings(container, "command", "", [])
    if wrapped and not any(BINARY in word for word in words):
        lacking.append(f"{BINARY} in its command")
    return lacking


def _limits(container: dict[str, Any]) -> dict[str, Any]:
    return raw.mapping(raw.mapping(container, "resources", "", []), "limits", "", [])


def _fits_a_node(groups: Mapping[str, list[dict[str, Any]]], largest: Largest, problems: list[str]) -> None:
    asked = {key for containers in groups.values() for each in containers for key in _limits(each)}
    for resource in sorted(key for key in asked if key.startswith(names.DOMAIN)):
        amount = _effective(groups, resource)
        if resource not in largest:
            problems.append(f"Resource validation failed: no node has {resource}: its device plugin must run on one")
        elif amount > largest[resource] > 0:
            problems.append(
                f"Resource validation failed: the pod asks for {_number(amount)} of {resource}, the largest node has"
                f" {largest[resource]}: ask for less"
            )


def _number(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else str(float(value))


def _effective(groups: Mapping[str, list[dict[str, Any]]], resource: str) -> Fraction:
    """What the scheduler counts: containers and sidecars together, or one initContainer where that is more.

    Source: Kubernetes' documentation of init containers, "Resource sharing within containers", and KEP-753.
    """
    sidecars = Fraction(0)
    largest = Fraction(0)
    for container in groups["initContainers"]:
        amount = _amount(container, resource)
        if container.get("restartPolicy") == "Always":
            sidecars += amount
        largest = max(largest, sidecars + (0 if container.get("restartPolicy") == "Always" else amount))
    together = sidecars + sum((_amount(container, resource) for container in groups["containers"]), Fraction(0))
    return max(together, largest)


def _amount(container: dict[str, Any], resource: str) -> Fraction:
    try:
        return quantity.parse(_limits(container).get(resource, 0))
    except ValueError:  # the API server refuses it with a better message than ours
        return Fraction(0)
