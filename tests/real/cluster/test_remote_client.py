"""A real remoting client: a program in a pod computes on a device of another pod, over TCP. Needs no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bitfusiond.core import names
from tests.real.cluster import remote_servers
from tests.real.cluster.conftest import NAMESPACE
from tests.real.cluster.examples import pod
from tests.real.harness.cluster import Cluster
from tests.tools import remote

Object = dict[str, Any]
_SERVERS = ("cl-a", "cl-b")


@pytest.fixture
def servers(deployed: Cluster, namespace: str, assets: Path) -> Iterator[list[str]]:
    with remote_servers.running(deployed, namespace, assets, _SERVERS) as addresses:
        yield addresses


def _workload(name: str, servers: list[str], image: str, *arguments: str) -> Object:
    """A pod that has Python in its image, no OpenCL, and a program that doubles numbers on every device."""
    given = pod(name, NAMESPACE, ["python3", "-c", remote.DOUBLE.read_text(), *arguments], image, amount=1, percent=50)
    annotations = given["metadata"]["annotations"]
    for key in (names.CLIENT_OS, names.CLIENT_VERSION):
        annotations.pop(key, None)
    annotations |= {names.CLIENT_NAME: "pocl", names.CLIENT_SERVERS: ",".join(servers)}
    given["spec"]["restartPolicy"] = "Never"
    return given


def test_a_program_computes_on_the_device_of_a_server(deployed: Cluster, namespace: str, servers: list[str]) -> None:
    created = deployed.create(_workload("one", servers[:1], deployed.pod_image))
    assert created.status == 0, created.output
    log = deployed.ended("one", namespace, "done")
    assert log.count("65536 numbers doubled on ") == 1
    stored = deployed.get("pod", "one", namespace)
    assert [each["name"] for each in stored["spec"]["initContainers"]] == ["populate"]
    assert stored["spec"]["containers"][0]["resources"]["limits"][names.GPU] == "50"


def test_two_servers_are_both_used(deployed: Cluster, namespace: str, servers: list[str]) -> None:
    created = deployed.create(_workload("two", servers, deployed.pod_image, "120"))
    assert created.status == 0, created.output
    deployed.wait(lambda: _log(deployed, "two").count("65536 numbers doubled on ") == 2, "two devices compute")
    # Each server has the program as its client: two devices of one server would not need the other one.
    for name in _SERVERS:
        assert remote_servers.serves(deployed, namespace, name, "two"), name


def test_a_server_that_is_killed_ends_its_clients_with_a_failure(
    deployed: Cluster, namespace: str, servers: list[str]
) -> None:
    created = deployed.create(_workload("killed", servers[:1], deployed.pod_image, "120"))
    assert created.status == 0, created.output
    deployed.wait(lambda: "numbers doubled" in _log(deployed, "killed"), "the program computes")
    deployed.kubectl("scale", "deployment/cl-a", "-n", namespace, "--replicas=0")
    # A client that connects anew to a server that is gone waits for its kernel, which asks for 127 s.
    deployed.wait(
        lambda: deployed.get("pod", "killed", namespace)["status"]["phase"] == "Failed", "the pod's failure", 240
    )
    assert "done" not in _log(deployed, "killed").splitlines()


def _log(cluster: Cluster, name: str) -> str:
    return cluster.run("logs", name, "-n", NAMESPACE).output


def test_a_pod_of_an_unknown_client_is_refused_with_those_that_there_are(deployed: Cluster, namespace: str) -> None:
    unknown = _workload("unknown", ["127.0.0.1:1"], deployed.pod_image)
    unknown["metadata"]["annotations"][names.CLIENT_NAME] = "no-such"
    refused = deployed.create(unknown)
    assert refused.status != 0
    assert "there is no client no-such; choose one of bitfusion, lupine, pocl" in refused.output
