"""Who holds GPU shares: by claims where a pool is counted once, by pods where each node counts for itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from bitfusiond.core import names
from bitfusiond.core.admission import capacity
from bitfusiond.core.fields import Json, mapping, objects
from bitfusiond.core.objects import Node, Pod, ResourceClaim, ResourceSlice
from bitfusiond.core.pool import allocation, matching, slices
from bitfusiond.core.pool.allocation import AllocationError
from bitfusiond.core.usage.quotas import number

_ENDED = ("Succeeded", "Failed")
_UNREACHABLE = "node.kubernetes.io/unreachable"


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """A pod, and the shares that it has there; ``pod`` is empty for a claim that no pod uses yet."""

    namespace: str
    pod: str
    shares: int

    @property
    def words(self) -> str:
        return f"{self.namespace}/{self.pod or '(a claim)'} {self.shares}"


class _Shared:
    """What has ``shares`` to give to ``holders``, while it ``is_open``."""

    __slots__ = ()
    shares: int
    is_open: bool
    holders: tuple[Holder, ...]

    @property
    def used(self) -> int:
        return sum(each.shares for each in self.holders)

    @property
    def free(self) -> int:
        return max(0, self.shares - self.used) if self.is_open else 0


@dataclass(frozen=True, slots=True)
class Gpu(_Shared):
    """``is_open``: the scheduler gives out what is free of it."""

    id: str
    model: str
    shares: int
    is_open: bool
    holders: tuple[Holder, ...]


@dataclass(frozen=True, slots=True)
class Server:
    """``unreachable`` is since when it does not answer (RFC 3339), None for one that does."""

    name: str
    address: str
    unreachable: str | None
    gpus: tuple[Gpu, ...]

    @property
    def free(self) -> int:
        return sum(each.free for each in self.gpus)


@dataclass(frozen=True, slots=True)
class NodeShares(_Shared):
    """What a node counts of its own. ``is_open``: the scheduler puts pods there, as it is ``is_ready`` besides."""

    name: str
    shares: int
    is_open: bool
    holders: tuple[Holder, ...]
    is_ready: bool = True


@dataclass(frozen=True, slots=True)
class PodShares:
    """A pod that has shares, or waits for them: ``gpus`` are (server, GPU, shares) of its claims."""

    namespace: str
    name: str
    phase: str
    node: str
    shares: int
    gpus: tuple[tuple[str, str, int], ...] = ()


def is_counting(pod: Pod) -> bool:
    """Whether Kubernetes counts the shares of a pod: until it has ended."""
    return mapping(pod, "status").get("phase") not in _ENDED and capacity.shares(pod) > 0


def of_pod(pod: Pod, claims: Mapping[tuple[str, str], Sequence[allocation.Result]]) -> PodShares:
    """``claims`` are what claims were given, by the (namespace, name) of a pod."""
    metadata = mapping(pod, "metadata")
    where = str(metadata.get("namespace")), str(metadata.get("name"))
    node = mapping(pod, "spec").get("nodeName")
    given = tuple((each.pool, slices.gpu_id(each.device), each.shares) for each in claims.get(where, ()))
    phase = str(mapping(pod, "status").get("phase") or "Unknown")
    return PodShares(*where, phase, str(node or ""), capacity.shares(pod), given)


def by_pod(claims: Iterable[ResourceClaim]) -> dict[tuple[str, str], list[allocation.Result]]:
    """What the claims were given, by the (namespace, name) of each pod that uses one."""
    found: dict[tuple[str, str], list[allocation.Result]] = defaultdict(list)
    for claim in claims:
        for holder in consumers(claim):
            found[holder] += results(claim)
    return found


def results(claim: ResourceClaim) -> Sequence[allocation.Result]:
    """What a claim was given of the pool; nothing for one that has nothing, or that is malformed."""
    try:
        return allocation.results(claim)
    except AllocationError:
        return ()


def servers(resource_slices: Iterable[ResourceSlice], claims: Iterable[ResourceClaim]) -> tuple[Server, ...]:
    """The pool: ``resource_slices`` are those of our driver, ``claims`` those of all namespaces that could be read."""
    held: dict[tuple[str, str], list[Holder]] = defaultdict(list)
    for claim in claims:
        users = consumers(claim) or [(str(mapping(claim, "metadata").get("namespace")), "")]
        for result in results(claim):
            # Pods that share one claim share what it was given: it counts once.
            held[result.pool, result.device].append(Holder(*users[0], result.shares))
    return tuple(sorted((_server(each, held) for each in resource_slices), key=lambda server: server.name))


def consumers(claim: ResourceClaim) -> list[tuple[str, str]]:
    """(namespace, name) of the pods that a claim is reserved for."""
    namespace = str(mapping(claim, "metadata").get("namespace"))
    return [
        (namespace, str(each.get("name")))
        for each in objects(mapping(claim, "status").get("reservedFor"))
        if each.get("resource") == "pods"
    ]


def _server(document: ResourceSlice, held: Mapping[tuple[str, str], list[Holder]]) -> Server:
    spec = mapping(document, "spec")
    name = str(mapping(spec, "pool").get("name"))
    devices = objects(spec.get("devices"))
    gpus = tuple(_gpu(each, held.get((name, str(each.get("name"))), [])) for each in devices)
    address = next((_attribute(each, matching.ADDRESS) for each in devices), "")
    return Server(name, address, slices.unreachable_since(devices), gpus)


def _gpu(device: Json, holders: list[Holder]) -> Gpu:
    shares = mapping(device, "capacity", slices.SHARES).get("value", names.SHARES_OF_ONE_GPU)
    taints = [each for each in objects(device.get("taints")) if each.get("effect") in {"NoSchedule", "NoExecute"}]
    identity = slices.gpu_id(str(device.get("name")))
    model = _attribute(device, matching.attribute(matching.NAME))
    return Gpu(identity, model, number(shares), not taints, tuple(sorted(holders)))


def _attribute(device: Json, name: str) -> str:
    attributes = mapping(device, "attributes")
    found = mapping(attributes, name) or mapping(attributes, f"{names.DOMAIN}{name}")
    return str(next(iter(found.values()), ""))


def nodes(all_nodes: Iterable[Node], pods: Iterable[Pod]) -> tuple[NodeShares, ...]:
    """Nodes that have shares; ``pods`` are those of all namespaces that could be read."""
    held: dict[str, list[Holder]] = defaultdict(list)
    for pod in pods:
        metadata, node = mapping(pod, "metadata"), mapping(pod, "spec").get("nodeName")
        if isinstance(node, str) and is_counting(pod):
            where = str(metadata.get("namespace")), str(metadata.get("name"))
            held[node].append(Holder(*where, capacity.shares(pod)))
    every = sorted(((str(mapping(each, "metadata").get("name")), each) for each in all_nodes), key=itemgetter(0))
    return tuple(_node(name, each, held.get(name, [])) for name, each in every if _offer(each) or name in held)


def _node(name: str, node: Node, holders: list[Holder]) -> NodeShares:
    answers = is_ready(node)
    is_open = answers and mapping(node, "spec").get("unschedulable") is not True
    return NodeShares(name, _offer(node), is_open, tuple(sorted(holders)), answers)


def _offer(node: Node) -> int:
    return number(mapping(node, "status", "allocatable").get(names.GPU))


def is_ready(node: Node) -> bool:
    """Whether its kubelet answers, as the cluster knows it."""
    conditions = objects(mapping(node, "status").get("conditions"))
    taints = objects(mapping(node, "spec").get("taints"))
    is_down = any(each.get("type") == "Ready" and each.get("status") != "True" for each in conditions)
    return not is_down and not any(each.get("key") == _UNREACHABLE for each in taints)
