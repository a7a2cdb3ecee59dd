"""What stands in the way of people's pods: those that slipped past the webhook, and quotas."""

from __future__ import annotations

from collections.abc import Iterable

from bitfusiond.core import names
from bitfusiond.core.objects import Pod, ResourceQuota
from bitfusiond.core.usage.quotas import KEY, share_quotas
from bitfusiond.operate.kubectl import ref
from bitfusiond.operate.report import OK, WRONG, Row

_USELESS = f"limits.{names.GPU}"


def pending(pods: Iterable[Pod]) -> list[Row]:
    """Pods that still ask for gpu-*: created while the webhook was not asked. No node will ever have that resource."""
    rows = []
    for pod in pods:
        asked = sorted({key for key in _resources(pod) if key in names.REQUEST_RESOURCES})
        if asked:
            detail = (
                f"Pending for ever, as it asks for {', '.join(asked)}: the webhook was not asked when it was created"
            )
            fix = f"kubectl delete {ref(pod).words}, and create it again (a controller does so itself)"
            rows.append(Row(str(ref(pod)), WRONG, detail, fix))
    return rows


def _resources(pod: Pod) -> Iterable[str]:
    for container in [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]:
        resources = container.get("resources") or {}
        yield from [*(resources.get("limits") or {}), *(resources.get("requests") or {})]


def quotas(found: Iterable[ResourceQuota]) -> list[Row]:
    """Quotas on GPU shares that are used up or cannot work, and a note for each of the others."""
    rows = []
    for document in found:
        what = ref(document)
        hard = document["spec"].get("hard") or {}
        useless = [key for key in hard if key == _USELESS or key.removeprefix("requests.") in names.REQUEST_RESOURCES]
        if useless:
            detail = f"{', '.join(useless)} counts nothing: {KEY} is the key (100 = one GPU)"
            rows.append(Row(str(what), WRONG, detail, f"kubectl edit {what.words}"))
        for quota in share_quotas([document]):
            detail = f"{quota.used} of {quota.hard} shares used"
            if quota.left:
                rows.append(Row(str(what), OK, detail))
            else:
                why = f"{detail}: no further pod of {quota.namespace} gets a GPU"
                rows.append(Row(str(what), WRONG, why, f"kubectl edit {what.words}, or wait until pods end"))
    return rows
