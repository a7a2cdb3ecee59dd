"""A real remoting client: a program in a pod computes on a device of another pod, over TCP. Needs no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bitfusiond.core import names
from tests.real.cluster.conftest import NAMESPACE
from tests.real.cluster.examples import pod
from tests.real.harness.cluster import Cluster
from tests.tools import remote

Object = dict[str, Any]
_PORT = 7777
_SERVERS = ("cl-a", "cl-b")
_TCP = "/proc/net/tcp"  # local address, remote address, state; in hexadecimal digits, the last byte of an IP first


@pytest.fixture(scope="module")
def assets() -> Path:
    found, how = remote.directory()
    if found is None:
        pytest.skip(how)
    return found


@pytest.fixture
def servers(deployed: Cluster, namespace: str, assets: Path) -> Iterator[list[str]]:
    """Two servers, each a Deployment and a Service: where pods reach them."""
    objects = [each for name in _SERVERS for each in (_deployment(name, assets, deployed.pod_image), _service(name))]
    deployed.kubectl("apply", "-f", "-", given={"apiVersion": "v1", "kind": "List", "items": objects})
    for name in _SERVERS:
        deployed.kubectl("rollout", "status", f"deployment/{name}", "-n", namespace, "--timeout=90s")
    # By address: a cluster made for tests may have no DNS.
    yield [f"{deployed.get('service', name, namespace)['spec']['clusterIP']}:{_PORT}" for name in _SERVERS]
    for name in _SERVERS:
        deployed.delete("deployment", name, namespace)
        deployed.delete("service", name, namespace)


def _deployment(name: str, assets: Path, image: str) -> Object:
    server = Path("/server")
    variables = remote.server_variables(assets / "server", Path("/tmp/pocl"))
    inside = {key: value.replace(str(assets / "server"), str(server)) for key, value in variables.items()}
    mounts = {"server": (str(assets / "server"), str(server))}
    for number, word in enumerate(remote.emulator()[:1]):
        mounts[f"emulator-{number}"] = (word, word)
    container = {
        "name": "server",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": remote.server_command(server, "0.0.0.0", _PORT),
        "env": [{"name": key, "value": value} for key, value in inside.items()],
        # Not by a connection: the server takes that for a client, and serves nobody while it clears up after it.
        "readinessProbe": {
            "exec": {"command": ["grep", "-q", f":{_PORT:04X} .* 0A ", _TCP]},
            "periodSeconds": 1,
        },
        "volumeMounts": [{"name": key, "mountPath": path, "readOnly": True} for key, (_, path) in mounts.items()],
    }
    volumes = [{"name": key, "hostPath": {"path": path}} for key, (path, _) in mounts.items()]
    spec = {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 0}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": spec},
        },
    }


def _service(name: str) -> Object:
    # A client speaks to PORT and PORT+1, and servers of one program to each other's PORT+2.
    ports = [{"name": f"p{port}", "port": port} for port in (_PORT, _PORT + 1, _PORT + 2)]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"selector": {"app": name}, "ports": ports},
    }


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
    address = deployed.get("pod", "two", namespace)["status"]["podIP"]
    for name in _SERVERS:
        connected = deployed.run("exec", f"deployment/{name}", "-n", namespace, "--", "grep", _peer(address), _TCP)
        assert connected.status == 0, f"{name}: {connected.output}"


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


def _peer(address: str) -> str:
    """A pattern of the connections to a server that come from ``address``."""
    remote_ip = "".join(f"{int(part):02X}" for part in reversed(address.split(".")))
    return f":{_PORT:04X} {remote_ip}:.* 01 "


def _log(cluster: Cluster, name: str) -> str:
    return cluster.run("logs", name, "-n", NAMESPACE).output


def test_a_pod_of_an_unknown_client_is_refused_with_those_that_there_are(deployed: Cluster, namespace: str) -> None:
    unknown = _workload("unknown", ["127.0.0.1:1"], deployed.pod_image)
    unknown["metadata"]["annotations"][names.CLIENT_NAME] = "no-such"
    refused = deployed.create(unknown)
    assert refused.status != 0
    assert "there is no client no-such; choose one of bitfusion, lupine, pocl" in refused.output
