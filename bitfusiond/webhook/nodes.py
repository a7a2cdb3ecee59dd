"""How many of our resources each node has, kept up by a watch: no admission asks the API server for nodes.

Nodes that are cordoned or not ready count too. A pod that only such a node can run is one that waits for the node to
come back, as any pod does; to refuse it would make a node's upgrade fail the Jobs that are created in these minutes.
For the same reason a node that has 0 counts with what it had before: a kubelet that starts writes 0 for every device
plugin's resource, in the capacity too, until the plugin has registered again.
Whether a pod can run *now* is the scheduler's question, whether it *ever* can is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import trio

from bitfusiond.core import names, quantity
from bitfusiond.core.fields import mapping
from bitfusiond.kube import NODES, Change, Cluster, Object
from bitfusiond.kube.follow import WatchState, follow

_NONE: Mapping[str, int] = MappingProxyType({})


class Nodes:
    """Allocatable amounts of resources under ``bitfusion.io/``, by node. Of a Node nothing else is kept.

    ``watch`` tells how the watch is doing.
    """

    def __init__(self) -> None:
        self.watch = WatchState()
        self._allocatable: dict[str, Mapping[str, int]] | None = None  # by node; None before the first list
        self._largest: Mapping[str, int] | None = None

    def largest(self) -> Mapping[str, int] | None:
        """The most that any one node has of each resource; None while no node is known."""
        if self._largest is None and self._allocatable:
            largest: dict[str, int] = {}
            for amounts in self._allocatable.values():
                for resource, amount in amounts.items():
                    largest[resource] = max(amount, largest.get(resource, 0))
            self._largest = largest
        return self._largest

    async def run(self, cluster: Cluster, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep up with the cluster until cancelled; raises nothing that a cluster can cause."""
        task_status.started()
        await follow(cluster, NODES, listed=self._listed, changed=self._changed, state=self.watch, keep=_keep)

    def _listed(self, nodes: list[Object]) -> None:
        before = self._allocatable or {}
        self._allocatable = {
            name: _amounts(node, before.get(name, _NONE))
            for name, node in ((node["metadata"]["name"], node) for node in nodes)
        }
        self._largest = None

    def _changed(self, change: Change) -> None:
        if self._allocatable is None:
            return
        name = change.object["metadata"]["name"]
        before = self._allocatable.get(name)
        # A kubelet writes its node every few seconds, and nearly always without a word about us.
        if change.type == "DELETED":
            self._allocatable.pop(name, None)
            self._largest = None
        elif (now := _amounts(change.object, before or _NONE)) != before:
            self._allocatable[name] = now
            self._largest = None


def _keep(node: Object) -> Object:
    """A Node with nothing but its name and what it has of ours: some 10 KB become a few bytes while a list comes in."""
    # Devices that are unhealthy for a while are in the capacity only, and come back.
    amounts = {**mapping(node, "status", "allocatable"), **mapping(node, "status", "capacity")}
    ours = {resource: amount for resource, amount in amounts.items() if resource.startswith(names.DOMAIN)}
    return {"metadata": {"name": node["metadata"]["name"]}, "status": {"allocatable": ours}}


def _amounts(node: Object, before: Mapping[str, int]) -> Mapping[str, int]:
    """In the place of each 0 is what the node had ``before``.

    Amounts that are no quantity, or no whole one, are left out: kubelets write none such, and one broken node must not
    hide the others.
    """
    amounts: dict[str, int] = {}
    for resource, amount in node["status"]["allocatable"].items():
        try:
            amounts[resource] = quantity.integer(amount) or before.get(resource, 0)
        except ValueError:
            continue
    # Most nodes of a large cluster have none: they share one empty mapping.
    return amounts or _NONE
