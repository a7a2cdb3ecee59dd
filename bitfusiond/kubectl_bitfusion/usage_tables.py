"""What ``status`` shows to people."""

from __future__ import annotations

from collections.abc import Sequence

from bitfusiond.core.usage.holdings import Gpu, Holder, NodeShares, PodShares
from bitfusiond.core.usage.usage import Counted, Usage
from bitfusiond.kubectl_bitfusion.tables import Table

_MOST_HOLDERS = 5  # of one GPU or node; -o json has all
_NUMBERS = frozenset({"SHARES", "USED", "FREE", "HARD", "LEFT"})


def tables(usage: Usage) -> list[Table]:
    """What is offered and who has it, then the pods and the quotas."""
    return [_pool(usage), _nodes(usage), _pods(usage), _quotas(usage)]


def lines(usage: Usage) -> list[str]:
    """What is free, what is held here, and what could not be read."""
    where = f"in {usage.namespace}" if usage.namespace else "in all namespaces"
    waiting = f", {usage.waiting} waited for" if usage.waiting else ""
    return [_offered(usage), f"{where}: {usage.held} shares held{waiting}", *usage.notes]


def _offered(usage: Usage) -> str:
    if usage.counted is Counted.UNKNOWN:
        line = "no shares are offered, as far as can be seen"
        # Where something could not be read, a note says whom to ask.
        return line if usage.notes else f"{line}: an operator runs: kubectl bitfusion check"
    by = "one pool" if usage.counted is Counted.POOL else "each node for itself"
    free = "an unknown number" if usage.free is None else usage.free
    return f"{free} of {usage.shares} shares free (100 = one GPU), counted by {by}"


def _pool(usage: Usage) -> Table:
    rows = [
        [
            server.name,
            server.address,
            gpu.id,
            gpu.model,
            *_shares(gpu, usage),
            _held(gpu.holders),
            f"does not answer since {server.unreachable}" if server.unreachable else "" if gpu.is_open else "drained",
        ]
        for server in usage.servers
        for gpu in server.gpus
    ]
    return Table(["SERVER", "ADDRESS", "GPU", "MODEL", "SHARES", "USED", "FREE", "HELD BY", "STATE"], rows, _NUMBERS)


def _nodes(usage: Usage) -> Table:
    listed: Sequence[NodeShares] = [] if usage.servers else usage.nodes
    rows = [[each.name, *_shares(each, usage), _held(each.holders), _state(each)] for each in listed]
    return Table(["NODE", "SHARES", "USED", "FREE", "HELD BY", "STATE"], rows, _NUMBERS)


def _state(node: NodeShares) -> str:
    if not node.is_ready:
        return "not ready"
    return "" if node.is_open else "cordoned"


def _shares(offer: Gpu | NodeShares, usage: Usage) -> list[str]:
    if usage.knows_holders:
        return [str(offer.shares), str(offer.used), str(offer.free)]
    return [str(offer.shares), "?", "?"]


def _held(holders: Sequence[Holder]) -> str:
    more = len(holders) - _MOST_HOLDERS
    shown = [each.words for each in holders[:_MOST_HOLDERS]]
    return ", ".join([*shown, *([f"{more} more"] if more > 0 else [])])


def _pods(usage: Usage) -> Table:
    rows = [[each.namespace, each.name, each.phase, each.node, str(each.shares), _gpus(each)] for each in usage.pods]
    return Table(["NAMESPACE", "POD", "PHASE", "NODE", "SHARES", "GPUS"], rows, _NUMBERS)


def _gpus(pod: PodShares) -> str:
    return ", ".join(f"{server}/{gpu} {shares}" for server, gpu, shares in pod.gpus)


def _quotas(usage: Usage) -> Table:
    rows = [[each.namespace, each.words, str(each.hard), str(each.used), str(each.left)] for each in usage.quotas]
    return Table(["NAMESPACE", "QUOTA", "HARD", "USED", "LEFT"], rows, _NUMBERS)
