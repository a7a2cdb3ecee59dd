"""What the account behind kubectl must be permitted, asked before anything is done: half a job is worse than none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bitfusiond.core import names
from bitfusiond.core.objects import Object
from bitfusiond.operate.kubectl import Kubectl, Ref, ref

_KINDS_OF = {
    "admissionregistration.k8s.io": (
        *names.CONFIGURATION_KINDS,
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ),
    "apps": ("Deployment", "DaemonSet", "ReplicaSet"),
    "autoscaling": ("HorizontalPodAutoscaler",),
    "certificates.k8s.io": ("CertificateSigningRequest",),
    "discovery.k8s.io": ("EndpointSlice",),
    "monitoring.coreos.com": ("PodMonitor", "PrometheusRule", "ServiceMonitor"),
    "networking.k8s.io": ("NetworkPolicy",),
    "policy": ("PodDisruptionBudget", "PodSecurityPolicy"),
    "resource.k8s.io": ("DeviceClass", "ResourceClaim", "ResourceClaimTemplate", "ResourceSlice"),
    "rbac.authorization.k8s.io": ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
    "scheduling.k8s.io": ("PriorityClass",),
}
_OF_POOLS = _KINDS_OF["resource.k8s.io"]
_GROUP = {kind: group for group, kinds in _KINDS_OF.items() for kind in kinds}


class Access(NamedTuple):
    """One verb on a kind, whatever the name; ``namespace`` empty = in all of them, or a kind that is in none."""

    verb: str
    kind: str
    namespace: str = ""

    @property
    def resource(self) -> str:
        """The kind as the API's paths have it."""
        lower = self.kind.lower()
        if lower.endswith("y"):
            return f"{lower[:-1]}ies"
        return f"{lower}es" if lower.endswith("s") else f"{lower}s"

    @property
    def group(self) -> str:
        """The API group of the kind; empty for the core's."""
        return _GROUP.get(self.kind, "")


EVERYTHING = Access("*", "*")

# What every look at an installation reads, also at one of 0.4.
READING = (
    Access("list", "Node"),
    *(Access(verb, "Secret") for verb in ("get", "list")),
    *(Access("list", "Pod", namespace) for namespace in (names.NAMESPACE, names.KUBE_SYSTEM)),
    Access("list", "ReplicaSet", names.NAMESPACE),
    *(Access("list", "EndpointSlice", namespace) for namespace in (names.NAMESPACE, "default")),
    Access("get", "CertificateSigningRequest"),
)


def to_read(documents: Iterable[Object]) -> list[Access]:
    """For ``verify``: every object of the manifests, pods and quotas of all, and the pod that is tried."""
    return [
        *READING,
        *(Access("get", what.kind, what.namespace) for what in map(ref, documents)),
        *(Access("list", kind) for kind in ("Pod", "ResourceQuota", "Role", "RoleBinding", *_OF_POOLS)),
    ]


def to_apply(documents: Iterable[Object]) -> list[Access]:
    """For ``deploy``: a server-side apply is a patch, and creates what is not there."""
    needed = [*READING, Access("patch", "Secret")]
    needed += [Access(verb, "Secret", names.NAMESPACE) for verb in ("get", "create")]
    for what in map(ref, documents):
        needed += [Access(verb, what.kind, what.namespace) for verb in ("get", "create", "patch")]
        if what.kind in {"Deployment", "DaemonSet"}:
            needed.append(Access("delete", what.kind, what.namespace))  # one with another selector is made anew
    return needed


def to_delete(objects: Iterable[Ref]) -> list[Access]:
    return [Access("delete", what.kind, what.namespace) for what in objects]


def missing(kubectl: Kubectl, needed: Iterable[Access], job: str) -> list[str]:
    """What this account may not do and must, in one problem, or none; ``job`` is what it wants to do (``deploy``).

    An administrator is known by one question; all others are asked one by one, in one call of kubectl.
    """
    needed = list(dict.fromkeys(needed))
    if not needed or not denied(kubectl.create([_review(EVERYTHING)])):
        return []
    lacking = denied(kubectl.create([_review(each) for each in needed]))
    if not lacking:
        return []
    return [f"your account may not: {'; '.join(lacking)}. {job} as an administrator of the cluster (cluster-admin)"]


def _review(access: Access) -> Object:
    """The question to the API server whether this account has ``access``."""
    if access == EVERYTHING:
        asked = dict.fromkeys(("namespace", "group", "resource", "verb"), "*") | {"namespace": ""}
    else:
        asked = {
            "namespace": access.namespace,
            "group": access.group,
            "resource": access.resource,
            "verb": access.verb,
        }
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }


def denied(reviews: Sequence[Object]) -> list[str]:
    """Of the API server's answers those that are no, the verbs of a resource together."""
    verbs: dict[str, list[str]] = {}
    for review in reviews:
        asked = review["spec"]["resourceAttributes"]
        if not review.get("status", {}).get("allowed"):
            group = f".{asked['group']}" if asked.get("group") else ""
            where = f" in {asked['namespace']}" if asked.get("namespace") else ""
            verbs.setdefault(f"{asked['resource']}{group}{where}", []).append(asked["verb"])
    return [f"{', '.join(each)} {what}" for what, each in verbs.items()]
