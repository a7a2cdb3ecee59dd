"""The server of the real remoting client in the cluster: each a Deployment and a Service, on the CPU of the node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.real.harness.cluster import Cluster
from tests.tools import remote

Object = dict[str, Any]
PORT = 7777
TCP = "/proc/net/tcp"  # local address, remote address, state; in hexadecimal digits, the last byte of an IP first


@contextmanager
def running(cluster: Cluster, namespace: str, assets: Path, names: Sequence[str]) -> Iterator[list[str]]:
    """Servers of these names: where pods reach each, HOST:PORT."""
    made = [_deployment(name, namespace, assets, cluster.pod_image) for name in names]
    made += [_service(name, namespace) for name in names]
    cluster.kubectl("apply", "-f", "-", given={"apiVersion": "v1", "kind": "List", "items": made})
    for name in names:
        cluster.kubectl("rollout", "status", f"deployment/{name}", "-n", namespace, "--timeout=90s")
    # By address: a cluster made for tests may have no DNS.
    yield [f"{cluster.get('service', name, namespace)['spec']['clusterIP']}:{PORT}" for name in names]
    for name in names:
        cluster.delete("deployment", name, namespace)
        cluster.delete("service", name, namespace)


def serves(cluster: Cluster, namespace: str, name: str, pod: str) -> bool:
    """Whether the server has a connection of the pod."""
    address = cluster.get("pod", pod, namespace)["status"]["podIP"]
    return cluster.run("exec", f"deployment/{name}", "-n", namespace, "--", "grep", _peer(address), TCP).status == 0


def _deployment(name: str, namespace: str, assets: Path, image: str) -> Object:
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
        "command": remote.server_command(server, "0.0.0.0", PORT),
        "env": [{"name": key, "value": value} for key, value in inside.items()],
        # Not by a connection: the server takes that for a client, and serves nobody while it clears up after it.
        "readinessProbe": {
            "exec": {"command": ["grep", "-q", f":{PORT:04X} .* 0A ", TCP]},
            "periodSeconds": 1,
        },
        "volumeMounts": [{"name": key, "mountPath": path, "readOnly": True} for key, (_, path) in mounts.items()],
    }
    volumes = [{"name": key, "hostPath": {"path": path}} for key, (path, _) in mounts.items()]
    spec = {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 0}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": spec},
        },
    }


def _service(name: str, namespace: str) -> Object:
    # A client speaks to PORT and PORT+1, and servers of one program to each other's PORT+2.
    ports = [{"name": f"p{port}", "port": port} for port in (PORT, PORT + 1, PORT + 2)]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": ports},
    }


def _peer(address: str) -> str:
    """A pattern of the connections to a server that come from ``address``."""
    remote_ip = "".join(f"{int(part):02X}" for part in reversed(address.split(".")))
    return f":{PORT:04X} {remote_ip}:.* 01 "
