"""What an operator or a node does to a running installation, and nobody may notice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.processes import run_quietly
from tests.real.cluster.conftest import NAMESPACE
from tests.real.cluster.examples import pod
from tests.real.harness.cluster import Cluster, Done
from tests.real.harness.load import creating_pods

_RESTART_KUBELET = "BITFUSIOND_TEST_RESTART_KUBELET"
_WEBHOOK = "deployment/bitfusion-webhook-deployment"
_RATE = 20.0


@contextmanager
def _nothing_is_refused(cluster: Cluster, directory: Path) -> Iterator[None]:
    with creating_pods(cluster.door(directory), NAMESPACE, _RATE, stored_every=0) as load:
        yield
    print(load.summary())
    assert load.failures == []


def _ca_bundles(cluster: Cluster) -> set[str]:
    configurations = (
        ("mutatingwebhookconfiguration", "bwki-webhook-cfg"),
        ("validatingwebhookconfiguration", "validation.bitfusion.io-cfg"),
    )
    found = [each for kind, name in configurations for each in cluster.get(kind, name)["webhooks"]]
    return {each["clientConfig"].get("caBundle", "") for each in found}


def _replicas(cluster: Cluster) -> list[str]:
    """Those that are not about to end."""
    pods = cluster.every("pod", "bwki", "app.kubernetes.io/name=bitfusion-webhook")
    return [each["metadata"]["name"] for each in pods if "deletionTimestamp" not in each["metadata"]]


def test_a_rolling_restart_and_a_new_certificate_authority_under_load_refuse_no_pod(
    deployed: Cluster, tmp_path: Path
) -> None:
    before, replicas = _ca_bundles(deployed), _replicas(deployed)
    with _nothing_is_refused(deployed, tmp_path):
        deployed.kubectl("rollout", "restart", _WEBHOOK, "-n", "bwki")
        deployed.delete("secret", "bwki-webhook-certs", "bwki")
        deployed.kubectl("rollout", "status", _WEBHOOK, "-n", "bwki", "--timeout=90s")
        deployed.wait(lambda: len(now := _ca_bundles(deployed)) == 1 and now != before, "the new CA is trusted")
        deployed.wait(lambda: not set(replicas) & set(_replicas(deployed)), "the end of the old replicas")
    assert deployed.endpoints() == 2


def test_evictions_take_one_replica_at_a_time_and_no_pod_is_refused(deployed: Cluster, tmp_path: Path) -> None:
    deployed.since(22, "evictions and a PodDisruptionBudget by policy/v1")
    first, second = _replicas(deployed)
    with _nothing_is_refused(deployed, tmp_path):
        assert _evict(deployed, first).status == 0
        refused = _evict(deployed, second)
        assert "violate the pod's disruption budget" in refused.output
        deployed.wait(lambda: _evict(deployed, second).status == 0, "another replica in the place of the first", 60)
        deployed.wait(lambda: deployed.endpoints() == 2, "two replicas again")


def _evict(cluster: Cluster, name: str) -> Done:
    """As a drain of its node does."""
    metadata = {"name": name, "namespace": "bwki"}
    eviction: dict[str, Any] = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/bwki/pods/{name}/eviction"
    return cluster.run("create", "--raw", path, "-f", "-", given=eviction)


def test_after_a_restart_of_the_kubelet_pods_run_on_and_the_next_one_gets_its_shares(
    deployed: Cluster, namespace: str
) -> None:
    command = os.environ.get(_RESTART_KUBELET)
    if not command:
        pytest.skip(f"set {_RESTART_KUBELET} to a command that restarts this machine's kubelet to run this")
    document = pod("survivor", namespace, ["sleep", "600"], deployed.pod_image, amount=1, percent=50)
    before = deployed.started(document)
    run_quietly(command)
    assert deployed.create(pod("next", namespace, ["true"], deployed.pod_image, amount=1)).status == 0
    deployed.ended("next", namespace)
    assert deployed.life("survivor", namespace) == before
