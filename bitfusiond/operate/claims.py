"""What a pool that is counted once leaves in a cluster besides the manifests: claims that pods hold, what is published.

The webhook publishes, so none of it is in the manifests; and it publishes nothing where no pool can be counted once.
"""

from __future__ import annotations

from collections.abc import Sequence

from bitfusiond.core import names
from bitfusiond.core.fields import mapping, objects
from bitfusiond.core.objects import Object
from bitfusiond.core.pool import claims, slices
from bitfusiond.core.usage import holdings
from bitfusiond.operate.checks import ONE_POOL, Version
from bitfusiond.operate.kubectl import Kubectl, Ref, ref

KINDS = ("ResourceSlice", "ResourceClaimTemplate", "DeviceClass")
LABEL = f"{names.MANAGED_BY}={names.MANAGED_BY_US}"
_MOST_TOLD = 5


def holders(kubectl: Kubectl, version: Version) -> list[str]:
    """NAMESPACE/NAME of the pods that hold GPUs of the pool, or wait for them; ``version`` is the API server's.

    The end of the former needs the plugin on their node, the beginning of the latter the pool.
    """
    found = set()
    for claim in kubectl.all("ResourceClaim") if version >= ONE_POOL else []:
        if _is_of_pool(claim):
            owners = objects(mapping(claim, "metadata").get("ownerReferences"))
            waiting = [each for each in owners if each.get("kind") == "Pod"]
            namespace = claim["metadata"]["namespace"]
            found |= {"/".join(each) for each in holdings.consumers(claim)} or {
                f"{namespace}/{each.get('name')}" for each in waiting
            }
    return sorted(found)


def _is_of_pool(claim: Object) -> bool:
    results = objects(mapping(claim, "status", "allocation", "devices").get("results"))
    asked = [mapping(each, "exactly") for each in objects(mapping(claim, "spec", "devices").get("requests"))]
    asked += [
        choice
        for each in objects(mapping(claim, "spec", "devices").get("requests"))
        for choice in objects(each.get("firstAvailable"))
    ]
    return any(each.get("driver") == names.DRIVER for each in results) or any(
        each.get("deviceClassName") == names.DRIVER for each in asked
    )


def described(pods: Sequence[str]) -> str:
    """``2 pods hold GPUs of the pool or wait for them (team/a, team/b)``."""
    more = ", ..." if len(pods) > _MOST_TOLD else ""
    verbs = "pod holds GPUs of the pool or waits" if len(pods) == 1 else "pods hold GPUs of the pool or wait"
    return f"{len(pods)} {verbs} for them ({', '.join(pods[:_MOST_TOLD])}{more})"


def published(kubectl: Kubectl, version: Version) -> list[Ref]:
    """What the webhook made: slices, templates of claims, the class. ``version`` is the API server's.

    Anybody can give anything our label; that our field manager gave it, and the name, say that it is ours.
    """
    found = kubectl.all_with_managers(",".join(KINDS), "-l", LABEL) if version >= ONE_POOL else []
    return [ref(each) for each in found if _is_named_so(each) and _is_written_by_us(each)]


def _is_named_so(document: Object) -> bool:
    name = document["metadata"]["name"]
    match document["kind"]:
        case "ResourceSlice":
            return bool(mapping(document, "spec").get("driver") == names.DRIVER)
        case "ResourceClaimTemplate":
            return claims.is_ours(name)
        case _:
            return bool(name == names.DRIVER)


def _is_written_by_us(document: Object) -> bool:
    managers = objects(document["metadata"].get("managedFields"))
    return any(each.get("manager") == slices.FIELD_MANAGER for each in managers)
