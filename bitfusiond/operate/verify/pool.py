"""The pool that Kubernetes counts once: whether what the webhook published is what the inventory says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bitfusiond.core import names
from bitfusiond.core.fields import mapping
from bitfusiond.core.objects import Node, Object
from bitfusiond.core.pool import inventory, slices
from bitfusiond.core.pool.inventory import Pool, Server
from bitfusiond.files.read import load_yaml
from bitfusiond.operate import checks
from bitfusiond.operate.checks import Version
from bitfusiond.operate.report import NOTE, OK, WRONG, Row

_WHAT = "one pool"
_LOGS = "kubectl logs -n bwki -l app.kubernetes.io/name=bitfusion-webhook --since=10m | grep '\"pool\"'"
_MOST_TOLD = 5


def without(version: Version) -> list[Row]:
    """Where no pool is set up: whether this cluster could count one."""
    since = ".".join(map(str, checks.ONE_POOL))
    if version < checks.ONE_POOL:
        return [Row(_WHAT, NOTE, f"each node counts for itself: Kubernetes counts a pool once from {since} on")]
    return [
        Row(
            _WHAT,
            NOTE,
            "each node counts for itself; `POOL=pool.yaml just deploy` lets it be counted once",
        )
    ]


def check(text: str, found: Sequence[Object], device_class: Object | None, nodes: Iterable[Node]) -> list[Row]:
    """A row for all that is right with the pool of the inventory ``text``, and one for each thing that is not.

    ``found`` are the slices of ours.
    """
    try:
        pool = inventory.parse(load_yaml(text))
    except ValueError:
        return []  # its ConfigMap has a row of its own
    by_name = {each["metadata"]["name"]: each for each in found}
    rows = [] if device_class is not None else [Row(f"DeviceClass {names.DRIVER}", WRONG, "it is not there", _LOGS)]
    rows += [row for server in pool.servers if (row := _server(server, by_name))]
    known = {slices.slice_name(server.name) for server in pool.servers}
    rows += [
        Row(f"ResourceSlice {name}", WRONG, "of a server that is not in the inventory", _LOGS)
        for name in by_name
        if name not in known
    ]
    rows += _nodes(pool, nodes)
    if any(row.state == WRONG for row in rows):
        return rows
    gpus = sum(len(server.gpus) for server in pool.servers)
    return [Row(_WHAT, OK, f"{gpus} GPUs on {len(pool.servers)} servers, all published"), *rows]


def _server(server: Server, by_name: Mapping[str, Object]) -> Row | None:
    what = f"GPU server {server.name}"
    stored = by_name.get(slices.slice_name(server.name))
    if stored is None:
        return Row(what, WRONG, f"its ResourceSlice {slices.slice_name(server.name)} is not there", _LOGS)
    now = slices.summarize(stored)
    wanted = slices.resource_slice(server, now.generation, now.tainted)
    if lacking := slices.missing(wanted["spec"], mapping(stored, "spec")):
        detail = f"its ResourceSlice differs in {', '.join(lacking[:_MOST_TOLD])}"
        return Row(what, WRONG, detail, f"{_LOGS}; a field that stays away belongs to a feature gate that is off")
    if now.tainted is not None:
        detail = f"{server.address} does not answer since {now.tainted}: no new pod goes there"
        return Row(what, WRONG, detail, f"look whether it runs, and whether pods of bwki reach {server.address} by TCP")
    return None


def _nodes(pool: Pool, nodes: Iterable[Node]) -> list[Row]:
    """Nodes that offer fewer shares than the pool has: a pod could find a GPU, and no node."""
    fewer = []
    for node in nodes:
        shares = mapping(node, "status", "allocatable").get(names.GPU)
        if isinstance(shares, str) and shares.isdecimal() and 0 < int(shares) < pool.shares:
            fewer.append(f"{node['metadata']['name']} ({shares})")
    if not fewer:
        return []
    more = ", ..." if len(fewer) > _MOST_TOLD else ""
    detail = f"fewer of {names.GPU} than the {pool.shares} of the pool: {', '.join(fewer[:_MOST_TOLD])}{more}"
    return [Row("nodes and the pool", NOTE, f"{detail}; `just deploy` without RESOURCE_NUMS mends that")]
