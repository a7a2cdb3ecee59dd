"""The initContainer that fills the volumes: first in the pod, no larger than its largest container, as its user."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from bitfusiond.core import quantity
from bitfusiond.core.admission import patch
from bitfusiond.core.admission.claims import Claim
from bitfusiond.core.admission.injection import under_names
from bitfusiond.core.admission.patch import Operation
from bitfusiond.core.admission.pod import GpuContainer, Pod
from bitfusiond.core.admission.template import Delivery, Template
from bitfusiond.core.clients.client import Client
from bitfusiond.core.fields import Json, mapping, objects

# What ResourceQuotas and LimitRanges can demand of every container of a namespace.
_COUNTED = frozenset({"cpu", "memory", "ephemeral-storage"})

_HOME = "/root"
_CREDENTIALS = "/var/run/secrets/kubernetes.io/serviceaccount"

# All that the Pod Security level "restricted" asks of a container, but for its user.
_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def check_names(pod: Pod, template: Template) -> None:
    """Note a problem with each container of the user's that is called like one of the template's."""
    ours = {container["name"] for container in template.init_containers}
    for container in (*pod.init_containers, *pod.containers):
        name = container["name"]
        if isinstance(name.value, str) and name.value in ours:
            name.problem(f"{name.value} is the name of a container that bitfusiond adds: choose another")


def init_containers(
    pod: Pod, client: Client, template: Template, renamed: Mapping[str, str], claimed: Collection[Claim]
) -> list[Operation]:
    """The template's initContainers, in front of the pod's own: a GPU container among those needs the client too."""
    if not template.init_containers:
        return []
    first, *others = ({**each} for each in template.init_containers)
    if template.fills:
        _fit(first, pod, client, list(dict.fromkeys(each.name for each in claimed)))
    added = [first, *others]
    credentials = _credentials_mount(pod)
    for each in added:
        own = under_names(each.get("volumeMounts") or (), renamed)
        if mounts := own if any(map(_is_of_credentials, own)) else [*own, *credentials]:
            each["volumeMounts"] = mounts
    if not isinstance(pod.spec["initContainers"].value, list):
        return [patch.add("/spec/initContainers", added)]
    return [patch.add(f"/spec/initContainers/{index}", each) for index, each in enumerate(added)]


def _credentials_mount(pod: Pod) -> list[Json]:
    """The mount that the API server's own plugin ServiceAccount has put into each container, if it has.

    That plugin looks again at whatever a webhook has changed, would add the mount to a container that lacks it, and we
    would be asked a second time about a pod that was changed after us.
    """
    if pod.spec["automountServiceAccountToken"].value is False:
        return []
    found: list[Json] = []
    for each in (*pod.init_containers, *pod.containers):
        found += [*filter(_is_of_credentials, objects(each.value.get("volumeMounts")))] or [{}]
    first = found[0]
    is_the_plugins = first.keys() == {"name", "mountPath", "readOnly"} and first["readOnly"] is True
    return [{**first}] if is_the_plugins and all(mount == first for mount in found) else []


def _is_of_credentials(mount: Json) -> bool:
    return bool(mount.get("mountPath") == _CREDENTIALS)


def _fit(container: Json, pod: Pod, client: Client, claimed: Sequence[str]) -> None:
    """Tell the one that runs `bitfusiond --role init` its client, and give it the resources and the user of the pod.

    It is part of the claims, and so sees in its environment which servers they are on.
    """
    container["args"] = [
        *(container.get("args") or []),
        *_client_options(client),
        *(["--claims", ",".join(claimed)] if claimed else []),
    ]
    largest = largest_resources(
        [each.value for each in (*pod.init_containers, *pod.containers)], [each.raw for each in pod.gpu_containers]
    )
    resources: Json = _with_own(largest, mapping(container, "resources"))
    if claimed:
        resources = {**resources, "claims": [{"name": name} for name in claimed]}
    if resources:
        container["resources"] = resources
    container["securityContext"] = {**_RESTRICTED, **_as_workload(pod), **mapping(container, "securityContext")}


def _client_options(client: Client) -> list[str]:
    name = [] if client.is_bitfusion else ["--client-name", client.name]
    options = (("--client-os", client.os), ("--client-version", client.version))
    return [*name, *(word for option, value in options if value is not None for word in (option, value))]


def warnings(pod: Pod, client: Client, delivery: Delivery) -> list[str]:
    """What may keep the workload from the client or its token, as far as it can be seen."""
    found = _disk_warnings(pod, client) if delivery is Delivery.INIT else []
    return [*(_token_warnings(pod) if client.takes_tokens else []), *found]


def _token_warnings(pod: Pod) -> list[str]:
    user, *others = map(_user, pod.gpu_containers)
    found = []
    if any(each != user for each in others):
        found.append(f"GPU containers run as different users: client.yaml is readable for user {user or 'root'} only")
    if user and not all(_HOME in [mount.path for mount in each.mounts] for each in pod.gpu_containers):
        # Most images let nobody but root into /root, and whether this one does cannot be seen.
        found.append(
            f"user {user} must get into {_HOME} for the client's token: if the image closes it, mount an emptyDir there"
        )
    if _is_unknown_non_root(pod):
        found.append("runAsNonRoot without runAsUser: set runAsUser, so that the workload can read client.yaml")
    return found


def _disk_warnings(pod: Pod, client: Client) -> list[str]:
    limit = _disk_limit(pod)
    if client.size is None or limit is None or limit >= client.size:
        return []
    size, allowed = -(-client.size // quantity.MEGABYTE), limit // quantity.MEGABYTE
    return [f"the client takes {size}M of ephemeral-storage, and the limits allow {allowed}M in all: raise them"]


def _disk_limit(pod: Pod) -> int | None:
    """Bytes of ephemeral-storage that the kubelet lets the pod have, emptyDirs included; None = no limit.

    Source: Kubernetes' documentation, "Local ephemeral storage": the sum of the limits of its containers.
    """
    limits = [
        amount
        for each in pod.containers
        for section, key, (amount, _) in _amounts(each.value)
        if (section, key) == ("limits", "ephemeral-storage")
    ]
    return int(sum(limits)) if limits else None


def largest_resources(containers: Sequence[Json], gpu_containers: Sequence[Json]) -> dict[str, Json]:
    """Requests and limits, each the largest that a single one of ``containers`` has.

    The pod's effective request is the larger of its init containers' and the sum of its containers', so it does not
    grow. There is a limit only for what each of ``gpu_containers`` limits: what those need to run is enough to copy
    their client, and a sidecar's would not be. A limit of 0 is none to the kubelet, and so the largest. A limit below
    the request (of a container that has no limit itself) is raised to it, as the API server refuses it otherwise.
    """
    limited = set.intersection(
        *({key for part, key, _ in _amounts(each) if part == "limits"} for each in gpu_containers)
    )
    largest: dict[str, dict[str, _Amount]] = {"limits": {}, "requests": {}}
    for container in containers:
        for section, resource, amount in _amounts(container):
            if section == "limits" and resource not in limited:
                continue
            if resource not in largest[section] or _is_larger(amount, largest[section][resource], section):
                largest[section][resource] = amount
    for resource, limit in list(largest["limits"].items()):
        request = largest["requests"].get(resource, limit)
        if not limit[0] and request[0]:
            del largest["limits"][resource]  # 0 beside a request is refused
        elif request[0] > limit[0]:
            largest["limits"][resource] = request
    return {
        section: {resource: written for resource, (_, written) in amounts.items()}
        for section, amounts in largest.items()
        if amounts
    }


def _is_larger(amount: _Amount, other: _Amount, section: str) -> bool:
    if section == "limits" and not (amount[0] and other[0]):
        return bool(other[0])
    return amount[0] > other[0]


def _with_own(largest: dict[str, Json], own: dict[str, Json]) -> dict[str, Json]:
    """``largest`` with what the template's container itself says on top; a request is never above its limit."""
    limits = {**mapping(largest, "limits"), **mapping(own, "limits")}
    requests = {**mapping(largest, "requests"), **mapping(own, "requests")}
    for resource, limit in limits.items():
        if resource in requests and quantity.parse(requests[resource]) > quantity.parse(limit):
            requests[resource] = limit
    return {section: values for section, values in (("limits", limits), ("requests", requests)) if values}


