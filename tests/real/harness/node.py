"""A node with a real kubelet, as the API server and the node's own file system show it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes import client

from tests.fakes.processes import run_quietly, wait_until
from tests.real.harness.programs import minor_version

RESOURCE = "bitfusion.io/gpu"
DIRECTORY = Path("/var/lib/kubelet/device-plugins")
NAMESPACE = "default"
# The kubelet tells the API server of new devices when it next updates its node's status, every 10 s.
STATUS_SECONDS = 40.0


def delete_directory() -> None:
    """DIRECTORY with all that is in it, in one step: a kubelet that runs may be writing its checkpoint there."""
    gone = DIRECTORY.with_name("device-plugins-of-before")
    DIRECTORY.rename(gone)
    shutil.rmtree(gone)


@dataclass(frozen=True, slots=True)
class Node:
    """The only node of a cluster that belongs to the tests."""

    name: str
    core: Any  # CoreV1Api and AppsV1Api, given mappings where their types ask for models
    apps: Any
    pod_image: str
    restart_command: str | None

    # --- its kubelet --------------------------------------------------------------------------------------------

    @property
    def minor(self) -> int:
        """Of its version: 20 for 1.20.2."""
        return minor_version(self.core.read_node(self.name).status.node_info.kubelet_version)

    def restart_kubelet(self) -> None:
        assert self.restart_command is not None
        run_quietly(self.restart_command)

    def registrations(self) -> int:
        """How often this kubelet process has accepted our resource, in its own count."""
        try:
            text: str = self.core.connect_get_node_proxy_with_path(self.name, "metrics")
        except client.ApiException:
            return 0  # it has just been started
        lines = [line for line in text.splitlines() if line.startswith("kubelet_device_plugin_registration_total{")]
        return sum(int(float(line.split()[-1])) for line in lines if f'"{RESOURCE}"' in line)

    def wait_registered(self) -> None:
        wait_until(lambda: self.registrations() > 0, "a registration in the kubelet's own metrics")

    # --- what the scheduler sees ----------------------------------------------------------------------------------

    def allocatable(self) -> str | None:
        """In the form that the API server has: 1000 is written 1k."""
        found: str | None = self.core.read_node(self.name).status.allocatable.get(RESOURCE)
        return found

    def wait_allocatable(self, quantity: str) -> None:
        wait_until(lambda: self.allocatable() == quantity, f"allocatable {RESOURCE}: {quantity}", STATUS_SECONDS)

    # --- pods ---------------------------------------------------------------------------------------------------

    @contextmanager
    def pod(self, name: str, shares: int, script: str, *, scheduled: bool = True) -> Iterator[None]:
        """A pod that asks for so many shares and runs ``script``, deleted at the end.

        Not ``scheduled``, it is given to the kubelet as it is.
        """
        container = {
            "name": "main",
            "image": self.pod_image,
            "command": ["sh", "-c", script],
            "resources": {"limits": {RESOURCE: str(shares)}},
        }
        spec: dict[str, Any] = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]}
        if not scheduled:
            spec["nodeName"] = self.name
        self.core.create_namespaced_pod(NAMESPACE, {"metadata": {"name": name}, "spec": spec})
        try:
            yield
        finally:
            self.core.delete_namespaced_pod(name, NAMESPACE, grace_period_seconds=0)
            wait_until(lambda: not self._exists(name), f"the end of pod {name}")

    def serves(self, name: str, shares: int, *, scheduled: bool = True) -> None:
        """A pod that asks for so many shares runs, and is told of them."""
        with self.pod(name, shares, "echo shares: $BITFUSION_GPU_SHARES", scheduled=scheduled):
            self.wait_phase(name, "Succeeded")
            assert self.log(name) == f"shares: {shares}\n"

    def status(self, name: str) -> Any:
        return self.core.read_namespaced_pod(name, NAMESPACE).status

    def wait_phase(self, name: str, phase: str, seconds: float = 60) -> None:
        wait_until(lambda: self.status(name).phase == phase, f"pod {name} {phase}", seconds)

    def log(self, name: str) -> str:
        text: str = self.core.read_namespaced_pod_log(name, NAMESPACE)
        return text

    def unschedulable(self, name: str) -> str:
        """Why the scheduler found no node for the pod; empty while it has not said so."""
        conditions = self.status(name).conditions or []
        return next((each.message or "" for each in conditions if each.reason == "Unschedulable"), "")

    def _exists(self, name: str) -> bool:
        pods = self.core.list_namespaced_pod(NAMESPACE, field_selector=f"metadata.name={name}")
        return bool(pods.items)
