"""The webhook configurations and the certificates behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from cryptography import x509

from bitfusiond import pki
from bitfusiond.core import names
from bitfusiond.core.certificates.rotation import Lives
from bitfusiond.core.objects import Namespace, Object, Secret, Webhook, WebhookConfiguration, Workload
from bitfusiond.operate import overlays, workloads
from bitfusiond.operate.kubectl import Ref, ref
from bitfusiond.operate.report import NOTE, OK, WRONG, Row
from bitfusiond.operate.upgrade04 import takeover
from bitfusiond.operate.verify.installation import DEPLOY

LOGS = "kubectl logs -n bwki deployment/bitfusion-webhook-deployment --since=1h"
_KINDS = names.CONFIGURATION_KINDS


def check(
    wanted: Iterable[Object], found: Mapping[Ref, Object], secret: Secret | None, now: float, webhook: Workload | None
) -> list[Row]:
    """``secret`` is that of the CA, ``webhook`` the Deployment; ``now`` in seconds."""
    rows = []
    signing: x509.Certificate | None = None
    fix = DEPLOY if webhook is None else LOGS
    if webhook is not None and workloads.self_managed(webhook):
        row, signing = certificates(secret, now)
        rows.append(row)
    configurations = [each for each in wanted if each["kind"] in _KINDS]
    return rows + [configuration(each, found.get(ref(each)), signing, fix) for each in configurations]


def certificates(secret: Secret | None, now: float) -> tuple[Row, x509.Certificate | None]:
    """The CA that signs: there, readable, alive; and the certificate for the comparison with every caBundle."""
    what = str(takeover.CERTIFICATES)
    if secret is None:
        return Row(what, WRONG, "it is not there; the webhook makes it when it starts", LOGS), None
    try:
        vault = pki.decode(secret.get("data") or {})
    except pki.BrokenError as error:
        fix = f"kubectl delete {takeover.CERTIFICATES.words}"
        return Row(what, WRONG, f"{error}; the webhook makes it anew when it is deleted", fix), None
    certificate = vault.signing.certificate
    validity = pki.span(certificate)
    until = datetime.fromtimestamp(validity.not_after, UTC).strftime("%Y-%m-%d")
    if fault := validity.fault(now):
        return Row(what, WRONG, f"the CA {fault} (it ends {until})", LOGS), certificate
    # Renewed at two thirds of its life: long after that nobody renews.
    late = validity.not_after - now < Lives().ca / 6
    return Row(
        what, WRONG if late else OK, f"CA until {until}{', overdue for renewal' if late else ''}", LOGS if late else ""
    ), certificate


def configuration(
    wanted: WebhookConfiguration, current: WebhookConfiguration | None, signing: x509.Certificate | None, bundles: str
) -> Row:
    """Every webhook of the manifests is there, calls our Service, and trusts the CA that signs.

    ``bundles`` is the next command where nothing but a caBundle is wrong.
    """
    what = ref(wanted)
    if current is None:
        return Row(str(what), WRONG, "it is not there: the API server does not ask the webhook", DEPLOY)
    found = {each["name"]: each for each in current.get("webhooks") or []}
    problems = [problem for each in wanted["webhooks"] for problem in _webhook(each, found.get(each["name"]), signing)]
    if not problems:
        return Row(str(what), OK, f"caBundle set, {_failure_policies(current['webhooks'])}")
    only_bundles = all("caBundle" in problem for problem in problems)
    return Row(str(what), WRONG, "; ".join(problems), bundles if only_bundles else DEPLOY)


def _webhook(wanted: Webhook, current: Webhook | None, signing: x509.Certificate | None) -> list[str]:
    name = wanted["name"]
    if current is None:
        return [f"{name}: it is not there"]
    client = current.get("clientConfig") or {}
    problems = []
    if (client.get("service") or {}) != wanted["clientConfig"]["service"]:
        problems.append(f"{name}: it calls another address than Service bwki/bwki-webhook-svc")
    if current.get("failurePolicy") != wanted["failurePolicy"]:
        problems.append(f"{name}: failurePolicy is {current.get('failurePolicy')} instead of {wanted['failurePolicy']}")
    if current.get("matchConditions") != wanted.get("matchConditions"):
        problems.append(f"{name}: matchConditions are not those of the manifests")
    bundle = pki.certificates_of(takeover.bundles([{"webhooks": [current]}]))
    if not bundle:
        problems.append(f"{name}: its caBundle is empty, so the API server trusts no webhook")
    elif signing is not None and signing not in bundle:
        problems.append(f"{name}: its caBundle does not hold the CA of Secret {takeover.CERTIFICATES.name}")
    return problems


def _failure_policies(webhooks: Sequence[Webhook]) -> str:
    return ", ".join(f"{each['name']} {each.get('failurePolicy')}" for each in webhooks)


def ignored(namespace: Namespace | None) -> list[Row]:
    """A namespace in which the API server is told not to ask."""
    if namespace is None or not overlays.ignored(namespace):
        return []
    name = namespace["metadata"]["name"]
    detail = "it has the label bitfusion.io/admission=ignore: the API server does not ask the webhook about its pods"
    return [Row(f"Namespace {name}", NOTE, detail, f"kubectl label namespace {name} bitfusion.io/admission-")]
