"""What the integration 0.4 leaves in a cluster, by the names that it gave, and when each may go.

Decided from what the cluster has at this moment, not from what an earlier run did: a deploy that was stopped halfway
goes on where it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from bitfusiond.core import names
from bitfusiond.core.fields import mapping
from bitfusiond.core.objects import Object, Pod
from bitfusiond.operate.checks import NO_POLICIES, Version
from bitfusiond.operate.kubectl import Kubectl, KubectlError, Ref, ref

NAMESPACE = names.NAMESPACE
PLUGIN = Ref("DaemonSet", "bitfusion-cli-device-plugin", names.KUBE_SYSTEM)
BINDING = Ref("ClusterRoleBinding", "bwki-webhook-deployment")
ACCOUNT = Ref("ServiceAccount", "bwki-webhook-deployment", NAMESPACE)
SIGNING_REQUEST = Ref("CertificateSigningRequest", "bwki-webhook-svc.bwki")
POLICY = Ref("PodSecurityPolicy", "privileged")
POLICY_ROLE = Ref("Role", "psp:privileged", names.KUBE_SYSTEM)
# Of its webhook's pods, and so of the ReplicaSets that made them.
WEBHOOK_LABEL = ("app", names.NAMESPACE)
# Of its plugin's pods; a label that others' pods have too, so the name of the container must fit as well.
PLUGIN_LABEL = ("tier", "node")
PLUGIN_CONTAINER = names.PLUGIN_DAEMONSET
# The keys of its certificate in the Secret that is the CA's now.
CERTIFICATE_KEYS = ("cert.pem", "key.pem")


@dataclass(frozen=True, slots=True)
class Removal:
    """An object of 0.4 that nothing needs any more."""

    what: Ref
    why: str


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What of 0.4 is there. ``is_none``: nothing at all, not even what goes with what made it."""

    removals: list[Removal]
    notes: list[str]
    is_none: bool


_SINGLE = {
    BINDING: "made the namespace's default account cluster-admin",
    PLUGIN: "privileged, replaced by DaemonSet kube-system/bitfusion-device-plugin",
    ACCOUNT: "no pod ran under it",
    SIGNING_REQUEST: "the webhook signs its own certificates",
}


def find(kubectl: Kubectl, version: Version) -> Leftovers:
    """What of 0.4 is in the cluster now; ``version`` is the API server's."""
    workloads = kubectl.all("ReplicaSet,Pod", "-l", "=".join(WEBHOOK_LABEL), namespace=NAMESPACE)
    workloads += kubectl.all("Pod", "-l", "=".join(PLUGIN_LABEL), namespace=PLUGIN.namespace)
    single = kubectl.existing([*_SINGLE, POLICY_ROLE])
    return among(workloads, single | (_policy(kubectl) if version < NO_POLICIES else {}))


def _policy(kubectl: Kubectl) -> dict[Ref, Object]:
    """Who may not read it misses a note."""
    try:
        policy = kubectl.get(POLICY)
    except KubectlError as error:
        if error.reason != "Forbidden":
            raise
        policy = None
    return {POLICY: policy} if policy else {}


def among(workloads: Collection[Object], single: Mapping[Ref, Object]) -> Leftovers:
    """From the ReplicaSets and pods of its webhook and plugin, and the objects it made one of.

    A ReplicaSet or pod that has a controller goes with it. The webhook's pods go first: they use the binding.
    """
    removals = [
        Removal(ref(each), "of its webhook" if each["metadata"]["namespace"] == NAMESPACE else "of its plugin")
        for each in workloads
        if not _controlled(each) and (each["metadata"]["namespace"] == NAMESPACE or _is_plugin(each))
    ]
    removals += [Removal(what, why) for what, why in _SINGLE.items() if what in single and _is_04(what, single[what])]
    return Leftovers(removals, _notes(single), is_none=not (workloads or single))


def _controlled(document: Object) -> bool:
    return any(owner.get("controller") for owner in document["metadata"].get("ownerReferences") or [])


def _is_plugin(pod: Pod) -> bool:
    """A pod that an earlier DaemonSet left: one of our name with another selector is deleted without its pods."""
    return any(each["name"] == PLUGIN_CONTAINER for each in pod["spec"].get("containers") or [])


def _is_04(what: Ref, document: Object) -> bool:
    """An operator may have bound that name to something of theirs."""
    return what != BINDING or mapping(document, "roleRef").get("name") == "cluster-admin"


def _notes(single: Mapping[Ref, Object]) -> list[str]:
    """Names that are too common to be removed as 0.4's."""
    return [
        f"{what} may be of 0.4 (K8S_PLATFORM=tkgi) and is not needed any more: kubectl delete {what.words}"
        for what in (POLICY, POLICY_ROLE)
        if what in single
    ]
