"""What a ResourceClaim was given: read from the claim and the slices, told to its containers, read back in a pod.

Anybody who may make pods may write a ResourceClaim of any content: everything is checked where it is read, and what is
wrong is an error of that claim alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bitfusiond.core import names, quantity
from bitfusiond.core.clients import servers_conf
from bitfusiond.core.fields import Document, Field, Json, mapping, objects
from bitfusiond.core.objects import ResourceClaim, ResourceSlice
from bitfusiond.core.pool import matching, slices
from bitfusiond.core.text import shown

MOST_DEVICES = 32  # of a claim; source: AllocationResultsMaxSize of k8s.io/api resource/v1
LONGEST_TEXT = 64 * 1024  # characters of what a variable says of one claim; Linux takes 128 KiB
_LONGEST_NAME = 253  # characters


class AllocationError(ValueError):
    """A claim that cannot be used as it is. One line, for a user who reads it in ``kubectl describe pod``."""


@dataclass(frozen=True, slots=True)
class Result:
    """A device that a claim was given, as the claim says it; ``share_id`` tells the users of a shared one apart."""

    request: str
    pool: str
    device: str
    shares: int
    share_id: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A GPU, or some of it: ``shares`` of 100. ``address`` is HOST:PORT of its server."""

    server: str
    address: str
    id: str
    shares: int


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a claim was given, in the order of its allocation; ``claim`` is the name of the ResourceClaim."""

    claim: str
    gpus: tuple[Part, ...]

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of the servers, each once."""
        return tuple(dict.fromkeys(gpu.address for gpu in self.gpus))

    @property
    def text(self) -> str:
        """As a container reads it in :data:`names.ALLOCATION_VARIABLE`; :func:`parse` reads it back."""
        gpus = [{"server": gpu.server, "address": gpu.address, "id": gpu.id, "shares": gpu.shares} for gpu in self.gpus]
        return json.dumps({"claim": self.claim, "gpus": gpus}, separators=(",", ":"))


# --- from the objects -------------------------------------------------------------------------------------------------


def results(claim: ResourceClaim) -> tuple[Result, ...]:
    """The devices of our driver that ``claim`` was given, in their order. Raises AllocationError."""
    listed = mapping(claim, "status", "allocation", "devices").get("results")
    found = [each for each in objects(listed) if each.get("driver") == names.DRIVER]
    if not found:
        raise AllocationError(f"nothing of the driver {names.DRIVER} is allocated to it")
    if len(found) > MOST_DEVICES:
        raise AllocationError(f"{len(found)} devices are allocated to it: bitfusiond takes at most {MOST_DEVICES}")
    return tuple(_result(each) for each in found)


def _result(result: Json) -> Result:
    request, pool, device, share_id = (result.get(key) for key in ("request", "pool", "device", "shareID"))
    if not (_is_name(request) and _is_name(pool) and _is_name(device) and (share_id is None or _is_name(share_id))):
        raise AllocationError(f"its allocation is malformed: {shown(result)}")
    return Result(str(request), str(pool), str(device), _shares(result), share_id)


