"""Whether nodes can mount a client from its image: tried on each, as a runtime that cannot says nothing.

One that does not know image volumes mounts an empty directory in silence, one may mount without the right to run what
is in it, one may know no sub-path. So a pod looks for a program that is in the image, and whether it may be run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bitfusiond.core import names
from bitfusiond.core.fields import mapping, objects
from bitfusiond.core.objects import Node, Object, Pod
from bitfusiond.operate import waiting
from bitfusiond.operate.kubectl import Kubectl, KubectlError
from bitfusiond.operate.rollout import condition

INIT, IMAGE, AUTO = "init", "image", "auto"
_POLL_SECONDS = 1.0
_DIRECTORY, _PROGRAM = "opt/bitfusiond/bin", "bitfusiond"  # of both images
_NEVER_BEGINS = {"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerError"}
_EMPTY = "its runtime mounts an empty directory, or nothing that may be run"


def problems(kubectl: Kubectl, image: str, client_image: str, timeout: float) -> dict[str, str]:
    """Why a client cannot be mounted from ``client_image``, by the name of the node; nothing for a node that can.

    A pod of ``image`` is made on each node that is ready and takes pods, and deleted again.
    """
    nodes = [each["metadata"]["name"] for each in kubectl.all("Node") if _takes_pods(each)]
    _clear(kubectl)
    try:
        kubectl.create([probe(node, image, client_image) for node in nodes])
        pods = _ended(kubectl, timeout)
    finally:
        _clear(kubectl)
    found = {pod["spec"].get("nodeName", ""): problem(pod) for pod in pods}
    return {node: why for node in nodes if (why := found.get(node, "its pod is gone"))}


def probe(node: str, image: str, client_image: str) -> Pod:
    """A pod on ``node`` that succeeds where it finds what must be in ``client_image``; strict as ``restricted`` is."""
    looks = f"import os; raise SystemExit(not os.access('/probe/{_PROGRAM}', os.X_OK))"
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
    resources = {"cpu": "10m", "memory": "16Mi"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "bitfusiond-delivery-",
            "namespace": names.NAMESPACE,
            "labels": {names.PROBE_LABEL: "true"},
        },
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "probe",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": [f"/{_DIRECTORY}/python", "-c", looks],
                    "securityContext": security,
                    "resources": {"requests": resources, "limits": resources},
                    "volumeMounts": [
                        {"name": "client", "mountPath": "/probe", "subPath": _DIRECTORY, "readOnly": True}
                    ],
                }
            ],
            "volumes": [{"name": "client", "image": {"reference": client_image, "pullPolicy": "IfNotPresent"}}],
        },
    }


def problem(pod: Pod) -> str | None:
    """What the end of a probe says of its node; None for a good one."""
    phase = mapping(pod, "status").get("phase")
    if phase == "Succeeded":
        return None
    for state in (mapping(each, "state") for each in objects(mapping(pod, "status").get("containerStatuses"))):
        if waiting_for := mapping(state, "waiting"):
            return ": ".join(filter(None, (waiting_for.get("reason"), waiting_for.get("message"))))
        if mapping(state, "terminated").get("exitCode") == 1:
            return _EMPTY
        if ended := mapping(state, "terminated"):
            return f"its pod ended with {ended.get('exitCode')}: {ended.get('message') or ended.get('reason')}"
    why = mapping(pod, "status").get("message")
    return f"its pod is {phase or 'not seen by the kubelet'}" + (f": {why}" if why else "")


def described(found: Mapping[str, str], most: int = 5) -> str:
    """``node-a: why; node-b: why``."""
    lines = [f"{node}: {why}" for node, why in list(found.items())[:most]]
    return "; ".join([*lines, *(["..."] if len(found) > most else [])])


def has_clients(node: Node) -> bool:
    """Whether there are clients for it: for linux on amd64 only."""
    labels = mapping(node, "metadata", "labels")
    return (labels.get("kubernetes.io/os", "linux"), labels.get("kubernetes.io/arch", "amd64")) == ("linux", "amd64")


def _takes_pods(node: Node) -> bool:
    return has_clients(node) and condition(node, "Ready") and not node["spec"].get("unschedulable")


def _ended(kubectl: Kubectl, timeout: float) -> Sequence[Object]:
    """The probes, when all have ended or ``timeout`` seconds are over."""
    pods: list[Object] = []
    for _ in waiting.rounds(timeout, _POLL_SECONDS):
        pods = _probes(kubectl)
        if all(map(_is_over, pods)):
            break
    return pods


def _is_over(pod: Object) -> bool:
    """Whether it has ended, or its node has said that it cannot begin."""
    status = mapping(pod, "status")
    reasons = {mapping(each, "state", "waiting").get("reason") for each in objects(status.get("containerStatuses"))}
    return status.get("phase") in {"Succeeded", "Failed"} or not reasons.isdisjoint(_NEVER_BEGINS)


def _probes(kubectl: Kubectl) -> list[Object]:
    return kubectl.all("Pod", "-l", f"{names.PROBE_LABEL}=true", namespace=names.NAMESPACE)


def _clear(kubectl: Kubectl) -> None:
    """Those of an earlier run too, which was cut short."""
    try:
        kubectl.run(
            "delete",
            "pod",
            "-l",
            f"{names.PROBE_LABEL}=true",
            "-n",
            names.NAMESPACE,
            "--wait=false",
            "--ignore-not-found",
        )
    except KubectlError as error:
        if error.reason != "NotFound":
            raise
