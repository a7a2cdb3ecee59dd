"""``just deploy``: checks, apply, wait, proof; from nothing, over itself, or over a running 0.4.

The order keeps pods from being refused in between. What makes the API server ask comes last. Over a 0.4, its pods go on
answering until ours are ready: its Deployment is deleted without them, their CA goes into our Secret first, the Service
changes over in one step, and only then do they go. The old device plugin stays until the new one is everywhere; both
advertise the same devices under the same ids, so that the shares of running pods stay theirs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bitfusiond.core import names
from bitfusiond.core.objects import Object
from bitfusiond.errors import ConfigurationError, Failure
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
    rollout,
    waiting,
)
from bitfusiond.operate.kubectl import Kubectl, Ref, ref
from bitfusiond.operate.report import Say
from bitfusiond.operate.settings import Settings
from bitfusiond.operate.tokenplace import TokenPlace
from bitfusiond.operate.upgrade04 import adoption, leftovers, takeover

_UNCHANGED = "nothing was changed"
_DELETION_SECONDS = 60.0
_NO_CERTIFICATE = ". Has the API server its client certificate? `CLIENT_CA=none just deploy` asks for none"


def run(settings: Settings, say: Say) -> None:
    """Deploy; ``say`` prints a line. Raises Failure or ConfigurationError with what to do next."""
    kubectl = Kubectl(settings.kubectl)
    plan = _checked(kubectl, settings, say)
    documents, values = plan.documents, plan.values
    if settings.delivery is not None and values.delivery != delivery.INIT:
        kubectl.apply([each for each in manifests.build(documents, values).base if each["kind"] == "Namespace"])
        values = delivered(kubectl, values, settings.timeout, say)
    stages = manifests.build(documents, values)
    _keep_trust(kubectl, stages, say)
    _apply(kubectl, stages.base, say)
    rollout.wait(kubectl, current.WEBHOOK, settings.timeout, say)
    _apply(kubectl, stages.plugin, say)
    _apply(kubectl, stages.services, say)
    # Another look, as what was 0.4's own before may be an orphan now.
    left = plan.of_04 if plan.of_04.is_none else leftovers.find(kubectl, plan.version)
    owners = {each.what.name for each in left.removals if each.what.kind in {"ReplicaSet", "Pod"}}
    if owners:
        _endpoints_moved(kubectl, owners, settings.timeout, say)
    _apply(kubectl, stages.configurations, say)
    rollout.wait(kubectl, current.PLUGIN, settings.timeout, say)
    _prove(kubectl, stages, say)
    _remove(kubectl, left, say)
    for what in [*plan.outdated, *([] if values.serves_claims else claims.published(kubectl, plan.version))]:
        if kubectl.delete(what):
            say(f"{what}: removed, as nothing needs it any more")
    _adopt(kubectl, values.tokens.read(kubectl), settings.adopt, say)
    say(
        "deployed. Next: `just verify`; then a pod: kubectl create namespace tensorflow-benchmark;"
        " kubectl create -f manifests/examples/pod.yaml"
    )


def for_empty_cluster(settings: Settings, say: Say) -> list[Object]:
    """What a deploy with these settings would apply to an empty cluster, in its order. No cluster is asked.

    ``say`` tells from what they are made: nothing of a cluster that runs is kept.
    """
    values, notes = choices.choose(settings, current.Running())
    say(f"manifests: no cluster is asked, only what is given counts. K8S_PLATFORM: {settings.platform}")
    if settings.api_server_only:
        say("manifests: API_SERVER_ONLY counts for deploy alone: a cluster knows the addresses of its API servers")
    for line in notes:
        say(f"manifests: {line}")
    if values.delivery == delivery.AUTO:
        say("manifests: DELIVERY: init, as no node is there to be tried")
        values = replace(values, delivery=delivery.INIT)
    if values.named:
        say(f"manifests: a RoleBinding in each of {', '.join(sorted(values.named))}: make these namespaces first")
    return manifests.build(overlays.overlay(Kubectl(settings.kubectl), settings.platform), values).all


def delivered(kubectl: Kubectl, values: manifests.Values, timeout: float, say: Say) -> manifests.Values:
    """``values`` with the delivery that every node can do. Raises Failure where one cannot do what was asked for."""
    found = delivery.problems(kubectl, values.image("bitfusiond"), values.image("bitfusion-client"), timeout)
    if not found:
        say("DELIVERY: image (tried on each node)")
        return replace(values, delivery=delivery.IMAGE)
    why = f"the client cannot be mounted from its image everywhere: {delivery.described(found)}"
    if values.delivery == delivery.IMAGE:
        raise Failure(f"DELIVERY: {why}. DELIVERY=auto takes what every node can do")
    say(f"DELIVERY: init, as {why}")
    return replace(values, delivery=delivery.INIT)


@dataclass(frozen=True, slots=True)
class _Plan:
    """The manifests and the values for them; the API server's version; what is left of 0.4, and of earlier choices."""

    documents: list[Object]
    values: manifests.Values
    version: checks.Version
    of_04: leftovers.Leftovers
    outdated: list[Ref]


