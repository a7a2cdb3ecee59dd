"""``just uninstall``: everything of bitfusiond goes, also what is left of half an installation or of 0.4.

The webhook configurations go first, so that nobody's pod is refused for a webhook that is going. The permissions go
before the Secrets: a webhook that is still ending would make its own anew. Pods that run keep running.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

from bitfusiond.core import names
from bitfusiond.core.copies import BY_SECRET
from bitfusiond.errors import Failure
from bitfusiond.operate import adoption, legacy04, render, report, rollout, running, takeover
from bitfusiond.operate.checks import TOKEN_NAMESPACE
from bitfusiond.operate.kubectl import Json, Kubectl, KubectlError, Ref, ref
from bitfusiond.operate.rollout import Say

LABEL = "app.kubernetes.io/part-of=bitfusiond"
NAMESPACE = Ref("Namespace", names.NAMESPACE)

# In the order in which they go.
KINDS = (
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
    "ClusterRoleBinding",
    "RoleBinding",
    "Deployment",
    "DaemonSet",
    "ReplicaSet",
    "Service",
    "ConfigMap",
    "PodDisruptionBudget",
    "HorizontalPodAutoscaler",
    "NetworkPolicy",
    "ServiceAccount",
    "Role",
    "ClusterRole",
    "PriorityClass",
)
# Kinds that not every cluster has: of the overlay tkgi, and of manifests/monitoring where somebody applied it.
OPTIONAL = ("PodSecurityPolicy", "PodMonitor", "ServiceMonitor", "PrometheusRule")
# By name, as those of 0.4 have no label and an operator may have taken it away.
NAMED = (
    Ref("MutatingWebhookConfiguration", "bwki-webhook-cfg"),
    Ref("ValidatingWebhookConfiguration", "validation.bitfusion.io-cfg"),
    running.WEBHOOK,
    running.PLUGIN,
    Ref("Service", "bwki-webhook-svc", names.NAMESPACE),
    Ref("ServiceAccount", "bitfusion-webhook-deployment", names.NAMESPACE),
    Ref("ConfigMap", "bwki-webhook-configmap", names.NAMESPACE),
    render.CATALOGUE_MAP,
    Ref("ClusterRoleBinding", "bitfusiond-webhook"),
    Ref("ClusterRole", "bitfusiond-webhook"),
)
_SETTLE_SECONDS = 15.0
_WEBHOOK_PODS = "app.kubernetes.io/name=bitfusion-webhook"


def run(kubectl: Kubectl, *, namespace: bool, timeout: float, say: Say) -> None:
    """Delete, then look whether anything is left. Raises Failure that names what is, and why."""
    failures: list[str] = []
    objects, problems = find(kubectl)
    failures += problems
    _delete(kubectl, objects, failures, say)
    if not _pods_gone(kubectl, timeout):
        say("pods of the webhook are still ending: going on without them")
    secrets = copies_of(adoption.find(kubectl))
    _delete(kubectl, [takeover.CERTIFICATES, *secrets], failures, say)
    if namespace:
        _delete(kubectl, [NAMESPACE], failures, say)
        _wait_for_namespace(kubectl, timeout, failures)
    elif kubectl.get(NAMESPACE) is not None:
        say(f"{NAMESPACE}: kept; NAMESPACE=yes just uninstall deletes it")
    say(f"Secrets {', '.join(names.TOKEN_SECRETS.values())} in {TOKEN_NAMESPACE}: yours, left as they are")
    _check(kubectl, failures, say)


def find(kubectl: Kubectl) -> tuple[list[Ref], list[str]]:
    """What there is to delete, in order, and what could not be looked at: one broken kind must stop nothing."""
    found: list[Ref] = []
    problems = []
    looks: list[Callable[[], Iterable[Ref]]] = [
        *(partial(_labelled, kubectl, kinds) for kinds in (",".join(KINDS), *OPTIONAL)),
        lambda: kubectl.existing(NAMED),
        lambda: [removal.what for removal in legacy04.find(kubectl).removals],
    ]
    for look in looks:
        try:
            found += look()
        except KubectlError as error:
            problems.append(str(error))
    order = {kind: place for place, kind in enumerate(KINDS)}
    return sorted(dict.fromkeys(found), key=lambda what: order.get(what.kind, len(order))), problems


def _labelled(kubectl: Kubectl, kinds: str) -> list[Ref]:
    return [ref(each) for each in kubectl.all(kinds, "-l", LABEL) if not _owned(each)]


def _owned(document: Json) -> bool:
    """It goes with its owner."""
    return bool(document["metadata"].get("ownerReferences"))


def copies_of(secrets: Iterable[Json]) -> list[Ref]:
    """Those of ``secrets`` that bitfusiond copied from our token namespace: not people's own, not another's copies."""
    chosen = []
    for each in secrets:
        metadata = each["metadata"]
        origin = (metadata.get("annotations") or {}).get(names.COPIED_FROM) or f"{TOKEN_NAMESPACE}/"
        ours = (metadata.get("labels") or {}).get(names.MANAGED_BY) == names.MANAGED_BY_US
        if metadata["name"] in BY_SECRET and ours and origin.startswith(f"{TOKEN_NAMESPACE}/"):
            chosen.append(ref(each))
    return chosen


def _delete(kubectl: Kubectl, objects: Iterable[Ref], failures: list[str], say: Say) -> None:
    for what in objects:
        try:
            if kubectl.delete(what):
                say(f"{what}: deleted")
        except KubectlError as error:
            failures.append(f"{what}: {error}")


def _pods_gone(kubectl: Kubectl, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while kubectl.all("Pod", "-l", _WEBHOOK_PODS, namespace=names.NAMESPACE):
        if time.monotonic() > deadline:
            return False
        time.sleep(rollout.POLL_SECONDS)
    return True


def _wait_for_namespace(kubectl: Kubectl, timeout: float, failures: list[str]) -> None:
    deadline = time.monotonic() + timeout
    while (found := kubectl.get(NAMESPACE)) is not None and time.monotonic() < deadline:
        time.sleep(rollout.POLL_SECONDS)
    if found is not None:
        failures.append(
            f"{NAMESPACE}: still ending after {timeout:g} s; why is in `kubectl get namespace bwki -o yaml`"
        )


def _check(kubectl: Kubectl, failures: list[str], say: Say) -> None:
    """What is ending gets a moment: a deletion is done in the background."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        objects, problems = find(kubectl)
        left = [*objects, *copies_of(adoption.find(kubectl)), *kubectl.existing([takeover.CERTIFICATES])]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(rollout.POLL_SECONDS)
    failures += [f"{what} is left: look at its finalizers in `kubectl get {what.words} -o yaml`" for what in left]
    failures += [each for each in problems if each not in failures]
    if failures:
        raise Failure(report.listed("not everything is gone", failures))
    say("nothing of bitfusiond is left. Pods that run keep running; a new one that asks for gpu-* will stay Pending.")
