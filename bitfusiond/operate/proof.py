"""The proof of the whole path, by kubectl: a server-side dry run of an annotated pod, which nothing keeps."""

from __future__ import annotations

from collections.abc import Mapping

from bitfusiond.core import proof
from bitfusiond.core.clients import catalogue
from bitfusiond.core.fields import mapping
from bitfusiond.core.objects import ConfigMap
from bitfusiond.core.proof import NAMESPACE, POLL_SECONDS, SETTLE_SECONDS, Outcome, Proof, judge, judge_error, pod
from bitfusiond.files.read import CATALOGUE, load_yaml
from bitfusiond.operate import waiting
from bitfusiond.operate.kubectl import Kubectl, KubectlError

__all__ = ["NAMESPACE", "Outcome", "Proof", "ask", "client_of", "judge", "judge_error", "pod", "wait"]


def client_of(configmap: ConfigMap | None) -> dict[str, str]:
    """The annotations that ask for the first client of the catalogue in ``configmap``."""
    try:
        return proof.client_of(catalogue.parse(load_yaml(mapping(configmap, "data")[CATALOGUE])))
    except (KeyError, ValueError):
        return proof.client_of(None)


def ask(kubectl: Kubectl, namespace: str, client: Mapping[str, str]) -> Proof:
    """Create the pod by dry run; the API server's own failures are raised as KubectlError only where it is silent."""
    try:
        stored = kubectl.create([pod(namespace, client)], "--dry-run=server")
    except KubectlError as error:
        return judge_error(str(error).removeprefix("kubectl create: "))
    return judge(stored[0])


def wait(kubectl: Kubectl, namespace: str, client: Mapping[str, str], seconds: float = SETTLE_SECONDS) -> Proof:
    """Ask until the answer is good, or for ``seconds``; the last answer."""
    for _ in waiting.rounds(seconds, POLL_SECONDS):
        answer = ask(kubectl, namespace, client)
        if answer.good:
            break
    return answer
