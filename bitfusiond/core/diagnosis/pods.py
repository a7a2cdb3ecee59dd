"""Why a pod does not run on its GPUs."""

from __future__ import annotations

from collections.abc import Iterator

from bitfusiond.core import names
from bitfusiond.core.admission import capacity
from bitfusiond.core.admission.optin import Mode
from bitfusiond.core.diagnosis import asked, filling, placing, running, webhook
from bitfusiond.core.diagnosis.facts import PodFacts, said
from bitfusiond.core.diagnosis.finding import Finding, bad, good, is_bad
from bitfusiond.core.fields import mapping, objects
from bitfusiond.core.objects import Pod


def diagnose(facts: PodFacts) -> list[Finding]:
    """Findings in the order of the pod's way. None of them is bad where it runs on its GPUs, or has done so."""
    found = list(_walk(facts))
    if not is_bad(found) and not running.is_running(facts):
        message = next(iter(said(facts.events)), "nothing says why")
        how = "it failed" if running.has_ended(facts.pod) else "it does not run yet"
        found.append(bad(f"{how}; the last word about it: {message}", facts.describe))
    return found


def is_injected(pod: Pod) -> bool:
    """Whether it carries what the webhook adds: our status and shares alone can be written by anybody."""
    metadata = mapping(pod, "metadata")
    if mapping(metadata, "annotations").get(names.STATUS) != names.STATUS_INJECTED or asked.left_over(pod):
        return False
    asks = asked.read(pod, str(metadata.get("namespace"))).mode is not Mode.NONE
    return capacity.shares(pod) > 0 and (asks or _is_filled(pod))


def _is_filled(pod: Pod) -> bool:
    """Whether a client or its token is put into it."""
    return bool(filling.populate_name(pod) or filling.client_image(pod) or filling.token_secrets(pod))


def _walk(facts: PodFacts) -> Iterator[Finding]:
    pod, cluster = facts.pod, facts.cluster
    yield from asked.annotation(pod, cluster, facts.maker)
    if not is_injected(pod):
        yield from _uninjected(facts)
        return
    yield good(f"it was injected, and has {capacity.shares(pod)} shares ({names.STATUS} is {names.STATUS_INJECTED})")
    if mapping(pod, "metadata").get("deletionTimestamp"):
        yield bad("it is being deleted", facts.describe)
    if running.has_ended(pod):
        yield from _ended(facts)
        return
    if facts.status.get("phase") == "Unknown":
        yield bad(f"its node has said nothing for a while: {_reason(facts)}", facts.describe)
    yield from placing.by_quota(cluster)
    yield from placing.placed(facts)
    yield from placing.claimed(facts)
    if not mapping(pod, "spec").get("nodeName"):
        return
    yield from filling.mounted(facts)
    yield from filling.pulled(facts)
    yield from filling.populated(facts)
    yield from filling.tokens(facts)
    yield from running.programs(facts)
    yield from running.servers(facts)
    yield from filling.plugin(facts)


def _ended(facts: PodFacts) -> Iterator[Finding]:
    """Of one that has succeeded or failed: its claim may be gone by now, and its node and token others'."""
    status = facts.status
    if status.get("reason") == "Evicted":
        yield bad(f"its node evicted it: {status.get('message') or 'it gives no reason'}", facts.describe)
        return
    if status.get("phase") == "Failed" and (status.get("reason") or status.get("message")):
        yield bad(f"it failed: {_reason(facts)}", facts.describe)
    yield from filling.populated(facts)
    yield from running.programs(facts)


def _reason(facts: PodFacts) -> str:
    """What the node, or the cluster in its place, says of the pod as a whole."""
    words = [str(facts.status[key]) for key in ("reason", "message") if facts.status.get(key)]
    return ": ".join(words) or "it gives no reason"


def _uninjected(facts: PodFacts) -> Iterator[Finding]:
    pod, cluster = facts.pod, facts.cluster
    asks = asked.read(pod, cluster.namespace)
    if asks.mode is Mode.NONE and asks.is_injected:
        yield bad(
            f"it has the annotation {names.STATUS} without what the webhook adds",
            "create it from its own manifest, not from a copy of a pod that ran",
        )
    if asks.is_mirror or asks.mode in {None, Mode.NONE}:
        return
    if asks.is_injected:
        yield bad(
            f"{names.STATUS} is there, but not what the webhook adds: somebody wrote it, or took the rest away",
            "create it from its own manifest, not from a copy of a pod that ran",
        )
        return
    yield from asked.values(pod, cluster)
    before = list(asked.namespace(cluster))
    yield from before
    if is_bad(before):
        return
    yield from webhook.configured(cluster)
    yield from webhook.answering(cluster)
    yield from webhook.not_injected(facts)


def worst(pods: list[Pod]) -> Pod:
    """The one to look at: of those that have not ended the newest that does not run, else the newest.

    Who tries again, or was evicted, leaves pods behind that have ended.
    """
    going_on = [each for each in pods if not running.has_ended(each)]
    waiting = [each for each in going_on if not _is_ready(each)]
    return max(
        waiting or going_on or pods, key=lambda pod: str(mapping(pod, "metadata").get("creationTimestamp") or "")
    )


def _is_ready(pod: Pod) -> bool:
    return any(
        each.get("type") == "Ready" and each.get("status") == "True"
        for each in objects(mapping(pod, "status").get("conditions"))
    )
