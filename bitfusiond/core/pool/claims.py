"""What a GPU container asks of the scheduler: a ResourceClaimTemplate, the same for all that ask the same.

Source of its form: k8s.io/api resource/v1, ResourceClaimSpec.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitfusiond.core import names, quantity
from bitfusiond.core.clients.client import Values, Variable
from bitfusiond.core.fields import Json
from bitfusiond.core.pool import matching, slices
from bitfusiond.core.pool.matching import Selection

# The scheduler looks for GPUs by trying all ways, within 10 s, while all other pods of the cluster wait: for 16 GPUs of
# which one is missing it takes a second, and for 9 claims of which one finds none five.
MOST_GPUS_OF_POD = 16  # of all its claims; AllocationResultsMaxSize, of one claim, is 32
MOST_CLAIMS_OF_POD = 8
REQUEST = "gpu"
_MOST_SIZES = 8  # source: FirstAvailableDeviceRequestMaxSize
_PREFIX = "bitfusion-"


@dataclass(frozen=True, slots=True)
class ClaimTemplate:
    """``name`` has the hash of ``spec``, which is the spec of the claims that are made from it."""

    name: str
    spec: Json


@dataclass(frozen=True, slots=True)
class Wish:
    """``amount`` GPUs, ``shares`` of each by the megabytes of a GPU; None for those of any size."""

    amount: int
    shares: Mapping[int | None, int]


def is_ours(name: str) -> bool:
    """Whether a template of this name may be one of these."""
    return name.startswith(_PREFIX)


def wish(amount: int, percent: int | None, memory: int | None, sizes: Mapping[int, int], *, one_size: bool) -> Wish:
    """What ``amount`` GPUs with ``percent`` or ``memory`` bytes of each are, where GPUs have ``sizes`` with counts.

    The smallest GPUs that suffice come first, so that larger ones stay for who needs them; with ``one_size`` no other
    ones are taken. No shares: there are not so many GPUs.
    """
    if memory is None:
        return Wish(amount, {None: percent or names.SHARES_OF_ONE_GPU} if sum(sizes.values()) >= amount else {})
    enough = [size for size, count in sorted(sizes.items()) if size * quantity.MEGABYTE >= memory and count >= amount]
    taken = enough[: 1 if one_size else _MOST_SIZES]
    return Wish(amount, {size: quantity.shares_of_memory(memory, size, 1) for size in taken})


def template(wished: Wish, selection: Selection, variables: Sequence[Variable], values: Values) -> ClaimTemplate:
    """The template of a container that has this wish. ``variables`` are those that name the servers, if there are."""
    requests = [_request(wished.amount, shares, size, selection) for size, shares in wished.shares.items()]
    if len(requests) == 1:
        request: Json = {"name": REQUEST, "exactly": requests[0]}
    else:
        named = [{"name": f"m{size}", **each} for size, each in zip(wished.shares, requests, strict=True)]
        request = {"name": REQUEST, "firstAvailable": named}
    devices: Json = {"requests": [request]}
    if wished.amount > 1:  # shares of one GPU would be less than was asked
        devices["constraints"] = [{"requests": [REQUEST], "distinctAttribute": f"{names.DRIVER}/{slices.GPU}"}]
    if variables:
        opaque = {"driver": names.DRIVER, "parameters": _parameters(variables, values)}
        devices["config"] = [{"requests": [REQUEST], "opaque": opaque}]
    spec = {"devices": devices}
    written = json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()
    return ClaimTemplate(f"{_PREFIX}{hashlib.sha256(written).hexdigest()[:20]}", spec)


def document(made: ClaimTemplate, namespace: str) -> Json:
    """The template as an object of the cluster."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": made.name, "namespace": namespace, "labels": dict(slices.LABELS)},
        "spec": {"spec": made.spec},
    }


def _request(amount: int, shares: int, size: int | None, selection: Selection) -> Json:
    expression = matching.both(selection.expression, "" if size is None else matching.of_size(size))
    return {
        "deviceClassName": names.DRIVER,
        "allocationMode": "ExactCount",
        "count": amount,
        **({"selectors": [{"cel": {"expression": expression}}]} if expression else {}),
        "capacity": {"requests": {slices.SHARES: str(shares)}},
    }


def _parameters(variables: Sequence[Variable], values: Values) -> Json:
    """What the node fills in when the servers are known: the arguments of core.clients.client.environment()."""
    return {
        "variables": [
            {"name": each.name, "value": each.value} | ({} if each.between is None else {"between": each.between})
            for each in variables
        ],
        "values": dict(values),
    }