def _checked(kubectl: Kubectl, settings: Settings, say: Say) -> _Plan:
    """What is to be done. Raises Failure with every problem, before anything is changed."""
    version = checks.cluster(kubectl, say)
    documents = _documents(kubectl, settings, version, say)
    problems = access.missing(
        kubectl, [*access.to_apply(documents), access.Access("create", "Pod", proof.NAMESPACE)], "deploy"
    )
    if problems:
        raise Failure(report.listed(_UNCHANGED, problems))
    of_04 = leftovers.find(kubectl, version)
    problems = access.missing(kubectl, access.to_delete(each.what for each in of_04.removals), "deploy")
    found = kubectl.existing([*current.TO_READ, *release.TO_READ, checks.NAMESPACE])
    deployed = current.of_objects(found)
    problems += [*checks.namespace(found.get(checks.NAMESPACE)), *choices.taken_away(settings, deployed)]
    if (of_helm := release.of_objects(found)) is not None:
        problems.append(release.refusal_of_deploy(of_helm))
    try:
        values, notes = choices.choose(settings, deployed)
        problems += checks.tokens(values.tokens.read(kubectl)) if values.takes_tokens else []
        problems += [*checks.pool(values.pool, version), *checks.delivery(values.delivery, version)]
        addresses = endpoints.of_api_server(kubectl) if values.api_server_only else ()
    except ConfigurationError as error:
        problems.append(str(error))
    if problems:
        raise Failure(report.listed(_UNCHANGED, problems))
    for line in notes:
        say(line)
    absent = current.absent(kubectl, values)
    holders = [] if values.pool else claims.holders(kubectl, version)
    _tell_what_waits(absent, holders, say)
    values = replace(values, api_servers=addresses, absent=absent, has_claims=bool(holders))
    if values.delivery == delivery.AUTO and version < checks.IMAGE_VOLUMES:
        say("DELIVERY: init, as no runtime of this Kubernetes is asked to mount images")
        values = replace(values, delivery=delivery.INIT)
    stages = manifests.build(documents, values)
    wanted = set(map(ref, stages.all))
    outdated = [what for what in current.of_choices(kubectl) if what not in wanted]
    needed = [*access.to_apply(stages.all), *access.to_delete(outdated)]
    if not values.serves_claims:
        needed += access.to_delete(claims.published(kubectl, version))
    if values.delivery != delivery.INIT:
        needed += [access.Access(verb, "Pod", names.NAMESPACE) for verb in ("create", "delete")]
    if problems := access.missing(kubectl, needed, "deploy"):  # again, now that the choices are known
        raise Failure(report.listed(_UNCHANGED, problems))
    return _Plan(documents, values, version, of_04, outdated)


def _documents(kubectl: Kubectl, settings: Settings, version: checks.Version, say: Say) -> list[Object]:
    """The manifests for the platform that was chosen, or that fits ``version``."""
    platform, note = checks.platform(settings.platform, version)
    say(f"platform: {platform}" + (f" ({note})" if note else ""))
    return overlays.fitting(overlays.overlay(kubectl, platform), platform, version)


def _tell_what_waits(absent: Iterable[str], holders: Sequence[str], say: Say) -> None:
    """``absent`` are namespaces that were named, ``holders`` pods with claims on a pool that goes."""
    for name in sorted(absent):
        say(f"Namespace {name}: {manifests.ABSENT}; deploy again when it is, or its pods are refused")
    if holders:
        say(f"{claims.described(holders)}: their nodes go on serving them; deploy again when these pods are gone")


def _keep_trust(kubectl: Kubectl, stages: manifests.Stages, say: Say) -> None:
    """Before our webhook starts: the CA of somebody else's that the API server asks today goes into our Secret."""
    configurations = [ref(each) for each in stages.configurations if each["kind"] in names.CONFIGURATION_KINDS]
    found = kubectl.existing([takeover.CERTIFICATES, *configurations])
    secret = found.pop(takeover.CERTIFICATES, None)
    secret = takeover.certificate_secret(secret, takeover.bundles(found.values()), time.time())
    if secret is not None:
        kubectl.apply([secret])
        say(f"{takeover.CERTIFICATES}: made, with the CA that the webhook of today is trusted by")


