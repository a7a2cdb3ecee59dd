"""The file that tells a container runtime what a claim's containers get (Container Device Interface): one a claim.

It also says all that we have to know of a claim that was prepared: no other record is kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from bitfusiond.core import names
from bitfusiond.core.fields import mapping, objects, strings
from bitfusiond.core.objects import ResourceClaim, ResourceSlice
from bitfusiond.core.pool import allocation, parameters
from bitfusiond.core.pool.allocation import Result

VERSION = "0.6.0"  # the first that has annotations
KIND = f"{names.DRIVER}/claim"
_PREFIX, _SUFFIX = f"{names.DRIVER}-claim_", ".json"
_UID = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9]{0,62}[A-Za-z0-9])?", re.ASCII)
# Annotations of the file
_CLAIM = f"{names.DOMAIN}claim"
_RESULTS = f"{names.DOMAIN}results"


@dataclass(frozen=True, slots=True)
class ClaimRef:
    """Which ResourceClaim, in a kubelet's words."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """A claim whose containers can be made: what the kubelet is told of it, and the variables of its containers."""

    claim: ClaimRef
    results: tuple[Result, ...]
    environment: Mapping[str, str]


def prepared(ref: ClaimRef, claim: ResourceClaim, servers: Mapping[str, ResourceSlice]) -> Prepared:
    """What ``claim``, which ``ref`` names, is prepared with; ``servers`` are the slices of its results, by pool.

    Raises AllocationError.
    """
    results = allocation.results(claim)
    given = allocation.allocation(claim, servers)
    filled = parameters.environment(claim, list(zip(results, given.gpus, strict=True)))
    return Prepared(ref, results, filled | allocation.variables(claim, given))


def is_uid(text: str) -> bool:
    """Whether ``text`` may stand in a file's name and name a device of CDI."""
    return bool(_UID.fullmatch(text))


def file_name(uid: str) -> str:
    return f"{_PREFIX}{uid}{_SUFFIX}"


def uid_of(file: str) -> str | None:
    """The UID of the claim whose file has the name ``file``; None for any other name."""
    uid = file.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    return uid if is_uid(uid) and file == file_name(uid) else None


def device_id(uid: str) -> str:
    """What the container runtime looks up."""
    return f"{KIND}={uid}"


def write(each: Prepared) -> bytes:
    """The content of the file; :func:`read` reads it back."""
    results = [[result.request, result.pool, result.device, result.shares, result.share_id] for result in each.results]
    document = {
        "cdiVersion": VERSION,
        "kind": KIND,
        "annotations": {_CLAIM: f"{each.claim.namespace}/{each.claim.name}", _RESULTS: json.dumps(results)},
        "devices": [
            {
                "name": each.claim.uid,
                "containerEdits": {"env": [f"{name}={value}" for name, value in each.environment.items()]},
            }
        ],
    }
    return json.dumps(document, indent=1).encode()


def read(content: bytes, uid: str) -> Prepared | None:
    """What the file of the claim ``uid`` says; None where it is not whole, or is of another version of ours."""
    try:
        document = json.loads(content)
        annotations = mapping(document, "annotations")
        namespace, _, name = str(annotations.get(_CLAIM)).partition("/")
        results = tuple(Result(*each) for each in json.loads(annotations[_RESULTS]))
        (device,) = objects(mapping(document).get("devices"))
        pairs = [each.partition("=") for each in strings(mapping(device, "containerEdits").get("env"))]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    found = Prepared(ClaimRef(namespace, name, uid), results, {key: value for key, _, value in pairs})
    # What we did not write ourselves, word for word, is not ours to go by.
    return found if write(found) == content else None
