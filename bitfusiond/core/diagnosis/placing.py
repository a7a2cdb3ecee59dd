"""Whether a pod has its shares: by quota, on a node, or in the pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bitfusiond.core import names
from bitfusiond.core.admission import capacity
from bitfusiond.core.diagnosis.facts import ClusterFacts, PodFacts, said
from bitfusiond.core.diagnosis.finding import Finding, Unread, bad, good, unknown
from bitfusiond.core.fields import mapping, objects
from bitfusiond.core.objects import Pod
from bitfusiond.core.pool import slices
from bitfusiond.core.usage import holdings, quotas
from bitfusiond.core.usage.holdings import Server

_STATUS = "kubectl bitfusion status"


def by_quota(cluster: ClusterFacts) -> Iterator[Finding]:
    """What the namespace's quotas of GPU shares leave."""
    if isinstance(cluster.quotas, Unread):
        yield cluster.quotas.finding
        return
    for quota in quotas.share_quotas(cluster.quotas):
        line = f"quota {quota.words}: {quota.used} of {quota.hard} shares used, {quota.left} left"
        # Whoever is counted already has what he asked for.
        yield good(line) if quota.left else unknown(line, f"kubectl describe quota {quota.name} -n {quota.namespace}")


def placed(facts: PodFacts) -> Iterator[Finding]:
    """Whether the scheduler has found a node, and GPUs of the pool where there is one."""
    node = mapping(facts.pod, "spec").get("nodeName")
    if node:
        yield good(f"the scheduler chose node {node}")
        return
    refusal = unschedulable(facts.pod)
    if gates := objects(mapping(facts.pod, "spec").get("schedulingGates")):
        listed = ", ".join(str(each.get("name")) for each in gates)
        yield bad(f"it waits behind scheduling gates: {listed}", f"whoever set them takes them away: {facts.describe}")
    elif refusal is None:
        message = next(iter(said(facts.events, "FailedScheduling", "FailedResourceClaimCreation")), "")
        yield bad(f"the scheduler has not placed it yet: {message or 'it gives no reason'}", facts.describe)
    else:
        yield from _unplaced(facts, refusal)


def unschedulable(pod: Pod) -> str | None:
    """The scheduler's reason for not placing it; None where it gives none."""
    for each in objects(mapping(pod, "status").get("conditions")):
        if each.get("type") == "PodScheduled" and each.get("status") == "False":
            return str(each.get("message") or each.get("reason") or "it gives no reason")
    return None


def _unplaced(facts: PodFacts, refusal: str) -> Iterator[Finding]:
    shares = capacity.shares(facts.pod)
    left_over = [each for each in sorted(names.REQUEST_RESOURCES) if f"Insufficient {each}" in refusal]
    if left_over:
        yield bad(f"no node will ever have {', '.join(left_over)}: {refusal}", facts.describe)
    elif facts.claims or "claim" in refusal:
        yield bad(f"the pool has not what it asks for ({shares} shares in all): {refusal}", _STATUS)
        yield from _in_pool(facts)
    elif f"Insufficient {names.GPU}" in refusal:
        yield bad(f"no node has the {shares} shares that it asks for: {refusal}", _STATUS)
        yield from _on_nodes(facts)
    else:
        yield bad(f"no node takes it, and not for want of GPUs: {refusal}", facts.describe)


def _on_nodes(facts: PodFacts) -> Iterator[Finding]:
    """What the nodes have and what is free, as far as it can be seen."""
    if isinstance(facts.nodes, Unread):
        yield facts.nodes.finding
        return
    pods: Sequence[Pod] = () if isinstance(facts.node_pods, Unread) else facts.node_pods
    found = holdings.nodes(facts.nodes, pods)
    if not any(each.shares for each in found):
        yield bad(
            f"no node offers {names.GPU}: its plugin does not run, or no Bitfusion server answers",
            "an operator runs: kubectl bitfusion check",
        )
    elif isinstance(facts.node_pods, Unread):
        yield unknown(f"the largest node has {max(each.shares for each in found)} shares in all")
        yield facts.node_pods.finding
    else:
        best = max(found, key=lambda node: node.free)
        yield unknown(f"the most that is free on one node is {best.free} of {best.shares} shares, on {best.name}")


def _in_pool(facts: PodFacts) -> Iterator[Finding]:
    if isinstance(facts.slices, Unread):
        yield facts.slices.finding
        return
    claims = () if isinstance(facts.all_claims, Unread) else facts.all_claims
    servers = holdings.servers(facts.slices, claims)
    yield from gone(servers)
    if not servers:
        yield bad("no server of the pool is published", "an operator runs: kubectl bitfusion check")
    elif isinstance(facts.all_claims, Unread):
        yield facts.all_claims.finding
    else:
        gpus = [(gpu.free, f"{server.name}/{gpu.id}") for server in servers for gpu in server.gpus]
        free, name = max(gpus, default=(0, "none"))
        yield unknown(f"the most that is free on one GPU of the pool is {free} shares, on {name}")


def gone(servers: Sequence[Server]) -> Iterator[Finding]:
    """The servers that do not answer."""
    for each in servers:
        if each.unreachable is not None:
            yield unknown(
                f"GPU server {each.name} ({each.address}) does not answer since {each.unreachable}: no new pod goes"
                " there",
                "tell the operator",
            )


def claimed(facts: PodFacts) -> Iterator[Finding]:
    """The GPUs that the pod's claims were given."""
    for name, claim in facts.claims.items():
        if isinstance(claim, Unread):
            yield claim.finding
        elif claim is None:
            yield bad(f"its claim {name} is gone", f"kubectl delete pod {facts.words}: the next one gets a new claim")
        else:
            yield from _given(facts, name, claim)
    for message in said(facts.events, "FailedResourceClaimCreation")[:1]:
        yield bad(f"no claim on the pool could be made for it: {message}", f"kubectl delete pod {facts.words}")


def _given(facts: PodFacts, name: str, claim: Pod) -> Iterator[Finding]:
    given = holdings.results(claim)
    if given:
        listed = ", ".join(f"{each.shares} shares of GPU {slices.gpu_id(each.device)} of {each.pool}" for each in given)
        yield good(f"it was given {listed} (claim {name})")
    elif mapping(facts.pod, "spec").get("nodeName"):
        yield unknown(f"claim {name} has nothing of the pool", f"kubectl describe resourceclaim {name}")
