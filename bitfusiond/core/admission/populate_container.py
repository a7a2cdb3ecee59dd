"""The initContainer that fills the volumes: first in the pod, no larger than its largest container, as its user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from bitfusiond.core import quantity, raw
from bitfusiond.core.admission import patch
from bitfusiond.core.admission.injection import under_names
from bitfusiond.core.admission.patch import Operation
from bitfusiond.core.admission.request import GpuContainer
from bitfusiond.core.admission.template import Template
from bitfusiond.core.clients.catalogue import Client

# What ResourceQuotas and LimitRanges can demand of every container of a namespace.
_COUNTED = frozenset({"cpu", "memory", "ephemeral-storage"})

_HOME = "/root"

# All that the Pod Security level "restricted" asks of a container, but for its user.
_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


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
        if isinstance(each.get("name"), str) and each["name"] in ours
    ]
    first, *others = ({**each} for each in template.init_containers)
    first["args"] = [*(first.get("args") or []), "--client-os", client.os, "--client-version", client.version]
    resources = _with_own(
        largest_resources([*groups["initContainers"], *groups["containers"]]), first.get("resources") or {}
    )
    if resources:
        first["resources"] = resources
    first["securityContext"] = {
        **_RESTRICTED,
        **_as_workload(spec, gpu_containers, warnings),
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
        request = largest["requests"].get(resource, limit)
        largest["limits"][resource] = max(limit, request, key=lambda amount: amount[0])
    return {
        section: {resource: written for resource, (_, written) in amounts.items()}
        for section, amounts in largest.items()
        if amounts
    }


def _with_own(largest: dict[str, dict[str, Any]], own: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """``largest`` with what the template's container itself says on top; a request is never above its limit."""
    limits = {**largest.get("limits", {}), **(own.get("limits") or {})}
    requests = {**largest.get("requests", {}), **(own.get("requests") or {})}
    for resource, limit in limits.items():
        if resource in requests and quantity.parse(requests[resource]) > quantity.parse(limit):
            requests[resource] = limit
    return {section: values for section, values in (("limits", limits), ("requests", requests)) if values}


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


def _as_workload(spec: dict[str, Any], gpu_containers: tuple[GpuContainer, ...], warnings: list[str]) -> dict[str, Any]:
    """As whom it runs: as the workload does, since client.yaml is for its owner alone.

    Who the workload is stands in the container, else in the pod, else in the image, which cannot be seen. An image
    that says nothing else runs as root, and so does this one then, unless the pod rules that out.
    """
    users = {_user(spec, container.raw) for container in gpu_containers}
    user = _user(spec, gpu_containers[0].raw)
    if len(users) > 1:
        warnings.append(
            f"GPU containers run as different users: client.yaml is readable for user {user or 'root'} only"
        )
    if user and not all(_HOME in raw.names_of(_mounts(each.raw), "mountPath") for each in gpu_containers):
        # Most images let nobody but root into /root, and whether this one does cannot be seen.
        warnings.append(
            f"user {user} must get into {_HOME} for the client's token: if the image closes it, mount an emptyDir there"
        )
    if user is None and any(_security_field(spec, each.raw, "runAsNonRoot") is True for each in gpu_containers):
        warnings.append("runAsNonRoot without runAsUser: set runAsUser, so that the workload can read client.yaml")
        return {"runAsNonRoot": True}
    context: dict[str, Any] = {"runAsUser": user or 0}
    if user:
        context["runAsNonRoot"] = True
    group = _security_field(spec, gpu_containers[0].raw, "runAsGroup")
    return context | ({"runAsGroup": group} if isinstance(group, int) else {})


def _mounts(container: dict[str, Any]) -> list[dict[str, Any]]:
    return raw.objects(container, "volumeMounts", "", [])


def _security_field(spec: dict[str, Any], container: dict[str, Any], field: str) -> Any:
    """A field of the securityContext: the container's, else the pod's, else None."""
    for owner in (container, spec):
        context = owner.get("securityContext")
        if isinstance(context, dict) and context.get(field) is not None:
            return context[field]
    return None


def _user(spec: dict[str, Any], container: dict[str, Any]) -> int | None:
    user = _security_field(spec, container, "runAsUser")
    return user if isinstance(user, int) else None
