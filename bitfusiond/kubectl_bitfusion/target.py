"""What ``why`` is asked about: ``POD`` or ``TYPE/NAME``, and the pods that it made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bitfusiond.core.diagnosis.finding import Unread
from bitfusiond.core.fields import mapping, objects
from bitfusiond.core.objects import Object, Pod
from bitfusiond.core.text import shown
from bitfusiond.errors import ConfigurationError, Failure
from bitfusiond.kubectl_bitfusion.reader import Reader, everything, in_namespace, pods_path, uid
from bitfusiond.operate.kubectl import KubectlError

_POD = {"pod", "pods", "po"}
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
        raise Failure(f"{target.words}: {error}") from None
    document = found[0] if found else {}
    labels = mapping(document, "spec", "selector", "matchLabels")
    # A CronJob has a template, and no selector: its Jobs carry none of its labels.
    selectors = {"labelSelector": ",".join(f"{key}={value}" for key, value in labels.items())} if labels else {}
    makers = [document]
    for group, plural in _BETWEEN:
        listed = reader.all(in_namespace(group, plural, namespace), plural, everything, **selectors)
        if not isinstance(listed, Unread):
            makers += _of(listed, makers)
    pods = reader.all(pods_path(namespace), f"pods in {namespace}", everything, **selectors)
    return Family(document, makers, pods if isinstance(pods, Unread) else _of(pods, makers))


def _of(listed: Sequence[Object], makers: Sequence[Object]) -> list[Object]:
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
    spec, status = mapping(found.document, "spec"), mapping(found.document, "status")
    failing = any(
        each.get("type") == "ReplicaFailure" and each.get("status") == "True"
        for each in objects(status.get("conditions"))
    )
    wanted = spec.get("replicas")
    return not found.pods or failing or (isinstance(wanted, int) and wanted > len(found.pods))
