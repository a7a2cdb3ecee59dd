"""What ``why`` is asked about: ``POD`` or ``TYPE/NAME``, and the pods that it made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bitfusiond.core.diagnosis import running
from bitfusiond.core.diagnosis.finding import Unread
from bitfusiond.core.fields import mapping, objects
from bitfusiond.core.objects import Object, Pod
from bitfusiond.core.text import shown
from bitfusiond.errors import ConfigurationError, Failure
from bitfusiond.kubectl_bitfusion.reader import Reader, everything, in_namespace, pods_path, uid, unanswered
from bitfusiond.operate.kubectl import KubectlError

_POD = {"pod", "pods", "po"}
# Of these people know the pods, and they have none of their own: by all their names.
_PODLESS = {
    name: kind
    for kind, plurals in {
        "service": ("services", "svc"),
        "configmap": ("configmaps", "cm"),
        "secret": ("secrets",),
        "namespace": ("namespaces", "ns"),
        "node": ("nodes", "no"),
    }.items()
    for name in (kind, *plurals)
}
# What stands between a workload and its pods.
_BETWEEN = (("apps/v1", "replicasets"), ("batch/v1", "jobs"), ("apps/v1", "statefulsets"))


@dataclass(frozen=True, slots=True)
class Target:
    """``kind`` is empty for a pod."""

    kind: str
    name: str

    @property
    def words(self) -> str:
        return f"{self.kind or 'pod'} {self.name}"


@dataclass(frozen=True, slots=True)
class Family:
    """What makes pods, what stands between it and them, and the pods that there are."""

    document: Object
    makers: Sequence[Object]
    pods: Sequence[Pod] | Unread


def parse(word: str) -> Target:
    """Raises ConfigurationError for what is neither a name nor TYPE/NAME."""
    kind, _, name = word.rpartition("/")
    if not re.fullmatch(r"(?:[A-Za-z][A-Za-z0-9.-]*/)?[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?", word):
        raise ConfigurationError(
            f"{shown(word)} is neither POD nor TYPE/NAME: write for example my-pod or deployment/my-app"
        )
    if kind.lower() in _PODLESS:
        raise ConfigurationError(
            f"a {_PODLESS[kind.lower()]} makes no pods: name a pod, or what makes pods, for example deployment/my-app"
        )
    return Target("" if kind.lower() in _POD else kind.lower(), name)


def pod(reader: Reader, namespace: str, name: str) -> Pod:
    """Raises Failure where there is none, or it may not be read."""
    found = reader.get(f"{pods_path(namespace)}/{name}", f"pods in {namespace}")
    if isinstance(found, Unread):
        raise Failure(found.words)
    if found is None:
        raise Failure(
            f"there is no pod {name} in namespace {namespace}: `kubectl get pods -n {namespace}` lists those that are"
            " there. A pod that was refused was never made: `kubectl create` says why, and `kubectl bitfusion why"
            " TYPE/NAME` does for what should have made it"
        )
    return found


def family(reader: Reader, namespace: str, target: Target) -> Family:
    """Raises Failure where there is nothing of that name, or it may not be read."""
    try:
        found = reader.kubectl.json("get", target.kind, target.name, "-n", namespace)
    except KubectlError as error:
        if error.reason in {"", "Unauthorized"}:
            raise unanswered(error) from None
        raise Failure(f"{target.words}: {error}") from None
    document = found[0] if found else {}
    labels = mapping(document, "spec", "selector", "matchLabels")
    # A CronJob has a template, and no selector: its Jobs carry none of its labels.
    selectors = {"labelSelector": ",".join(f"{key}={value}" for key, value in labels.items())} if labels else {}
    makers = [document]
    for group, plural in _BETWEEN:
        listed = reader.all(in_namespace(group, plural, namespace), plural, everything, **selectors)
        if not isinstance(listed, Unread):
            makers += _owned_by(listed, makers)
    pods = reader.all(pods_path(namespace), f"pods in {namespace}", everything, **selectors)
    return Family(document, makers, pods if isinstance(pods, Unread) else _owned_by(pods, makers))


def _owned_by(listed: Sequence[Object], makers: Sequence[Object]) -> list[Object]:
    """Those that one of ``makers`` owns."""
    owners = {uid(each) for each in makers}
    return [
        each
        for each in listed
        if any(owner.get("uid") in owners for owner in objects(mapping(each, "metadata").get("ownerReferences")))
    ]


def has_too_few(found: Family) -> bool:
    """Whether pods are missing, by what the document wants, or by what its controller says of a new generation."""
    if isinstance(found.pods, Unread):
        return False
    going_on = sum(not running.has_ended(each) for each in found.pods)
    failing = _is_met(found.document, "ReplicaFailure")
    return not found.pods or failing or _wanted(found.document) > going_on


def _wanted(document: Object) -> int:
    """How many pods there should be now; 0 where the document does not say so."""
    spec, status = mapping(document, "spec"), mapping(document, "status")
    if "parallelism" in spec or "completions" in spec:
        is_over = _is_met(document, "Complete") or _is_met(document, "Failed") or spec.get("suspend") is True
        return 0 if is_over else _of_job(spec, _number(status.get("succeeded")) or 0)
    wanted = status.get("desiredNumberScheduled") if "desiredNumberScheduled" in status else spec.get("replicas")
    return _number(wanted) or 0


def _of_job(spec: Object, succeeded: int) -> int:
    at_once, completions = _number(spec.get("parallelism")), _number(spec.get("completions"))
    at_once = 1 if at_once is None else at_once
    if completions is None:  # a queue of work: with the first that has succeeded no more begin
        return 0 if succeeded else at_once
    return min(at_once, completions - succeeded)


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _is_met(document: Object, condition: str) -> bool:
    conditions = objects(mapping(document, "status").get("conditions"))
    return any(each.get("type") == condition and each.get("status") == "True" for each in conditions)
