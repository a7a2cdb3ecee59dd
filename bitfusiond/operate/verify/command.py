"""Look at everything, and print one table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from bitfusiond.core.objects import Object
from bitfusiond.core.proof import REFUSED_BY_POLICY, Outcome, Proof
from bitfusiond.errors import Failure
from bitfusiond.operate import (
    access,
    checks,
    choices,
    claims,
    current,
    delivery,
    endpoints,
    manifests,
    overlays,
    proof,
    release,
    report,
    workloads,
)
from bitfusiond.operate.kubectl import Kubectl, Ref, ref
from bitfusiond.operate.report import NOTE, OK, WRONG, Row, Say
from bitfusiond.operate.settings import Settings
from bitfusiond.operate.tokenplace import TokenPlace
from bitfusiond.operate.upgrade04 import adoption, leftovers, takeover
from bitfusiond.operate.verify import installation, nodes, pods, pool, tokens, trust, webhooks


def run(settings: Settings, namespace: str | None, say: Say, kubectl: Kubectl | None = None) -> bool:
    """Whether all is right. ``namespace``: whose pods to ask about; None = ``default``. Raises KubectlError where the
    cluster does not answer. ``kubectl`` is for a cluster that is not the current context's.
    """
    kubectl = kubectl or Kubectl(settings.kubectl)
    rows = _rows(kubectl, settings, namespace)
    for line in report.table(rows):
        say(line)
    count = report.wrong(rows)
    say(f"{count} wrong: begin with the first" if count else "all is right")
    return not count


def _rows(kubectl: Kubectl, settings: Settings, namespace: str | None) -> list[Row]:
    version = checks.server_version(kubectl)
    platform, _ = checks.platform(settings.platform, version)
    rows = [Row("cluster", OK, f"context {checks.context(kubectl)}, API server {version[0]}.{version[1]}, {platform}")]
    documents = overlays.fitting(overlays.overlay(kubectl, platform), platform, version)
    needed = [*access.to_read(documents), access.Access("create", "Pod", namespace or proof.NAMESPACE)]
    if lacking := access.missing(kubectl, needed, "verify"):
        raise Failure(report.listed("nothing was looked at", lacking))
    values, _ = choices.choose(settings, current.read(kubectl))
    holds = not values.pool and bool(claims.holders(kubectl, version))
    values = replace(values, absent=current.absent(kubectl, values), has_claims=holds)
    wanted = manifests.build(documents, values).all
    found = kubectl.get_all(wanted)
    if ending := installation.ending(found.get(checks.NAMESPACE)):
        return [*rows, *ending]
    if absent := installation.absent(found):
        return [*rows, *absent, *_token_sources(values.tokens.read(kubectl), values)]
    if (of_helm := release.of_objects(found)) is not None:
        detail = f"{of_helm.namespace}/{of_helm.name}: where `just deploy` is the fix below, it is `helm upgrade`"
        rows.append(Row("Helm release", NOTE, detail))
    return [
        *rows,
        *_installation(kubectl, wanted, found, version),
        *map(installation.outdated, _outdated(kubectl, wanted, values, version)),
        *trust.check(values, found, partial(endpoints.of_api_server, kubectl)),
        *_tokens(kubectl, values, namespace),
        *_nodes(kubectl, found.get(current.PLUGIN)),
        *_pool(kubectl, values, version),
        *_delivery(kubectl, values, settings.timeout),
        *_pods(kubectl, namespace, found.get(manifests.CATALOGUE_MAP)),
    ]


def _outdated(
    kubectl: Kubectl, wanted: Sequence[Object], values: manifests.Values, version: checks.Version
) -> list[Ref]:
    kept = set(map(ref, wanted))
    found = [what for what in current.of_choices(kubectl) if what not in kept]
    return [*found, *([] if values.serves_claims else claims.published(kubectl, version))]


def _installation(
    kubectl: Kubectl, wanted: Sequence[Object], found: Mapping[Ref, Object], version: checks.Version
) -> list[Row]:
    if not workloads.self_managed(found.get(current.WEBHOOK)):
        wanted = [each for each in wanted if each["metadata"]["name"] != manifests.CERTIFICATES_ROLE]
    rows = installation.check(kubectl, wanted, found)
    rows += installation.version(wanted, found)
    secret, webhook = kubectl.get(takeover.CERTIFICATES), found.get(current.WEBHOOK)
    rows += webhooks.check(wanted, found, secret, time.time(), webhook)
    rows += [
        Row(str(removal.what), WRONG, f"of 0.4: {removal.why}", installation.DEPLOY)
        for removal in leftovers.find(kubectl, version).removals
    ]
    return rows


def _tokens(kubectl: Kubectl, values: manifests.Values, namespace: str | None) -> list[Row]:
    place = values.tokens.read(kubectl)
    everywhere = adoption.find(kubectl, place.namespace)
    found = [each for each in everywhere if namespace in {None, each["metadata"]["namespace"]}]
    return [*_token_sources(place, values), *tokens.copied(found, place)]


def _token_sources(place: TokenPlace, values: manifests.Values) -> list[Row]:
    return tokens.sources(place, tokens.today()) if values.takes_tokens else []


def _nodes(kubectl: Kubectl, plugin: Object | None) -> list[Row]:
    if plugin is None:
        return []  # said already
    labels = ",".join(f"{key}={value}" for key, value in plugin["spec"]["selector"]["matchLabels"].items())
    plugins = kubectl.all("Pod", "-l", labels, namespace=current.PLUGIN.namespace)
    return nodes.check(kubectl.all("Node"), plugins, nodes.ask(kubectl, plugins))


def _pool(kubectl: Kubectl, values: manifests.Values, version: checks.Version) -> list[Row]:
    if not values.pool:
        return pool.without(version)
    published = {kind: kubectl.all(kind, "-l", claims.LABEL) for kind in ("ResourceSlice", "DeviceClass")}
    device_class = next(iter(published["DeviceClass"]), None)
    return pool.check(values.pool, published["ResourceSlice"], device_class, kubectl.all("Node"))


def _delivery(kubectl: Kubectl, values: manifests.Values, timeout: float) -> list[Row]:
    """The proof of a deploy once more: a node may have come since, or have another runtime."""
    if values.delivery != delivery.IMAGE:
        return []
    found = delivery.problems(kubectl, values.image("bitfusiond"), values.image("bitfusion-client"), timeout)
    if not found:
        return [Row("clients from their image", OK, "mounted on each node")]
    return [Row("clients from their image", WRONG, delivery.described(found), "DELIVERY=auto just deploy")]


def _pods(kubectl: Kubectl, namespace: str | None, clients: Object | None) -> list[Row]:
    where = namespace or ""
    asked = namespace or proof.NAMESPACE
    answer = proof.ask(kubectl, asked, proof.client_of(clients))
    return [
        *webhooks.ignored(kubectl.get(Ref("Namespace", asked))),
        admission(answer, asked),
        *pods.pending(kubectl.all("Pod", "--field-selector", "status.phase=Pending", namespace=where)),
        *pods.quotas(kubectl.all("ResourceQuota", namespace=where)),
    ]


_NO_SERVICE = f'service "{installation.SERVICE.name}" not found'
_NEXT = {
    Outcome.NOT_ASKED: "just deploy, where a configuration above is wrong; else kubectl get"
    " mutatingwebhookconfiguration bwki-webhook-cfg -o yaml",
    Outcome.UNREACHABLE: f"{endpoints.command(installation.SERVICE)}; kubectl get networkpolicy -n bwki",
    Outcome.REFUSED: webhooks.LOGS,
    Outcome.OTHER: "mend what refuses it; then just verify",
}
# The policy saw what ours had injected, and somebody had changed it since.
_OTHER_WEBHOOKS = "kubectl get mutatingwebhookconfigurations shows who else changes pods"


def admission(answer: Proof, namespace: str) -> Row:
    """The way of a pod through the API server, tried by dry run."""
    what = f"a pod in {namespace} (dry run)"
    if answer.outcome is Outcome.ADMITTED:
        return Row(what, OK, answer.detail)
    if answer.good:
        return Row(what, NOTE, answer.detail)
    # The API server's words where there is no Service to ask.
    fix = installation.DEPLOY if _NO_SERVICE in answer.detail else _NEXT[answer.outcome]
    if answer.outcome is Outcome.REFUSED and answer.detail.startswith(REFUSED_BY_POLICY):
        fix = _OTHER_WEBHOOKS
    return Row(what, WRONG, answer.detail, fix)
