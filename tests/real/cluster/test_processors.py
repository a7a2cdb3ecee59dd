"""In a cluster with nodes of several processors pods with GPUs are placed where their clients run."""

from __future__ import annotations

from tests.real.cluster import other_node
from tests.real.cluster.examples import pod
from tests.real.harness.cluster import Cluster


def test_no_pod_with_gpus_is_placed_on_a_node_of_another_processor(deployed: Cluster, namespace: str) -> None:
    with other_node.arm64(deployed):
        given = pod("gpus", namespace, ["sleep", "300"], deployed.pod_image, amount=1, percent=1)
        other_node.takes_no_gpu_pod(deployed, given)
