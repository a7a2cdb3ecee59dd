"""``just uninstall``: everything of bitfusiond goes, also what is left of half an installation or of 0.4.

The webhook configurations go first, so that nobody's pod is refused for a webhook that is going; while one of them is
there, nothing else goes. The permissions go before the Secrets: a webhook that is still ending would make its own anew.
Pods that run keep running.

What is ours is known by its name, if the manifests of this version or 0.4 have it, or by our label where our own field
manager gave it, as to an object of a version before. A label alone says nothing: anybody can give it to anything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from bitfusiond.core import names
from bitfusiond.core.fields import mapping
from bitfusiond.core.objects import Object
from bitfusiond.errors import Failure
from bitfusiond.operate import (
    access,
    checks,
    choices,
    claims,
    current,
    manifests,
    overlays,
    release,
    report,
    rollout,
    waiting,
)
from bitfusiond.operate.checks import NAMESPACE
from bitfusiond.operate.kubectl import FIELD_MANAGER, Kubectl, KubectlError, Ref, ref
from bitfusiond.operate.manifests import LABEL
from bitfusiond.operate.report import Say
from bitfusiond.operate.settings import Settings
from bitfusiond.operate.tokenplace import MARK_KEY, TokenPlace
from bitfusiond.operate.upgrade04 import adoption, leftovers, takeover

CONFIGURATIONS = names.CONFIGURATION_KINDS
# In the order in which they go.
KINDS = (
    *CONFIGURATIONS,
    "ClusterRoleBinding",
    "RoleBinding",
    "Deployment",
    "DaemonSet",
    "ReplicaSet",
    "Service",
    "ConfigMap",
    "PodDisruptionBudget",
    "HorizontalPodAutoscaler",
    "NetworkPolicy",
    "ServiceAccount",
    "Role",
    "ClusterRole",
    "PriorityClass",
)
# Kinds that not every cluster has: of the overlay tkgi, of manifests/guard, and of manifests/monitoring where somebody
# applied it.
OPTIONAL = (
    "PodSecurityPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingAdmissionPolicy",
    "PodMonitor",
    "ServiceMonitor",
    "PrometheusRule",
)
# The webhook makes them.
_OWN_SECRETS = (takeover.CERTIFICATES, MARK_KEY)
Failures = dict[Ref | None, list[str]]
"""What went wrong, by the object; under None what could not be looked at."""


@dataclass(frozen=True, slots=True)
class Installed:
    """``objects`` are to be deleted, in order; ``extra`` of them are not in the manifests, ``others`` are not ours.

    ``problems``: what could not be looked at, as one broken kind must stop nothing.
    """

    objects: list[Ref]
    extra: list[Ref]
    others: list[Ref]
    problems: list[KubectlError]


_SETTLE_SECONDS = 15.0
_WEBHOOK_PODS = "app.kubernetes.io/name=bitfusion-webhook"


def run(settings: Settings, *, namespace: bool, force: bool = False, say: Say) -> None:
    """Delete, then look whether anything is left. Raises Failure that names what is, and why.

    Without ``force`` nothing is deleted while pods hold GPUs of a pool: only the plugin on their node can end them.
    """
    kubectl, timeout = Kubectl(settings.kubectl), settings.timeout
    version = checks.cluster(kubectl, say)
    existing = kubectl.existing([*current.TO_READ, *release.TO_READ])
    if (of_helm := release.of_objects(existing)) is not None:
        raise Failure(release.refusal_of_uninstall(of_helm))
    if (holders := claims.holders(kubectl, version)) and not force:
        fix = "delete them first, as without the plugin they would be Terminating for ever; or FORCE=yes just uninstall"
        raise Failure(f"{claims.described(holders)}: {fix}")
    place = choices.token_place(settings, current.of_objects(existing))
    tokens = place.namespace
    found = find(kubectl, tokens, version)
    objects = found.objects
    going = [*objects, *claims.published(kubectl, version), *([NAMESPACE] if namespace else [])]
    _permitted(kubectl, going, found.problems)
    _tell_what_is_not_in_manifests(found, say)
    failures: Failures = {None: [str(each) for each in found.problems]}
    configurations = [what for what in objects if what.kind in CONFIGURATIONS]
    _delete(kubectl, configurations, failures, say)
    _not_asked_any_more(kubectl, configurations, failures)
    _delete(kubectl, [what for what in objects if what.kind not in CONFIGURATIONS], failures, say)
    if not _pods_gone(kubectl, timeout):
        say("pods of the webhook are still ending: going on without them")
    # Not before its pods are gone: a webhook that is still ending would publish them anew.
    _delete(kubectl, claims.published(kubectl, version), failures, say)
    _label_taken_away(kubectl, failures, say)
    place = place.read(kubectl)
    copied = adoption.find(kubectl, tokens)
    _delete(kubectl, [*copies_of(copied, place), *_OWN_SECRETS], failures, say)
    for line in others_copies(copied, place):
        say(line)
    if namespace:
        _delete(kubectl, [NAMESPACE], failures, say)
        _wait_for_namespace(kubectl, timeout, failures)
    elif kubectl.get(NAMESPACE) is not None:
        say(f"{NAMESPACE}: kept; NAMESPACE=yes just uninstall deletes it")
    if place.sources:
        say(f"Secrets {', '.join(place.sources)} in {tokens}: yours, left as they are")
    _check(kubectl, place, version, failures, say)


def _tell_what_is_not_in_manifests(found: Installed, say: Say) -> None:
    for what in found.extra:
        say(f"{what}: not in the manifests of this version, but {FIELD_MANAGER} labelled it {LABEL}: it goes too")
    for what in found.others:
        say(f"{what}: left, as {FIELD_MANAGER} did not give it its label {LABEL} and the manifests have no such name")


def _permitted(kubectl: Kubectl, objects: Sequence[Ref], problems: Sequence[KubectlError]) -> None:
    """Raises Failure where this account may not do all of it: a webhook without its pods refuses everybody's."""
    needed = [access.Access("list", "Pod", names.NAMESPACE)]
    needed += [access.Access(verb, "Secret") for verb in ("get", "list", "delete")]
    needed += (
        [access.Access("patch", "Namespace")] if overlays.ignored(kubectl.get(ref(overlays.SYSTEM_NAMESPACE))) else []
    )
    needed += access.to_delete(objects)
    lacking = [str(each) for each in problems if each.reason == "Forbidden"]
    lacking += access.missing(kubectl, needed, "uninstall")
    if lacking:
        raise Failure(report.listed("nothing was changed", lacking))


