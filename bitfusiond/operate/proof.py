"""The proof of the whole path: a server-side dry run of an annotated pod, which nothing keeps."""

from __future__ import annotations

from collections.abc import Mapping

from bitfusiond.core import names
from bitfusiond.core.admission import trial
from bitfusiond.core.admission.trial import Proof
from bitfusiond.core.clients import catalogue
from bitfusiond.core.fields import Json, mapping
from bitfusiond.core.objects import ConfigMap, Pod
from bitfusiond.files.read import CATALOGUE, load_yaml
from bitfusiond.operate import waiting
from bitfusiond.operate.kubectl import Kubectl, KubectlError

# An API server takes up a configuration, and the webhook writes its caBundle, a moment after it was applied.
SETTLE_SECONDS = 30.0
_POLL_SECONDS = 1.0
NAMESPACE = "default"  # where nobody names another


def pod(namespace: str, client: Mapping[str, str]) -> Pod:
    """A pod that asks for 1 % of one GPU and would do nothing; as strict as Pod Security ``restricted`` wants it.

    ``client`` are the annotations that name its client.
    """
    security: Json = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    resources = {"cpu": "10m", "memory": "16Mi"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "bitfusiond-proof-",
            "namespace": namespace,
            # Without it an API server that knows no matchConditions would not say why it could not ask.
            "labels": {names.MANAGEMENT: "all"},
            "annotations": {names.MANAGEMENT: "all", **client},
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "proof",
                    "image": "bitfusiond-proof",
                    "command": ["true"],
                    "securityContext": security,
                    "resources": {
                        "requests": resources,
                        "limits": {**resources, names.GPU_AMOUNT: "1", names.GPU_PERCENT: "1"},
                    },
                }
            ],
        },
    }


def client_of(configmap: ConfigMap | None) -> dict[str, str]:
    """The annotations that ask for the first client of the catalogue in ``configmap``."""
    try:
        text = mapping(configmap, "data")[CATALOGUE]
        known = catalogue.parse(load_yaml(text))
        first = next(iter([*known.clients.values(), *known.others]))
    except (KeyError, ValueError):
        return {names.CLIENT_OS: "ubuntu18", names.CLIENT_VERSION: "450"}
    asked = {names.CLIENT_OS: first.os, names.CLIENT_VERSION: first.version}
    if not first.is_bitfusion:
        # The servers are never asked; that none are known is not what this is to find out.
        asked |= {names.CLIENT_NAME: first.name, names.CLIENT_SERVERS: "127.0.0.1:1"}
    return {key: value for key, value in asked.items() if value is not None}


def ask(kubectl: Kubectl, namespace: str, client: Mapping[str, str]) -> Proof:
    """Create the pod by dry run; the API server's own failures are raised as KubectlError only where it is silent."""
    try:
        stored = kubectl.create([pod(namespace, client)], "--dry-run=server")
    except KubectlError as error:
        return trial.judge_error(str(error).removeprefix("kubectl create: "))
    return trial.judge(stored[0])


def wait(kubectl: Kubectl, namespace: str, client: Mapping[str, str], seconds: float = SETTLE_SECONDS) -> Proof:
    """Ask until the answer is good, or for ``seconds``; the last answer."""
    for _ in waiting.rounds(seconds, _POLL_SECONDS):
        answer = ask(kubectl, namespace, client)
        if answer.good:
            break
    return answer
