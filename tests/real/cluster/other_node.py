"""A node of another processor: API server, scheduler and DaemonSets know it, and there is no kubelet behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from bitfusiond.core import names
from tests.real.harness.cluster import Cluster, Object

NAME = "arm64-node"


@contextmanager
def arm64(cluster: Cluster) -> Iterator[None]:
    """For less than the 40 s after which the cluster misses the heartbeats of a node."""
    labels = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64", "kubernetes.io/hostname": NAME}
    node: Object = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME, "labels": labels}}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    room = {"cpu": "8", "memory": "8Gi", "pods": "10", "ephemeral-storage": "50Gi"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "of the tests"}
    ready |= {"lastHeartbeatTime": now, "lastTransitionTime": now}
    node["status"] = {"capacity": room, "allocatable": room, "conditions": [ready]}
    try:
        cluster.kubectl("create", "-f", "-", given=node)
        cluster.wait(lambda: not cluster.get("node", NAME)["spec"].get("taints"), "a node that takes pods")
        yield
    finally:
        cluster.delete("node", NAME)


def takes_no_gpu_pod(cluster: Cluster, given: Object) -> None:
    """``given``, a pod with GPUs that may go to that node alone, waits; one without GPUs goes there."""
    namespace = given["metadata"]["namespace"]
    given["spec"]["nodeSelector"] = {"kubernetes.io/hostname": NAME}
    plain: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "plain", "namespace": namespace}}
    containers = [{"name": "main", "image": cluster.pod_image, "command": ["sleep", "300"]}]
    plain["spec"] = {"nodeSelector": given["spec"]["nodeSelector"], "containers": containers}
    for each in (given, plain):
        created = cluster.create(each)
        assert created.status == 0, created.output
    cluster.wait(lambda: cluster.get("pod", "plain", namespace)["spec"].get("nodeName") == NAME, "a pod on that node")
    name = given["metadata"]["name"]
    cluster.wait(lambda: f"Insufficient {names.GPU}" in why(cluster, name, namespace), "the scheduler's words")
    assert "nodeName" not in cluster.get("pod", name, namespace)["spec"]
    daemon_set = cluster.get("daemonset", "bitfusion-device-plugin", "kube-system")
    assert daemon_set["status"]["desiredNumberScheduled"] == 1
    # Without waiting for a kubelet, which is not there.
    cluster.kubectl("delete", "pod", name, "plain", "-n", namespace, "--force", "--grace-period=0")


def why(cluster: Cluster, name: str, namespace: str) -> str:
    """What the scheduler says of a pod that waits."""
    conditions = cluster.get("pod", name, namespace)["status"].get("conditions") or []
    return " ".join(str(each.get("message")) for each in conditions if each["type"] == "PodScheduled")