def _not_asked_any_more(kubectl: Kubectl, configurations: Sequence[Ref], failures: Failures) -> None:
    """Wait until the configurations are gone. Raises Failure where one stays, so that the webhook stays too."""
    for is_last in waiting.rounds(_SETTLE_SECONDS, rollout.POLL_SECONDS):
        left = kubectl.existing(configurations)
        if not left:
            return
        if is_last or any(what in failures for what in left):
            heading = "nothing else was deleted, as the API server would still ask the webhook about pods"
            raise Failure(report.listed(heading, [*_told(failures), *_left(left, failures)]))


def _label_taken_away(kubectl: Kubectl, failures: Failures, say: Say) -> None:
    """The label that a deploy gave kube-system. One that somebody else gave is not of our field manager, and stays."""
    what = ref(overlays.SYSTEM_NAMESPACE)
    if not overlays.ignored(kubectl.get(what)):
        return
    try:
        (after,) = kubectl.apply([overlays.SYSTEM_NAMESPACE]).values()
    except KubectlError as error:
        failures.setdefault(what, []).append(f"{what}: {error}")
        return
    if not overlays.ignored(after):
        say(f"{what}: label {overlays.IGNORED} taken away")


def find(kubectl: Kubectl, tokens: str, version: checks.Version) -> Installed:
    """What is in the cluster of us, or says so. ``tokens`` is the token namespace, in which one Role is."""
    named = _named(tokens)
    seen: list[Ref] = []
    labelled: dict[Ref, Object] = {}
    problems = []

    def labels(kinds: str) -> None:
        labelled.update({ref(each): each for each in kubectl.all_with_managers(kinds, "-l", LABEL) if not _owned(each)})

    def single(refs: Sequence[Ref]) -> None:
        seen.extend(kubectl.existing(refs))

    searches: list[Callable[[], None]] = [
        *(partial(labels, kinds) for kinds in (",".join(KINDS), *OPTIONAL)),
        lambda: single([what for what in named if what.kind not in OPTIONAL]),
        *(partial(_one, kubectl, what, seen) for what in named if what.kind in OPTIONAL),
        lambda: seen.extend(removal.what for removal in leftovers.find(kubectl, version).removals),
    ]
    for search in searches:
        try:
            search()
        except KubectlError as error:
            problems.append(error)
    extra, others = among(labelled, {*named, *seen})
    order = {kind: place for place, kind in enumerate(KINDS)}
    objects = dict.fromkeys([*(what for what in labelled if what not in others), *seen])
    return Installed(sorted(objects, key=lambda what: order.get(what.kind, len(order))), extra, others, problems)


def among(labelled: Mapping[Ref, Object], known: Collection[Ref]) -> tuple[list[Ref], list[Ref]]:
    """Of what has our label and none of the ``known`` names: what is ours all the same, and what is not.

    Of the former without the permissions in namespaces, which the manifests have by another kind.
    """
    unknown = {what: each for what, each in labelled.items() if what not in known and not _orphan(what)}
    ours = [what for what, each in unknown.items() if manifests.labelled_by_us(each)]
    bindings = {("RoleBinding", name) for name in (manifests.COPIES_ROLE, manifests.IMAGES_ROLE)}
    extra = [what for what in ours if (what.kind, what.name) not in bindings]
    return extra, [what for what in unknown if what not in ours]


