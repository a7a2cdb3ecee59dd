"""Volumes and GPU containers: the operator's template made to fit one pod, and what stands in its way."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from typing import Any

from bitfusiond.core import names, raw
from bitfusiond.core.admission import patch
from bitfusiond.core.admission.patch import Operation, pointer
from bitfusiond.core.admission.request import GpuContainer
from bitfusiond.core.admission.template import Template
from bitfusiond.core.clients.catalogue import Client

_SEGMENTS = {key: pointer(key) for key in (names.GPU, *names.REQUEST_RESOURCES)}
_KEPT_LIBRARY_PATH = "BITFUSIOND_LD_LIBRARY_PATH"


def volume_names(template: Template, spec: dict[str, Any], problems: list[str]) -> dict[str, str]:
    """Other names for the template's volumes whose own name the pod has already; most often none."""
    taken = raw.names_of(raw.objects(spec, "volumes", "spec.volumes", problems))
    ours = [volume["name"] for volume in template.volumes]
    if taken.isdisjoint(ours):
        return {}
    anywhere = taken | set(ours)
    renamed: dict[str, str] = {}
    for name in ours:
        if name in taken:
            renamed[name] = free(name, anywhere, "-")
            anywhere.add(renamed[name])
    return renamed


def free(name: str, taken: set[Any], joint: str) -> str:
    """``name`` with a number that nobody in ``taken`` has."""
    number = 2
    while (candidate := f"{name[:58]}{joint}{number}") in taken:  # names of volumes have at most 63 characters
        number += 1
    return candidate


def volumes(template: Template, spec: dict[str, Any], renamed: Mapping[str, str]) -> list[Operation]:
    """The template's volumes behind the pod's own."""
    return patch.append("/spec/volumes", spec.get("volumes"), under_names(template.volumes, renamed))


def under_names(items: Iterable[dict[str, Any]], renamed: Mapping[str, str]) -> list[dict[str, Any]]:
    """Volumes or mounts of the template under the names that the volumes have in this pod."""
    return [{**item, "name": renamed[item["name"]]} if item["name"] in renamed else item for item in items]


def gpu_container(
    container: GpuContainer, client: Client, template: Template, renamed: Mapping[str, str], problems: list[str]
) -> list[Operation]:
    """Environment, mounts and shares of one GPU container; its command is another module's."""
    base = container.pointer
    _check_mounts(container, template, problems)
    return [
        *_resources(container, base),
        *_env(container, client, template, base, problems),
        *patch.append(
            f"{base}/volumeMounts", container.raw.get("volumeMounts"), under_names(template.volume_mounts, renamed)
        ),
    ]


def _resources(container: GpuContainer, base: str) -> list[Operation]:
    """Every gpu-* key goes; limits and requests both carry the shares.

    The API server wants requests = limits for an extended resource, and a ResourceQuota counts requests.
    """
    resources = container.raw["resources"]
    operations: list[Operation] = []
    for section in ("limits", "requests"):
        values = resources.get(section)
        if not isinstance(values, dict):
            operations.append(patch.add(f"{base}/resources/{section}", {names.GPU: str(container.demand.shares)}))
            continue
        operations += [
            patch.remove(f"{base}/resources/{section}{_SEGMENTS[key]}")
            for key in values
            if key in names.REQUEST_RESOURCES
        ]
        operations.append(patch.add(f"{base}/resources/{section}{_SEGMENTS[names.GPU]}", str(container.demand.shares)))
    return operations


def _env(
    container: GpuContainer, client: Client, template: Template, base: str, problems: list[str]
) -> list[Operation]:
    present = raw.objects(container.raw, "env", f"{container.path}.env", problems)
    taken = raw.names_of(present)
    added = [variable for variable in template.env if variable["name"] not in taken | {names.LD_LIBRARY_PATH}]
    # Of two variables with one name the last counts, for the kubelet too.
    at = max((i for i, each in enumerate(present) if each.get("name") == names.LD_LIBRARY_PATH), default=None)
    if at is None:
        added = [{"name": names.LD_LIBRARY_PATH, "value": client.library_path}, *added]
        return patch.append(f"{base}/env", container.raw.get("env"), added)
    return [
        *_library_path(present[at], f"{base}/env/{at}", f"{base}/env/{at + 1}", client, taken),
        *patch.append(f"{base}/env", present, added),
    ]


def _library_path(variable: dict[str, Any], here: str, behind: str, client: Client, taken: set[Any]) -> list[Operation]:
    """The library directory in front of what the container set.

    A value by ``valueFrom`` is known to the kubelet only: it moves to a variable of another name, and the kubelet's
    own ``$(...)`` expansion, which sees the variables before, brings it back in.
    """
    if variable.get("valueFrom") is not None:
        name = free(_KEPT_LIBRARY_PATH, taken, "_") if _KEPT_LIBRARY_PATH in taken else _KEPT_LIBRARY_PATH
        value = f"{client.library_path}:$({name})"
        return [
            patch.replace(f"{here}/name", name),
            patch.add(behind, {"name": names.LD_LIBRARY_PATH, "value": value}),
        ]
    own = variable.get("value")
    return [patch.add(f"{here}/value", f"{client.library_path}:{own}" if own else client.library_path)]


def _check_mounts(container: GpuContainer, template: Template, problems: list[str]) -> None:
    for field, key in (("volumeMounts", "mountPath"), ("volumeDevices", "devicePath")):
        for index, mount in enumerate(raw.objects(container.raw, field, f"{container.path}.{field}", problems)):
            path = mount.get(key)
            if isinstance(path, str) and posixpath.normpath(path) in template.mount_paths:
                problems.append(
                    f"{container.path}.{field}[{index}].{key}: {raw.shown(path)} is where the Bitfusion client goes:"
                    " mount yours elsewhere"
                )
