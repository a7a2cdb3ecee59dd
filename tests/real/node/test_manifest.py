"""manifests/base/device-plugin.yaml on a node: the plugin works with what that gives it, and has no more than that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from tests import MANIFESTS
from tests.fakes.processes import wait_until
from tests.real.harness.node import DIRECTORY, Node, delete_directory
from tests.real.harness.plugin import SOCKET

_MANIFEST = MANIFESTS / "base/device-plugin.yaml"
_NAMESPACE = "kube-system"
_SERVERS = "bitfusion-client-secret-servers.conf"


class Daemon:
    """The pod of the DaemonSet on the only node."""

    def __init__(self, node: Node, selector: str) -> None:
        self._node = node
        self._selector = selector

    @property
    def pod(self) -> Any:
        """None while there is none."""
        pods = self._node.core.list_namespaced_pod(_NAMESPACE, label_selector=self._selector).items
        return pods[0] if pods else None

    @property
    def status(self) -> Any:
        statuses = self.pod.status.container_statuses if self.pod else None
        return statuses[0] if statuses else None

    def wait_ready(self) -> None:
        # Once it was ready the kubelet asks only every 10 s, and right after a restart goes by what it knew.
        wait_until(lambda: self.status is not None and self.status.ready, "the plugin's pod is ready", 60)

    def answer(self, path: str) -> str:
        name = f"{self.pod.metadata.name}:9090"
        text: str = self._node.core.connect_get_namespaced_pod_proxy_with_path(name, _NAMESPACE, path)
        return text

    def metric(self, name: str) -> float:
        """Its value; 0 where it has none yet."""
        try:
            text = self.answer("metrics")
        except client.ApiException:
            return 0
        lines = [line for line in text.splitlines() if line.startswith(f"bitfusiond_plugin_{name} ")]
        return float(lines[0].split()[-1]) if lines else 0

    def process(self) -> Path:
        """Its first process, as a directory of /proc."""
        container = self.status.container_id.rpartition("/")[2]
        pids = sorted(int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal())
        return next(Path(f"/proc/{pid}") for pid in pids if container in _text(Path(f"/proc/{pid}/cgroup")))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # a process that has ended since
        return ""


@pytest.fixture(scope="module")
def daemon(node: Node, image: str) -> Iterator[Daemon]:
    """The manifest, applied with another image and faster probes, and its pod ready; deleted at the end."""
    account, document = yaml.safe_load_all(_MANIFEST.read_text())
    (container,) = document["spec"]["template"]["spec"]["containers"]
    container["image"] = image
    (interval,) = (each for each in container["env"] if each["name"] == "INTERVAL")
    interval["value"] = "2"
    labels = document["spec"]["selector"]["matchLabels"]
    name = document["metadata"]["name"]
    with suppress(client.ApiException):  # the tests of a whole cluster leave it
        node.core.delete_namespaced_secret(_SERVERS, _NAMESPACE)
    daemon = Daemon(node, ",".join(f"{key}={value}" for key, value in labels.items()))
    node.core.create_namespaced_service_account(_NAMESPACE, account)
    node.apps.create_namespaced_daemon_set(_NAMESPACE, document)
    try:
        daemon.wait_ready()
        yield daemon
    finally:
        node.apps.delete_namespaced_daemon_set(name, _NAMESPACE)
        node.core.delete_namespaced_service_account(account["metadata"]["name"], _NAMESPACE)
        wait_until(lambda: daemon.pod is None, "the end of the plugin's pod", 60)
        assert not SOCKET.exists(), "the plugin's pod left its socket behind"


def test_without_any_privilege_the_pod_registers_and_other_pods_get_their_shares(node: Node, daemon: Daemon) -> None:
    node.wait_allocatable("1k")
    node.serves("fifty", 50)
    assert daemon.answer("readyz") == "ok\n"
    assert daemon.status.restart_count == 0


def test_its_process_is_root_without_capabilities_on_a_file_system_that_it_cannot_write(daemon: Daemon) -> None:
    process = daemon.process()
    lines = dict(line.split(":\t", 1) for line in _text(process / "status").splitlines())
    assert lines["Uid"].split() == ["0"] * 4
    assert {lines[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert lines["NoNewPrivs"] == "1"
    assert lines["Seccomp"] == "2"  # a filter
    mounts = [line.split() for line in _text(process / "mountinfo").splitlines()]
    writable = {mount[4] for mount in mounts if "rw" in mount[5].split(",")}
    assert "/" not in writable
    # Of the host there is the one directory; the others are made by the container runtime for every container.
    assert {path for path in writable if path.startswith(("/var", "/run", "/etc"))} == {str(DIRECTORY), "/etc/hosts"}
    pod = daemon.pod
    assert not pod.spec.host_network
    assert pod.status.pod_ip != pod.status.host_ip
    assert [volume.name for volume in pod.spec.volumes if volume.host_path] == ["device-plugins"]
    assert not any("serviceaccount" in mount[4] for mount in mounts)


def test_the_pod_probes_the_servers_of_the_token_secret(node: Node, daemon: Daemon) -> None:
    secret = {
        "metadata": {"name": _SERVERS},
        "stringData": {"servers.conf": "servers:\n- addresses:\n  - 192.0.2.1:1\n"},
    }
    assert daemon.metric("servers_conf_errors_total") > 0  # optional, and absent until now
    node.core.create_namespaced_secret(_NAMESPACE, secret)
    try:
        wait_until(lambda: daemon.metric('servers{reachable="false"}') == 1, "the servers are probed", 150)
        wait_until(lambda: daemon.metric('devices{health="Unhealthy"}') == 1000, "unhealthy devices", 60)
        node.wait_allocatable("0")
    finally:
        node.core.delete_namespaced_secret(_SERVERS, _NAMESPACE)


def test_the_pod_registers_again_after_a_restart_of_the_kubelet(restartable: Node, daemon: Daemon) -> None:
    before = daemon.metric("registrations_total")
    restartable.restart_kubelet()
    wait_until(lambda: daemon.metric("registrations_total") == before + 1, "the pod registers again")
    restartable.wait_registered()
    assert daemon.status.restart_count == 0


def test_the_pod_gets_the_new_directory_when_the_old_one_was_deleted(restartable: Node, daemon: Daemon) -> None:
    """Its mount shows the deleted one for as long as the container lives, so the container must end. Keep it last."""
    delete_directory()
    restartable.restart_kubelet()
    wait_until(lambda: daemon.status is not None and daemon.status.restart_count > 0, "a new container", 90)
    restartable.wait_registered()
    daemon.wait_ready()
