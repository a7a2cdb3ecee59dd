"""What the cluster is told of the pool: a ResourceSlice a server, a device a GPU, and the DeviceClass of them all.

Each server is a pool of Kubernetes' own, so that a change of one server touches one slice, and no generation spans
objects.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bitfusiond.core import names
from bitfusiond.core.fields import Json, mapping, objects
from bitfusiond.core.pool import matching
from bitfusiond.core.pool.inventory import Gpu, Server

SHARES = "shares"  # the capacity of a device
GPU = "gpu"  # the attribute that no two devices of the pool share
FIELD_MANAGER = "bitfusiond-pool"  # of all that we write about the pool
LABELS = {names.MANAGED_BY: names.MANAGED_BY_US}
_PREFIX = f"{names.DRIVER}-"
_GPU_PREFIX = "gpu-"


@dataclass(frozen=True, slots=True)
class Stored:
    """A slice as the API server has it, as far as decisions need it: a server may have a hundred kilobytes of devices.

    ``content`` stands for all but the generation and our taint. ``tainted`` is since when all devices have that taint.
    """

    name: str
    resource_version: str
    generation: int
    content: str
    gpus: int
    tainted: str | None = None


def slice_name(server: str) -> str:
    return _PREFIX + server


def server_name(slice_name: str) -> str:
    return slice_name.removeprefix(_PREFIX)


def device_name(gpu: str) -> str:
    return _GPU_PREFIX + gpu


def gpu_id(device_name: str) -> str:
    return device_name.removeprefix(_GPU_PREFIX)


def device_class() -> Json:
    """By which claims ask for a GPU of the pool."""
    selector = {"cel": {"expression": f'device.driver == "{names.DRIVER}"'}}
    return {"metadata": {"labels": dict(LABELS)}, "spec": {"selectors": [selector]}}


def resource_slice(server: Server, generation: int, tainted: str | None = None) -> Json:
    """What is offered of ``server``; ``tainted``: it does not answer since then (RFC 3339), and no pod is to go there.

    The time is ours to give: the API server would write the present one into every taint without it, at every write.
    """
    devices = [_device(server, gpu) for gpu in server.gpus]
    if tainted is not None:
        taint = {"key": names.UNREACHABLE, "value": "true", "effect": "NoSchedule", "timeAdded": tainted}
        devices = [{**device, "taints": [taint]} for device in devices]
    pool = {"name": server.name, "generation": generation, "resourceSliceCount": 1}
    spec = {"driver": names.DRIVER, "pool": pool, "allNodes": True, "devices": devices}
    return {"metadata": {"labels": dict(LABELS)}, "spec": spec}


def summarize(document: Json) -> Stored:
    """A slice out of a list, a watch or an answer."""
    metadata, spec = document["metadata"], mapping(document, "spec")
    devices = objects(spec.get("devices"))
    tainted = unreachable_since(devices)
    if tainted is not None:
        devices = [_without_our_taint(device) for device in devices]
    generation = mapping(spec, "pool").get("generation")
    return Stored(
        metadata["name"],
        metadata["resourceVersion"],
        generation if isinstance(generation, int) else 0,
        _content(metadata, spec, devices),
        len(devices),
        tainted,
    )


def content(document: Json) -> str:
    """What :attr:`Stored.content` is where the document of :func:`resource_slice` is stored as it is."""
    spec = document["spec"]
    return _content(document["metadata"], spec, [_without_our_taint(device) for device in spec["devices"]])


def is_ours(document: Json) -> bool:
    """Whether we wrote the slice, by its driver and label."""
    labels = mapping(document, "metadata", "labels")
    return mapping(document, "spec").get("driver") == names.DRIVER and LABELS.items() <= labels.items()


def missing(sent: Any, stored: Any) -> list[str]:
    """The paths of what was ``sent`` and is not ``stored``, ``[]`` for an element of a list; each once.

    An API server drops in silence what belongs to a feature gate that is off.
    """
    return list(dict.fromkeys(_missing(sent, stored, "")))


def _missing(sent: Any, stored: Any, path: str) -> Iterator[str]:
    if isinstance(sent, dict) and isinstance(stored, dict):
        for key, value in sent.items():
            yield from _missing(value, stored.get(key), f"{path}.{key}" if path else key)
    elif isinstance(sent, list) and isinstance(stored, list) and len(sent) == len(stored):
        for one, other in zip(sent, stored, strict=True):
            yield from _missing(one, other, f"{path}[]")
    elif sent != stored:
        yield path


def _device(server: Server, gpu: Gpu) -> Json:
    policy = {"default": "100", "validRange": {"min": "1", "max": "100", "step": "1"}}
    attributes = {key: _attribute(value) for key, value in _values(server, gpu)}
    return {
        "name": device_name(gpu.id),
        "attributes": attributes,
        "capacity": {SHARES: {"value": str(names.SHARES_OF_ONE_GPU), "requestPolicy": policy}},
        "allowMultipleAllocations": True,
    }


def _values(server: Server, gpu: Gpu) -> Iterable[tuple[str, str | int | bool]]:
    yield "server", server.name
    yield matching.ADDRESS, server.address
    yield GPU, f"{server.name}/{device_name(gpu.id)}"
    for key, value in matching.values_of(server, gpu).items():
        yield matching.attribute(key), value


def _attribute(value: str | int | bool) -> Json:
    kind = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "string"
    return {kind: value}


def unreachable_since(devices: list[Json]) -> str | None:
    """Since when all of them have our taint; None where one has not: then the slice is not as we wrote it."""
    times = {_our_taint(device) for device in devices}
    return times.pop() if len(times) == 1 else None


def _our_taint(device: Json) -> str | None:
    for taint in objects(device.get("taints")):
        if taint.get("key") == names.UNREACHABLE and taint.get("effect") == "NoSchedule":
            return str(taint.get("timeAdded"))
    return None


def _without_our_taint(device: Json) -> Json:
    others = [taint for taint in objects(device.get("taints")) if taint.get("key") != names.UNREACHABLE]
    rest = {key: value for key, value in device.items() if key != "taints"}
    return {**rest, "taints": others} if others else rest


def _content(metadata: Json, spec: Json, devices: list[Json]) -> str:
    pool = {key: value for key, value in mapping(spec, "pool").items() if key != "generation"}
    labels = {key: mapping(metadata, "labels").get(key) for key in LABELS}
    whole = json.dumps([labels, {**spec, "pool": pool, "devices": devices}], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(whole.encode()).hexdigest()
