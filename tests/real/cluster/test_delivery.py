"""Clients that the container runtime mounts from their image: nothing is copied, and each node is tried first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bitfusiond.core import names
from bitfusiond.operate import checks, delivery
from bitfusiond.operate.kubectl import Kubectl
from tests.real.cluster import remote_servers
from tests.real.cluster.conftest import NAMESPACE
from tests.real.cluster.examples import pod
from tests.real.harness.cluster import Cluster
from tests.tools import remote


@pytest.fixture(scope="module")
def mounting(deployed: Cluster) -> Iterator[Cluster]:
    """The cluster with DELIVERY=auto, which must have found that its node can mount images."""
    deployed.since(checks.IMAGE_VOLUMES[1], "volume that is an image")
    done = deployed.just("deploy", DELIVERY="auto")
    assert done.status == 0, done.output
    assert "DELIVERY: image (tried on each node)" in done.output
    yield deployed
    assert deployed.just("deploy", DELIVERY="init").status == 0


def test_an_older_kubernetes_copies_and_says_why(deployed: Cluster) -> None:
    if deployed.minor >= checks.IMAGE_VOLUMES[1]:
        pytest.skip(f"run on a Kubernetes before 1.{checks.IMAGE_VOLUMES[1]}")
    done = deployed.just("deploy", DELIVERY="auto")
    assert done.status == 0, done.output
    assert "DELIVERY: init, as no runtime of this Kubernetes is asked to mount images" in done.output
    refused = deployed.just("deploy", DELIVERY="image")
    assert refused.status != 0
    assert "images are mounted from 1.36 on" in refused.output


def test_the_documented_client_runs_from_its_image_with_its_tokens(mounting: Cluster, namespace: str) -> None:
    given = pod("mounted", NAMESPACE, ["sh", "-c", "echo done"], mounting.pod_image, amount=1, percent=50)
    created = mounting.create(given)
    assert created.status == 0, created.output
    mounting.ended("mounted", namespace, "done")
    stored = mounting.get("pod", "mounted", namespace)
    (populate,) = stored["spec"]["initContainers"]
    assert "--delivery" in populate["args"]
    assert "copied tokens" in mounting.kubectl("logs", "mounted", "-n", namespace, "-c", "populate")
    why = mounting.bitfusion("why", "mounted", "-n", namespace)
    assert why.status == 0
    assert "ok     its client is mounted from the image " in why.answer


def test_a_client_without_tokens_starts_without_an_init_container(
    mounting: Cluster, namespace: str, assets: Path
) -> None:
    with remote_servers.running(mounting, namespace, assets, ["cl-a"]) as servers:
        given = pod("direct", NAMESPACE, ["python3", "-c", remote.DOUBLE.read_text()], mounting.pod_image, amount=1)
        annotations = given["metadata"]["annotations"]
        for key in (names.CLIENT_OS, names.CLIENT_VERSION):
            del annotations[key]
        annotations |= {names.CLIENT_NAME: "pocl", names.CLIENT_SERVERS: servers[0]}
        created = mounting.create(given)
        assert created.status == 0, created.output
        assert "numbers doubled" in mounting.ended("direct", namespace, "done")
        assert "initContainers" not in mounting.get("pod", "direct", namespace)["spec"]


def test_verify_tries_each_node_again(mounting: Cluster) -> None:
    done = mounting.just("verify")
    assert done.status == 0, done.output
    assert "mounted on each node" in done.output


def test_a_node_that_does_not_find_the_program_is_named(mounting: Cluster) -> None:
    images = (f"{mounting.variables['IMAGE_REPO']}/bitfusiond:{mounting.variables['IMAGE_TAG']}", mounting.pod_image)
    (problem,) = delivery.problems(Kubectl(mounting.kubectl_program), *images, 60).values()
    assert problem
    print(problem)
    assert not mounting.every("pod", names.NAMESPACE, f"{names.PROBE_LABEL}=true")
