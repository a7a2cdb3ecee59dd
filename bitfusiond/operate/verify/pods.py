"""What stands in the way of people's pods: those that slipped past the webhook, and quotas."""

from __future__ import annotations

from collections.abc import Iterable

from bitfusiond.core import names, quantity
from bitfusiond.core.objects import Pod, ResourceQuota
from bitfusiond.operate.kubectl import ref
from bitfusiond.operate.report import OK, WRONG, Row

_SHARES = f"requests.{names.GPU}"
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
    for quota in found:
        hard = quota["spec"].get("hard") or {}
        words = ref(quota).words
        useless = [key for key in hard if key == _USELESS or key.removeprefix("requests.") in names.REQUEST_RESOURCES]
        if useless:
            detail = f"{', '.join(useless)} counts nothing: {_SHARES} is the key (100 = one GPU)"
            rows.append(Row(str(ref(quota)), WRONG, detail, f"kubectl edit {words}"))
        if _SHARES not in hard:
            continue
        used = ((quota.get("status") or {}).get("used") or {}).get(_SHARES, "0")
        detail = f"{used} of {hard[_SHARES]} shares used"
        if _number(used) >= _number(hard[_SHARES]):
            why = f"{detail}: no further pod of {quota['metadata']['namespace']} gets a GPU"
            rows.append(Row(str(ref(quota)), WRONG, why, f"kubectl edit {words}, or wait until pods end"))
        else:
            rows.append(Row(str(ref(quota)), OK, detail))
    return rows


def _number(text: object) -> float:
    try:
        return float(quantity.parse(str(text)))
    except ValueError:
        return 0.0