def _is_name(value: object) -> bool:
    """Whether ``value`` can be a name, or two with a slash between them."""
    return (
        isinstance(value, str)
        and bool(re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?", value))
        and (len(value) <= _LONGEST_NAME)
    )


def _shares(result: Json) -> int:
    """What of the device the claim has. A device that nobody shares is its own as a whole."""
    consumed = mapping(result, "consumedCapacity")
    given = consumed.get(slices.SHARES, consumed.get(f"{names.DOMAIN}{slices.SHARES}", names.SHARES_OF_ONE_GPU))
    try:
        shares = quantity.integer(given)
    except ValueError:
        shares = 0
    if not 1 <= shares <= names.SHARES_OF_ONE_GPU:
        raise AllocationError(f"{shown(given)} shares of one GPU are allocated to it: 1 to 100 there can be")
    return shares


def allocation(claim: ResourceClaim, servers: Mapping[str, ResourceSlice]) -> Allocation:
    """What ``claim`` was given; ``servers`` are the slices of :func:`results`, by pool. Raises AllocationError."""
    parts = []
    for result in results(claim):
        server = servers[result.pool]
        parts.append(Part(result.pool, _address(server, result), slices.gpu_id(result.device), result.shares))
    return Allocation(str(mapping(claim, "metadata").get("name")), tuple(parts))


def _address(server: ResourceSlice, result: Result) -> str:
    """HOST:PORT of the server that has the device of ``result``."""
    spec = mapping(server, "spec")
    named = [each for each in objects(spec.get("devices")) if each.get("name") == result.device]
    if spec.get("driver") != names.DRIVER or mapping(spec, "pool").get("name") != result.pool or not named:
        raise AllocationError(
            f"the GPU {result.device} of the server {result.pool} is not in the pool any more: delete the pod, and the "
            "next one gets another GPU"
        )
    attributes = mapping(named[0], "attributes")
    found = mapping(attributes, matching.ADDRESS) or mapping(attributes, f"{names.DOMAIN}{matching.ADDRESS}")
    address = found.get("string")
    try:
        servers_conf.address(address)
    except servers_conf.ServersError as error:
        raise AllocationError(f"ResourceSlice {slices.slice_name(result.pool)}: {matching.ADDRESS}: {error}") from None
    return str(address)


# --- to the containers, and back --------------------------------------------------------------------------------------


def variable_name(pod_claim: str) -> str:
    """The variable that tells of one claim of a pod, beside others; ``pod_claim`` is what the pod calls it."""
    return f"{names.ALLOCATION_VARIABLE}_{pod_claim.upper().replace('-', '_')}"


def variables(claim: ResourceClaim, given: Allocation) -> dict[str, str]:
    """What tells the containers of ``claim`` of the allocation ``given``.

    A container that names several claims sees the first variable of the last of them: only by the second, which has
    the pod's own name for the claim in its name, ``populate`` sees them all.
    """
    found = {names.ALLOCATION_VARIABLE: given.text}
    pod_claim = mapping(claim, "metadata", "annotations").get(names.POD_CLAIM_NAME)
    if isinstance(pod_claim, str) and re.fullmatch(names.LABEL, pod_claim):
        found[variable_name(pod_claim)] = given.text
    return found


def of_claims(pod_claims: Iterable[str], environment: Mapping[str, str]) -> dict[str, Allocation]:
    """What each of ``pod_claims`` was given, as the variables of a container say it.

    Raises AllocationError that names every claim of which they do not, or not in these words.
    """
    found: dict[str, Allocation] = {}
    problems = []
    for pod_claim in pod_claims:
        variable = variable_name(pod_claim)
        try:
            found[pod_claim] = parse(environment[variable])
        except KeyError:
            problems.append(f"{pod_claim}: the variable {variable} is not set: the node did not prepare this claim")
        except AllocationError as error:
            problems.append(f"{pod_claim}: the variable {variable} tells of no allocation: {error}")
    if problems:
        raise AllocationError("; ".join(problems))
    return found


def parse(text: str) -> Allocation:
    """The allocation of a variable's ``text``. Raises AllocationError."""
    if len(text) > LONGEST_TEXT:
        raise AllocationError(f"it has {len(text)} characters: bitfusiond takes at most {LONGEST_TEXT}")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise AllocationError(f"it is not JSON: {shown(text)}") from None
    gpus = objects(mapping(document).get("gpus"))
    claim = mapping(document).get("claim")
    if not isinstance(claim, str) or not 1 <= len(gpus) <= MOST_DEVICES:
        raise AllocationError(f"it is not of the form {{claim, gpus}} with 1 to {MOST_DEVICES} GPUs: {shown(text)}")
    return Allocation(claim, tuple(map(_part, Document(document)["gpus"].items())))


def _part(gpu: Field) -> Part:
    server, address, identity, shares = (gpu[key].value for key in ("server", "address", "id", "shares"))
    try:
        servers_conf.address(address)
    except servers_conf.ServersError as error:
        raise AllocationError(gpu["address"].line(str(error))) from None
    if not (_is_name(server) and _is_name(identity) and type(shares) is int and 1 <= shares <= names.SHARES_OF_ONE_GPU):
        raise AllocationError(f"{gpu.path} is not of the form {{server, address, id, shares}}: {shown(gpu.value)}")
    return Part(str(server), str(address), str(identity), shares)
