"""Pods on their way, as an API server has them, and what is around them."""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
from typing import Any

from bitfusiond.core import names
from bitfusiond.core.diagnosis import pods
from bitfusiond.core.diagnosis.facts import ClusterFacts, PodFacts
from bitfusiond.core.diagnosis.finding import State
from bitfusiond.core.fields import Json
from bitfusiond.core.proof import Outcome, Proof
from tests.pods import admitted, pod, rules

TEAM = "team"
MADE = "2026-11-28T10:00:00Z"
IMAGE = "docker.io/bitfusiondeviceplugin/bitfusion-client:0.5.0"
SECRETS = list(names.TOKEN_SECRETS.values())
CONFIGURATION: Json = {
    "metadata": {"name": names.MUTATING_CONFIGURATION, "creationTimestamp": "2026-11-01T10:00:00Z"},
    "webhooks": [],
}
ENDPOINTS: list[Json] = [{"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}]}]
PATCHED = Proof(Outcome.ADMITTED, "asked, patched")
NOT_ASKED = Proof(Outcome.NOT_ASKED, "the API server did not ask the webhook")
UNREACHABLE = Proof(Outcome.UNREACHABLE, "the API server cannot reach bwkimua.bitfusion.io: no endpoints available")


def cluster(**changed: Any) -> ClusterFacts:
    """A namespace without quotas in a cluster where all is well."""
    usual = ClusterFacts(
        namespace=TEAM,
        about={"metadata": {"name": TEAM, "labels": {}}},
        configuration=CONFIGURATION,
        endpoints=ENDPOINTS,
        quotas=[],
        catalogue=rules().catalogue,
        trial=PATCHED,
    )
    return dataclasses.replace(usual, **changed)


def stored(document: Json, **status: Any) -> Json:
    """As the API server keeps it."""
    document = copy.deepcopy(document)
    document["metadata"] |= {"namespace": TEAM, "uid": "pod-uid", "creationTimestamp": MADE}
    document["status"] = {"phase": "Pending", **status}
    return document


def injected(node: str | None = "n1", **status: Any) -> Json:
    """A pod that the webhook has changed; on a node, unless there is none."""
    document = stored(admitted(pod(), TEAM), **status)
    if node:
        document["spec"]["nodeName"] = node
    return document


def state(container: str, kind: str, **details: Any) -> Json:
    return {"name": container, "state": {kind: details}}


def restarted(name: str, kind: str, **details: Any) -> Json:
    """Of one that ended twice before."""
    ended = {"exitCode": 1, "reason": "Error"}
    return {**state(name, kind, **details), "restartCount": 2, "lastState": {"terminated": ended}}


POPULATED = state("populate", "terminated", exitCode=0, reason="Completed")
RUNNING: Json = {
    "phase": "Running",
    "initContainerStatuses": [POPULATED],
    "containerStatuses": [state("main", "running")],
}


def facts(document: Json, **changed: Any) -> PodFacts:
    """What is known of a pod where everything may be read and is as it should be."""
    of = changed.pop("cluster", cluster())
    secrets = {name: secret(name, TEAM) for name in SECRETS}
    sources = {name: secret(name, names.KUBE_SYSTEM, origin=None) for name in SECRETS}
    # So the API server writes a thousand.
    usual: Json = {"copies": secrets, "sources": sources, "node": node("n1", "1k"), "logs": {}}
    return PodFacts(pod=document, cluster=of, **(usual | changed))


def secret(name: str, namespace: str, content: str = "x", origin: str | None = "") -> Json:
    """A token Secret: a source without ``origin``, else a copy."""
    file = next(file for file, secret in names.TOKEN_SECRETS.items() if secret == name)
    metadata: Json = {"name": name, "namespace": namespace, "resourceVersion": "1"}
    if origin is not None:
        metadata["labels"] = {names.MANAGED_BY: names.MANAGED_BY_US}
        metadata["annotations"] = {names.COPIED_FROM: origin or f"{names.KUBE_SYSTEM}/{name}"}
    return {"metadata": metadata, "data": {file: base64.b64encode(content.encode()).decode()}}


def node(name: str, shares: str | None = "1000", **spec: Any) -> Json:
    allocatable = {} if shares is None else {names.GPU: shares}
    return {"metadata": {"name": name}, "spec": spec, "status": {"allocatable": allocatable}}


def quota(hard: int, used: int, name: str = "gpus") -> Json:
    key = f"requests.{names.GPU}"
    return {
        "metadata": {"name": name, "namespace": TEAM},
        "spec": {"hard": {key: str(hard)}},
        "status": {"used": {key: str(used)}},
    }


def event(reason: str, message: str, at: str = MADE) -> Json:
    return {"reason": reason, "message": message, "lastTimestamp": at, "involvedObject": {"uid": "pod-uid"}}


def unschedulable(message: str) -> Json:
    return {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]}


def line(**fields: Any) -> str:
    """A line of our log."""
    return json.dumps({"ts": MADE, "level": "error", **fields})


def bad(of: PodFacts) -> list[tuple[str, str]]:
    """What is wrong: each line, and what to do."""
    return [(each.line, each.next) for each in pods.diagnose(of) if each.state is State.BAD]


def lines(of: PodFacts, *states: State) -> list[str]:
    """All lines, or those of ``states``."""
    return [each.line for each in pods.diagnose(of) if not states or each.state in states]


def with_claim(document: Json) -> Json:
    document["spec"]["resourceClaims"] = [{"name": "bitfusion-0", "resourceClaimTemplateName": "bitfusion-1"}]
    return document
