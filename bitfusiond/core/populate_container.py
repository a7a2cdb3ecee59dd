"""The initContainer that fills the volumes: first in the pod, no larger than its largest container, as its user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from bitfusiond.core import patch, quantity, raw
from bitfusiond.core.catalogue import Client
from bitfusiond.core.injection import under_names
from bitfusiond.core.patch import Operation
from bitfusiond.core.request import GpuContainer
from bitfusiond.core.template import Template

# What ResourceQuotas and LimitRanges can demand of every container of a namespace.
_COUNTED = frozenset({"cpu", "memory", "ephemeral-storage"})


def init_containers(
    spec: dict[str, Any],
    gpu_containers: tuple[GpuContainer, ...],
    client: Client,
    template: Template,
    renamed: Mapping[str, str],
    problems: list[str],
    warnings: list[str],
) -> list[Operation]:
    """The template's initContainers, in front of the pod's own: a GPU container among those needs the client too."""
    ours = {container["name"] for container in template.init_containers}
    groups = {group: raw.objects(spec, group, f"spec.{group}", problems) for group in ("initContainers", "containers")}
    problems += [
        f"spec.{group}[{index}].name: {each['name']} is the name of a container that bitfusiond adds: choose another"
        for group, containers in groups.items()
        for index, each in enumerate(containers)
        if each.get("name") in ours
    ]
    first, *others = ({**each} for each in template.init_containers)
    first["args"] = [*(first.get("args") or []), "--client-os", client.os, "--client-version", client.version]
    resources = {
        **largest_resources([*groups["initContainers"], *groups["containers"]]),
        **(first.get("resources") or {}),
    }
    if resources:
        first["resources"] = resources
    first["securityContext"] = {
        **_security_context(spec, gpu_containers, warnings),
        **(first.get("securityContext") or {}),
    }
    added = [first, *others]
    for each in added:
        if each.get("volumeMounts"):
            each["volumeMounts"] = under_names(each["volumeMounts"], renamed)
    if not isinstance(spec.get("initContainers"), list):
        return [patch.add("/spec/initContainers", added)]
    return [patch.add(f"/spec/initContainers/{index}", each) for index, each in enumerate(added)]


def largest_resources(containers: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Requests and limits, each the largest that a single one of ``containers`` has.

    The pod's effective request is the larger of its init containers' and the sum of its containers', so it does not
    grow. A limit below the request (of a container that has no limit itself) is raised to it, as the API server
    refuses it otherwise.
    """
    largest: dict[str, dict[str, _Amount]] = {"limits": {}, "requests": {}}
    for container in containers:
        for section, resource, amount in _amounts(container):
            if resource not in largest[section] or amount[0] > largest[section][resource][0]:
                largest[section][resource] = amount
    for resource, limit in largest["limits"].items():
        largest["limits"][resource] = max(limit, largest["requests"][resource], key=lambda amount: amount[0])
    return {
        section: {resource: written for resource, (_, written) in amounts.items()}
        for section, amounts in largest.items()
        if amounts
    }


_Amount = tuple[Fraction, Any]


def _amounts(container: dict[str, Any]) -> Iterator[tuple[str, str, _Amount]]:
    """Requests and limits of one container, each exact and as it was written; a missing request is the limit."""
    resources = container.get("resources")
    if not isinstance(resources, dict):
        return
    for section, other in (("limits", "limits"), ("requests", "requests"), ("requests", "limits")):
        values = resources.get(other)
        if not isinstance(values, dict):
            continue
        own = resources.get(section)
        for resource in values:
            if resource not in _COUNTED:
                continue
            if section != other and isinstance(own, dict) and resource in own:
                continue
            try:
                yield section, resource, (quantity.parse(values[resource]), values[resource])
            except ValueError:  # the API server is going to refuse it
                continue


def _security_context(
    spec: dict[str, Any], gpu_containers: tuple[GpuContainer, ...], warnings: list[str]
) -> dict[str, Any]:
    """As whom it runs: as the workload does, since client.yaml is for its owner alone.

    Who the workload is stands in the container, else in the pod, else in the image, which cannot be seen. An image
    that says nothing else runs as root, and so does this one then, unless the pod rules that out.
    """
    users = {_effective(spec, container.raw, "runAsUser") for container in gpu_containers}
    user = _effective(spec, gpu_containers[0].raw, "runAsUser")
    if len(users) > 1:
        warnings.append(
            f"GPU containers run as different users: client.yaml is readable for user {user or 'root'} only"
        )
    if user is None and any(_effective(spec, each.raw, "runAsNonRoot") is True for each in gpu_containers):
        warnings.append("runAsNonRoot without runAsUser: set runAsUser, so that the workload can read client.yaml")
        return {"runAsNonRoot": True}
    context = {"runAsUser": user if user is not None else 0}
    if context["runAsUser"] != 0:
        context["runAsNonRoot"] = True
    group = _effective(spec, gpu_containers[0].raw, "runAsGroup")
    return context | ({"runAsGroup": group} if group is not None else {})


def _effective(spec: dict[str, Any], container: dict[str, Any], field: str) -> Any:
    """A field of the securityContext: the container's, else the pod's, else None."""
    for owner in (container, spec):
        context = owner.get("securityContext")
        if isinstance(context, dict) and context.get(field) is not None:
            return context[field]
    return None
