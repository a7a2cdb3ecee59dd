"""What a pool that is counted once leaves in a cluster besides the manifests: claims that pods hold, what is published.

The webhook publishes, so none of it is in the manifests; and none of these kinds is there before Kubernetes 1.34.
"""

from __future__ import annotations

from collections.abc import Sequence

from bitfusiond.core import names
from bitfusiond.core.fields import mapping, objects
from bitfusiond.core.objects import Object
from bitfusiond.operate.kubectl import Kubectl, Ref, ref

KINDS = ("ResourceSlice", "ResourceClaimTemplate", "DeviceClass")
LABEL = f"{names.MANAGED_BY}={names.MANAGED_BY_US}"
_MOST_TOLD = 5


def holders(kubectl: Kubectl) -> list[str]:
    """NAMESPACE/NAME of the pods that hold GPUs of the pool. Their end needs the plugin on their node."""
    found = set()
    for claim in kubectl.all("ResourceClaim"):
        if _is_of_pool(claim):
            users = objects(mapping(claim, "status").get("reservedFor"))
            found |= {f"{claim['metadata']['namespace']}/{each.get('name')}" for each in users}
    return sorted(found)


def _is_of_pool(claim: Object) -> bool:
    results = objects(mapping(claim, "status", "allocation", "devices").get("results"))
    return any(each.get("driver") == names.DRIVER for each in results)


def told(pods: Sequence[str]) -> str:
    """``2 pods hold GPUs of the pool (team/a, team/b)``."""
    more = ", ..." if len(pods) > _MOST_TOLD else ""
    verb = "pod holds" if len(pods) == 1 else "pods hold"
    return f"{len(pods)} {verb} GPUs of the pool ({', '.join(pods[:_MOST_TOLD])}{more})"


def published(kubectl: Kubectl) -> list[Ref]:
    """What the webhook made: slices, templates of claims, the class."""
    return [ref(each) for kind in KINDS for each in kubectl.all(kind, "-l", LABEL)]
