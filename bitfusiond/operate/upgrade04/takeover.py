"""How objects of the same names that somebody else made, 0.4 above all, become ours without a refused pod.

Three things stand in the way of an apply: selectors of workloads never change, a server-side apply adds to a Service's
selector instead of replacing it, and keeps webhooks in a configuration for the sake of their ``caBundle``.
"""

from __future__ import annotations

from collections.abc import Iterable

from bitfusiond import pki
from bitfusiond.core import names
from bitfusiond.core.admission.patch import Operation
from bitfusiond.core.certificates.rotation import Lives, StartOver
from bitfusiond.core.fields import mapping
from bitfusiond.core.objects import Object, Secret, Service, WebhookConfiguration, Workload
from bitfusiond.core.text import from_base64
from bitfusiond.operate.kubectl import Ref

CERTIFICATES = Ref("Secret", names.WEBHOOK_CERTIFICATES, names.NAMESPACE)


def selector_changed(current: Workload, wanted: Object) -> bool:
    """Whether a workload has another selector than it should have."""
    if wanted["kind"] not in {"Deployment", "DaemonSet"}:
        return False
    return bool(current["spec"]["selector"] != wanted["spec"]["selector"])


def operations(current: Object, wanted: Object) -> list[Operation]:
    """The JSON Patch that takes away what an apply of ``wanted`` would leave in the way."""
    match wanted["kind"]:
        case "Service":
            return _service(current, wanted)
        case names.MUTATING_KIND | names.VALIDATING_KIND:
            return _configuration(current, wanted)
    return []


def _service(current: Service, wanted: Service) -> list[Operation]:
    """In one step with the ports: a Service never has one of the old and the other of the new."""
    selector, ports = current["spec"].get("selector") or {}, current["spec"].get("ports") or []
    if selector == wanted["spec"]["selector"]:
        return []
    patch = [{"op": "add", "path": "/spec/selector", "value": wanted["spec"]["selector"]}]
    if [each["port"] for each in ports] != [each["port"] for each in wanted["spec"]["ports"]]:
        patch.append({"op": "replace", "path": "/spec/ports", "value": wanted["spec"]["ports"]})
    return patch


def _configuration(current: WebhookConfiguration, wanted: WebhookConfiguration) -> list[Operation]:
    """The last first, so that each index holds when its turn comes; the test makes a change in between a failure."""
    kept = {each["name"] for each in wanted["webhooks"]}
    patch: list[Operation] = []
    for index, each in reversed(list(enumerate(current.get("webhooks") or []))):
        if each["name"] not in kept:
            patch.append({"op": "test", "path": f"/webhooks/{index}/name", "value": each["name"]})
            patch.append({"op": "remove", "path": f"/webhooks/{index}"})
    return patch


def bundles(configurations: Iterable[WebhookConfiguration]) -> bytes:
    """The CAs by which the API server trusts the webhooks of these configurations, PEM."""
    return b"\n".join(
        from_base64(mapping(webhook, "clientConfig").get("caBundle"))
        for configuration in configurations
        for webhook in configuration.get("webhooks") or []
    )


def certificate_secret(secret: Secret | None, pem: bytes, now: float) -> Secret | None:
    """The Secret of our CA, made before its first replica starts, where somebody else's webhook is being asked.

    Our replicas write their Secret's CAs into the configurations of that name as soon as they start, and the pods that
    answer until the Service changes over would no longer be trusted. With their CA (``pem``) in the Secret from the
    start both are; it is dropped when the last serving certificate of that time is over, about a week later.
    None: the CA is ours already, or nobody else's is in use.
    """
    try:
        pki.decode(mapping(secret, "data"))
    except pki.BrokenError:
        foreign = [each for each in pki.certificates_of(pem) if not pki.is_ours(each)]
    else:
        return None
    if not foreign:
        return None
    vault, _ = pki.perform(StartOver("taken over"), None, foreign, now, Lives())
    metadata = {"name": CERTIFICATES.name, "namespace": CERTIFICATES.namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": vault.data()}