def _gone(kubectl: Kubectl, what: Ref) -> None:
    for _ in waiting.rounds(_DELETION_SECONDS, 0.5):
        if kubectl.get(what) is None:
            return
    raise Failure(
        f"{what} is still there {_DELETION_SECONDS:g} s after it was deleted: look at the finalizers in"
        f" `kubectl get {what.words} -o yaml` and whether kube-controller-manager runs, then deploy again"
    )


def _apply(kubectl: Kubectl, documents: Sequence[Object], say: Say) -> None:
    """Apply, and say of each object whether it was made or changed; those that stay as they are in one line."""
    before = kubectl.get_all(documents)
    for wanted in documents:
        what = ref(wanted)
        if (current := before.get(what)) is None:
            continue
        if takeover.selector_changed(current, wanted):
            say(f"{what}: deleted without its pods, as its selector is another; made anew")
            kubectl.delete(what, "--cascade=orphan")
            _gone(kubectl, what)
            del before[what]
        elif operations := takeover.operations(current, wanted):
            kubectl.patch(what, operations)
            say(f"{what}: what an earlier installation left in it is gone")
    after = kubectl.apply(documents)
    unchanged = 0
    for what, document in after.items():
        current = before.get(what)
        if current is None:
            say(f"{what}: made")
        elif current["metadata"]["resourceVersion"] != document["metadata"]["resourceVersion"]:
            say(f"{what}: changed")
        else:
            unchanged += 1
    if unchanged:
        say(f"{unchanged} object{'s' if unchanged > 1 else ''} unchanged")


def _endpoints_moved(kubectl: Kubectl, old_owners: set[str], timeout: float, say: Say) -> None:
    """Wait until the Service leads to ours alone, so that no call is on its way to a pod that is about to go."""
    service = Ref("Service", names.WEBHOOK_SERVICE, names.NAMESPACE)
    for _ in waiting.rounds(timeout, rollout.POLL_SECONDS):
        pods = {each.pod for each in endpoints.find(kubectl, service) if each.ready}
        if pods and not any(name.startswith(owner) for name in pods for owner in old_owners):
            say(f"{service}: leads to the new webhook")
            return
    raise Failure(
        f"{service}: after {timeout:g} s it does not lead to the new webhook alone: look at"
        f" `{endpoints.command(service)} -o yaml`, then deploy again"
    )


def _prove(kubectl: Kubectl, stages: manifests.Stages, say: Say) -> None:
    configmap = next((each for each in stages.base if ref(each) == manifests.CATALOGUE_MAP), None)
    answer = proof.wait(kubectl, proof.NAMESPACE, proof.client_of(configmap))
    if not answer.good:
        hint = _NO_CERTIFICATE if any(ref(each) == manifests.CLIENT_CA_MAP for each in stages.base) else ""
        raise Failure(f"everything is rolled out, but a pod by dry run: {answer.detail}; `just verify` says more{hint}")
    say(f"a pod by dry run: {answer.detail}")


def _remove(kubectl: Kubectl, left: leftovers.Leftovers, say: Say) -> None:
    for removal in left.removals:
        if kubectl.delete(removal.what):
            say(f"{removal.what}: removed ({removal.why})")
    secret = kubectl.get(takeover.CERTIFICATES) or {}
    keys = [key for key in leftovers.CERTIFICATE_KEYS if key in (secret.get("data") or {})]
    if keys:
        kubectl.patch(takeover.CERTIFICATES, [{"op": "remove", "path": f"/data/{key}"} for key in keys])
        say(f"{takeover.CERTIFICATES}: the certificate of 0.4 removed")
    for note in left.notes:
        say(note)


def _adopt(kubectl: Kubectl, place: TokenPlace, everything: bool, say: Say) -> None:
    """Make the token copies that an earlier installation made follow their source."""
    unknown = adoption.sort(adoption.find(kubectl, place.namespace), place)
    chosen = [*unknown.same, *(unknown.other if everything else [])]
    kubectl.apply([adoption.adopted(secret, place) for secret in chosen])
    for secret in chosen:
        say(f"{ref(secret)}: adopted, it follows its source from now on")
    for what in [] if everything else map(ref, unknown.other):
        say(
            f"{what}: not managed, and its content is not the source's: pods of {what.namespace} go on using it."
            f" A stale copy? `kubectl delete {what.words}`, or ADOPT=yes just deploy for all such"
        )
    for what in unknown.fixed:
        say(f"{what}: immutable or of another type, so it can never follow its source: kubectl delete {what.words}")