def _named(tokens: str) -> list[Ref]:
    """All that the manifests of this version have, and what deploy makes beside them or puts elsewhere."""
    roles = [Ref(kind, manifests.TOKENS_ROLE, tokens) for kind in ("Role", "RoleBinding")]
    return list(
        dict.fromkeys(
            [*overlays.shipped(), manifests.CLIENT_CA_MAP, manifests.REGISTRY_CA_MAP, manifests.POOL_MAP, *roles]
        )
    )


def _one(kubectl: Kubectl, what: Ref, seen: list[Ref]) -> None:
    if kubectl.get(what) is not None:
        seen.append(what)


def _orphan(what: Ref) -> bool:
    """A ReplicaSet of our Deployment, which a deploy deleted without its pods."""
    return (what.kind, what.namespace) == ("ReplicaSet", names.NAMESPACE) and what.name.startswith(
        f"{names.WEBHOOK_DEPLOYMENT}-"
    )


def _owned(document: Object) -> bool:
    """It goes with its owner."""
    return bool(document["metadata"].get("ownerReferences"))


def copies_of(secrets: Iterable[Object], place: TokenPlace) -> list[Ref]:
    """Those of ``secrets`` that bitfusiond copied from our token namespace, or from an earlier one with our mark.

    By their namespaces.
    """
    found = [ref(each) for each in secrets if _is_labelled(each) and _is_our_copy(each, place)]
    return sorted(found, key=lambda what: what.namespace)


def others_copies(secrets: Iterable[Object], place: TokenPlace) -> list[str]:
    """A line for each that is labelled as a copy, and may be of another installation, or somebody's source."""
    return [
        f"{ref(each)}: left, {_why_left(_origin(each))}"
        for each in secrets
        if _is_labelled(each) and not _is_our_copy(each, place)
    ]


def _why_left(origin: str) -> str:
    if not origin:
        return "labelled as a copy, but it does not say of what"
    return (
        f"copied from {origin} by another bitfusiond, or by ours with that TOKEN_NAMESPACE: if so, delete with"
        f" `TOKEN_NAMESPACE={origin} just uninstall`"
    )


def _is_our_copy(secret: Object, place: TokenPlace) -> bool:
    mark = place.mark(secret)
    is_marked = mark is not None and mapping(secret, "metadata", "annotations").get(names.MARK) == mark
    return is_marked or _origin(secret) == place.namespace


def _origin(secret: Object) -> str:
    """The namespace that a copy says it comes from; empty for none."""
    return str(mapping(secret, "metadata", "annotations").get(names.COPIED_FROM, "")).partition("/")[0]


def _is_labelled(secret: Object) -> bool:
    return mapping(secret, "metadata", "labels").get(names.MANAGED_BY) == names.MANAGED_BY_US


def _delete(kubectl: Kubectl, objects: Iterable[Ref], failures: Failures, say: Say) -> None:
    for what, error in kubectl.delete_each(list(objects)):
        if error is None:
            say(f"{what}: deleted")
        else:
            failures.setdefault(what, []).append(f"{what}: {error}")


def _pods_gone(kubectl: Kubectl, timeout: float) -> bool:
    return any(
        not kubectl.all("Pod", "-l", _WEBHOOK_PODS, namespace=names.NAMESPACE)
        for _ in waiting.rounds(timeout, rollout.POLL_SECONDS)
    )


def _wait_for_namespace(kubectl: Kubectl, timeout: float, failures: Failures) -> None:
    for _ in waiting.rounds(timeout, rollout.POLL_SECONDS):
        if NAMESPACE in failures or kubectl.get(NAMESPACE) is None:
            return
    failures[NAMESPACE] = [
        f"{NAMESPACE}: still ending after {timeout:g} s; why is in `kubectl get namespace bwki -o yaml`"
    ]


def _check(kubectl: Kubectl, place: TokenPlace, version: checks.Version, failures: Failures, say: Say) -> None:
    """What is ending gets a moment: a deletion is done in the background."""
    for _ in waiting.rounds(_SETTLE_SECONDS, rollout.POLL_SECONDS):
        found = find(kubectl, place.namespace, version)
        copied = copies_of(adoption.find(kubectl, place.namespace), place)
        left = [*found.objects, *claims.published(kubectl, version), *copied, *kubectl.existing(_OWN_SECRETS)]
        if all(what in failures for what in left):
            break
    told = [*_told(failures), *_left(left, failures)]
    told += [str(each) for each in found.problems if str(each) not in told]
    if told:
        raise Failure(report.listed("not everything is gone", told))
    say("nothing of bitfusiond is left. Pods that run keep running; a new one that asks for gpu-* will stay Pending.")


def _told(failures: Failures) -> list[str]:
    return [line for lines in failures.values() for line in lines]


def _left(objects: Iterable[Ref], failures: Failures) -> list[str]:
    """Of what is there still, that which nothing has been said about."""
    return [
        f"{what} is left: look at its finalizers in `kubectl get {what.words} -o yaml`"
        for what in objects
        if what not in failures
    ]
