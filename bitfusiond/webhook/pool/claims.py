"""Who has how much of the pool, out of the allocated claims of all namespaces: for figures, and to tell pods."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import trio

from bitfusiond.core import names, quantity
from bitfusiond.core.fields import mapping, objects
from bitfusiond.core.pool import slices
from bitfusiond.kube import CLAIMS, Change, Cluster, Object
from bitfusiond.kube.follow import WatchState, follow

_MOST_PODS = 256  # of a claim; source: ResourceClaimReservedForMaxSize of k8s.io/api resource/v1


class Pod(NamedTuple):
    """One that an allocated claim is reserved for."""

    namespace: str
    name: str
    uid: str


class _Claim(NamedTuple):
    """Shares by server, and its pods: NAME/UID each, a text being smaller than a tuple."""

    shares: tuple[tuple[str, int], ...]
    pods: tuple[str, ...]


class Claims:
    """The claims that have GPUs of ours: as many as the pool has shares, at most. Of others nothing is kept.

    There may be a hundred thousand, and while they are listed anew they are there twice.
    """

    def __init__(self) -> None:
        self.watch = WatchState()
        self._claims: dict[str, _Claim] = {}  # by NAMESPACE/NAME
        self._allocated: Counter[str] = Counter()

    def allocated(self) -> Mapping[str, int] | None:
        """Shares by server; None before the first list."""
        return self._allocated if self.watch.synced else None

    def pods_on(self, servers: set[str]) -> Iterator[tuple[str, Pod]]:
        """The pods that have GPUs of ``servers``, each with its server."""
        for key, claim in self._claims.items():
            namespace = key.partition("/")[0]
            for server in servers.intersection(server for server, _ in claim.shares):
                for pod in claim.pods:
                    name, _, uid = pod.rpartition("/")
                    yield server, Pod(namespace, name, uid)

    async def run(self, cluster: Cluster, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep up with the cluster until cancelled; raises nothing that a cluster can cause."""
        task_status.started()
        await follow(cluster, CLAIMS, listed=self._list, changed=self._change, state=self.watch, keep=_keep)

    def _list(self, claims: list[Object]) -> None:
        self._claims.clear()
        self._allocated.clear()
        for each in claims:
            self._put(each["key"], each["claim"])

    def _change(self, change: Change) -> None:
        self._put(change.object["key"], None if change.type == "DELETED" else change.object["claim"])

    def _put(self, key: str, claim: _Claim | None) -> None:
        before = self._claims.pop(key, None)
        if before is not None:
            for server, shares in before.shares:
                self._allocated[server] -= shares
                if not self._allocated[server]:
                    del self._allocated[server]
        if claim is not None:
            self._claims[key] = claim
            for server, shares in claim.shares:
                self._allocated[server] += shares


def _keep(document: Object) -> Object:
    """A claim's key, and what it has of the pool: some 3 KB become a few bytes while a list comes in."""
    metadata, status = document["metadata"], mapping(document, "status")
    shares: Counter[str] = Counter()
    for result in objects(mapping(status, "allocation", "devices").get("results")):
        server = result.get("pool")
        if result.get("driver") == names.DRIVER and isinstance(server, str) and not result.get("adminAccess"):
            shares[sys.intern(server)] += _shares(result)
    claim = None
    if shares:
        consumers = [each for each in objects(status.get("reservedFor")) if each.get("resource") == "pods"]
        pods = tuple(f"{each.get('name')}/{each.get('uid')}" for each in consumers[:_MOST_PODS])
        claim = _Claim(_shared(tuple(shares.items())), pods)
    return {"key": f"{metadata['namespace']}/{metadata['name']}", "claim": claim}


@lru_cache(maxsize=4096)
def _shared(shares: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """Equal ones are one: many claims ask for the same of one server."""
    return shares


def _shares(result: Object) -> int:
    """What the scheduler wrote; where it wrote nothing, all of the GPU."""
    try:
        return quantity.integer(mapping(result, "consumedCapacity")[slices.SHARES])
    except (KeyError, ValueError):
        return names.SHARES_OF_ONE_GPU
