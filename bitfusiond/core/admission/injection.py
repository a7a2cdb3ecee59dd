"""What is added to a pod and its GPU containers: the operator's template made to fit one pod."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter

from bitfusiond.core import names
from bitfusiond.core.admission import patch
from bitfusiond.core.admission.patch import Operation, pointer
from bitfusiond.core.admission.pod import GpuContainer
from bitfusiond.core.admission.template import Template
from bitfusiond.core.clients.client import Variable
from bitfusiond.core.fields import Field, Json, names_of
from bitfusiond.core.images.image import Image, Unreadable
from bitfusiond.core.text import shown

_SEGMENTS = {key: pointer(key) for key in (names.GPU, *names.REQUEST_RESOURCES)}
_KEPT = "BITFUSIOND_"  # what a variable is called that had to make room


def check_mounts(containers: Sequence[GpuContainer], template: Template) -> None:
    """Note a problem with each mount of the user's where one of the template's goes, or that leaves it no place."""
    for container in containers:
        for mount in container.mounts:
            if mount.path in template.mount_paths or mount.path.startswith(template.below_files):
                mount.field.problem(f"{shown(mount.field.value)} is where the client goes: mount yours elsewhere")
            elif mount.holds_nothing_below and (below := template.above.get(mount.path)):
                mount.field.problem(
                    f"{shown(mount.field.value)} {mount.holds_nothing_below} and lies above {below}, where the"
                    " client goes: the container could not start, so mount yours elsewhere"
                )


def mount_warnings(containers: Sequence[GpuContainer], template: Template) -> Iterator[str]:
    """A line for each mount above the client's that may be writable or not, as only its server or node knows."""
    for container in containers:
        for mount in container.mounts:
            if mount.path in template.above and not mount.is_writable:
                yield mount.field.line(
                    f"{shown(mount.field.value)} must be writable, as the client goes below it; or mount it elsewhere"
                )


def volume_names(template: Template, volumes: list[Json]) -> dict[str, str]:
    """Other names for the template's volumes whose own name the pod has already; most often none."""
    taken = names_of(volumes)
    ours = [volume["name"] for volume in template.volumes]
    if taken.isdisjoint(ours):
        return {}
    anywhere = taken | set(ours)
    renamed: dict[str, str] = {}
    for name in ours:
        if name in taken:
            renamed[name] = unused_name(name, anywhere, "-")
            anywhere.add(renamed[name])
    return renamed


def unused_name(base: str, taken: set[str], separator: str) -> str:
    """``base`` with a number behind it, such that it is not in ``taken``."""
    number = 2
    while (candidate := f"{base[:58]}{separator}{number}") in taken:  # names of volumes have at most 63 characters
        number += 1
    return candidate


def volumes(template: Template, spec: Field, renamed: Mapping[str, str]) -> list[Operation]:
    """The template's volumes behind the pod's own."""
    return patch.append("/spec/volumes", spec["volumes"].value, under_names(template.volumes, renamed))


def under_names(items: Iterable[Json], renamed: Mapping[str, str]) -> list[Json]:
    """Volumes or mounts of the template under the names that the volumes have in this pod."""
    return [{**item, "name": renamed[item["name"]]} if item["name"] in renamed else item for item in items]


def gpu_container(
    container: GpuContainer, variables: Sequence[Variable], template: Template, renamed: Mapping[str, str]
) -> list[Operation]:
    """Environment, mounts and shares of one GPU container."""
    return [
        *_resources(container),
        *_env(container, variables, template),
        *patch.append(
            f"{container.pointer}/volumeMounts",
            container.raw.get("volumeMounts"),
            under_names(template.volume_mounts, renamed),
        ),
    ]


def _resources(container: GpuContainer) -> list[Operation]:
    """Every gpu-* key goes; limits and requests both carry the shares.

    The API server wants requests = limits for an extended resource, and a ResourceQuota counts requests.
    """
    resources, shares = container.raw["resources"], str(container.demand.shares)
    operations: list[Operation] = []
    for section in ("limits", "requests"):
        path, values = f"{container.pointer}/resources/{section}", resources.get(section)
        if not isinstance(values, dict):
            operations.append(patch.add(path, {names.GPU: shares}))
            continue
        operations += [patch.remove(path + _SEGMENTS[key]) for key in values if key in names.REQUEST_RESOURCES]
        operations.append(patch.add(path + _SEGMENTS[names.GPU], shares))
    return operations


def _env(container: GpuContainer, variables: Sequence[Variable], template: Template) -> list[Operation]:
    """The client's variables, and those of the template that the container does not set itself."""
    path, present = f"{container.pointer}/env", container.env
    taken = names_of(present)
    # Of two variables with one name the last counts, for the kubelet too.
    places = {each["name"]: index for index, each in enumerate(present) if isinstance(each.get("name"), str)}
    added = [
        {"name": each.name, "value": _before_image(each, container.image)}
        for each in variables
        if each.name not in taken
    ]
    ours = {each.name for each in variables}
    added += [each for each in template.env if each["name"] not in ours | taken]
    merged = sorted(
        ((places[each.name], each) for each in variables if each.prepends is not None and each.name in taken),
        key=itemgetter(0),
        reverse=True,  # what is put in moves those behind it
    )
    operations = [operation for at, each in merged for operation in _prepended(present[at], each, path, at, taken)]
    return [*operations, *patch.append(path, container.raw.get("env"), added)]


def _before_image(ours: Variable, image: Image | Unreadable | None) -> str:
    """The client's value in front of what the image sets, where that is known."""
    own = image.env.get(ours.name) if isinstance(image, Image) else None
    if ours.prepends is None or not own:
        return ours.value
    # The kubelet expands $(...) here, and none in an image.
    return f"{ours.value}{ours.prepends}{own.replace('$', '$$')}"


def _prepended(present: Json, ours: Variable, path: str, at: int, taken: set[str]) -> list[Operation]:
    """The client's value in front of what the container set.

    A value by ``valueFrom`` is known to the kubelet only: it moves to a variable of another name, and the kubelet's
    own ``$(...)`` expansion, which sees the variables before, brings it back in.
    """
    here = f"{path}/{at}"
    if present.get("valueFrom") is not None:
        kept = f"{_KEPT}{ours.name}"
        name = unused_name(kept, taken, "_") if kept in taken else kept
        value = f"{ours.value}{ours.prepends}$({name})"
        operations = [
            patch.replace(f"{here}/name", name),
            patch.add(f"{path}/{at + 1}", {"name": ours.name, "value": value}),
        ]
        if _is_optional(present["valueFrom"]):
            # Without its key the kubelet would leave $(...) as it stands; then the variable before counts.
            operations.append(patch.add(here, {"name": name, "value": ours.value}))
        return operations
    own = present.get("value")
    return [patch.add(f"{here}/value", f"{ours.value}{ours.prepends}{own}" if own else ours.value)]


def _is_optional(source: object) -> bool:
    references = source.values() if isinstance(source, dict) else ()
    return any(isinstance(each, dict) and each.get("optional") is True for each in references)
