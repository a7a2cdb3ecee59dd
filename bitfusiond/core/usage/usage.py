"""All that ``kubectl bitfusion status`` shows, and its form as a document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from bitfusiond.core.fields import Json
from bitfusiond.core.usage.holdings import Gpu, Holder, NodeShares, PodShares, Server
from bitfusiond.core.usage.quotas import Quota


class Counted(Enum):
    """What Kubernetes counts shares by."""

    POOL = "pool"  # one for the cluster, by claims
    NODES = "nodes"  # each for itself
    UNKNOWN = "unknown"  # nothing that offers shares could be seen


@dataclass(frozen=True, slots=True)
class Usage:
    """``namespace`` is whose pods and quotas are listed, empty for all. ``notes`` say what could not be read.

    ``knows_holders``: those of all namespaces were read, so that what is left is free.
    """

    namespace: str
    servers: Sequence[Server]
    nodes: Sequence[NodeShares]
    pods: Sequence[PodShares]
    quotas: Sequence[Quota]
    knows_holders: bool
    notes: Sequence[str] = ()

    @property
    def counted(self) -> Counted:
        return Counted.POOL if self.servers else Counted.NODES if self.nodes else Counted.UNKNOWN

    @property
    def offers(self) -> Sequence[Gpu] | Sequence[NodeShares]:
        """What shares are taken from."""
        return [gpu for server in self.servers for gpu in server.gpus] or self.nodes

    @property
    def shares(self) -> int | None:
        """All that are offered; None where that could not be seen."""
        return sum(each.shares for each in self.offers) if self.offers else None

    @property
    def used(self) -> int | None:
        return sum(each.used for each in self.offers) if self.offers and self.knows_holders else None

    @property
    def free(self) -> int | None:
        """What the scheduler can give now: nothing of a server that does not answer, or of a node that is closed."""
        return sum(each.free for each in self.offers) if self.offers and self.knows_holders else None

    @property
    def held(self) -> int:
        """By the pods that are listed."""
        return sum(each.shares for each in self.pods if each.node)

    @property
    def waiting(self) -> int:
        """What the pods ask for that are listed and on no node yet."""
        return sum(each.shares for each in self.pods if not each.node)


def document(usage: Usage) -> Json:
    """The form of ``-o json`` and ``-o yaml``, which docs/kubectl.md describes: fields are added, none goes.

    Shares are numbers, 100 = one GPU; null is what could not be seen.
    """
    return {
        "counted": usage.counted.value,
        "namespace": usage.namespace or None,
        "shares": usage.shares,
        "used": usage.used,
        "free": usage.free,
        "held": usage.held,
        "waiting": usage.waiting,
        "servers": [_server(each, usage) for each in usage.servers],
        "nodes": [
            {"name": each.name, "schedulable": each.is_open, "ready": each.is_ready, **_shares(each, usage)}
            for each in ([] if usage.servers else usage.nodes)
        ],
        "pods": [_pod(each) for each in usage.pods],
        "quotas": [
            {
                "namespace": each.namespace,
                "name": each.name,
                "scopes": list(each.scopes),
                "hard": each.hard,
                "used": each.used,
                "left": each.left,
            }
            for each in usage.quotas
        ],
        "notes": list(usage.notes),
    }


def _server(server: Server, usage: Usage) -> Json:
    return {
        "name": server.name,
        "address": server.address,
        "unreachableSince": server.unreachable,
        "gpus": [
            {"id": gpu.id, "model": gpu.model, "schedulable": gpu.is_open, **_shares(gpu, usage)} for gpu in server.gpus
        ],
    }


def _shares(offer: Gpu | NodeShares, usage: Usage) -> Json:
    return {
        "shares": offer.shares,
        "used": offer.used if usage.knows_holders else None,
        "free": offer.free if usage.knows_holders else None,
        "holders": _holders(offer.holders),
    }


def _holders(holders: Iterable[Holder]) -> list[Json]:
    return [{"namespace": each.namespace, "pod": each.pod or None, "shares": each.shares} for each in holders]


def _pod(pod: PodShares) -> Json:
    return {
        "namespace": pod.namespace,
        "name": pod.name,
        "phase": pod.phase,
        "node": pod.node or None,
        "shares": pod.shares,
        "gpus": [{"server": server, "id": gpu, "shares": shares} for server, gpu, shares in pod.gpus],
    }