_Amount = tuple[Fraction, Any]


def _amounts(container: Json) -> Iterator[tuple[str, str, _Amount]]:
    """Requests and limits of one container, each exact and as it was written; a missing request is the limit."""
    limits, requests = mapping(container, "resources", "limits"), mapping(container, "resources", "requests")
    effective = {**requests, **limits, **requests}  # its own requests go before, and first
    for section, values in (("limits", limits), ("requests", effective)):
        for resource, written in values.items():
            if resource in _COUNTED:
                try:
                    yield section, resource, (quantity.parse(written), written)
                except ValueError:  # the API server is going to refuse it
                    continue


def _as_workload(pod: Pod) -> Json:
    """As whom it runs: as the workload does, since client.yaml is for its owner alone.

    Who the workload is stands in the container, else in the pod, else in the image, which cannot be seen. An image
    that says nothing else runs as root, and so does this one then, unless the pod rules that out.
    """
    if _is_unknown_non_root(pod):
        return {"runAsNonRoot": True}
    first = pod.gpu_containers[0]
    user, group = _user(first), first.security.get("runAsGroup")
    return {
        "runAsUser": user or 0,
        **({"runAsNonRoot": True} if user else {}),
        **({"runAsGroup": group} if isinstance(group, int) else {}),
    }


def _is_unknown_non_root(pod: Pod) -> bool:
    """Whether the workload runs as some user of its image, of which is known only that it is not root."""
    return _user(pod.gpu_containers[0]) is None and any(
        each.security.get("runAsNonRoot") is True for each in pod.gpu_containers
    )


def _user(container: GpuContainer) -> int | None:
    user = container.security.get("runAsUser")
    return user if isinstance(user, int) else None
