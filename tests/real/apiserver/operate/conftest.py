"""A real API server for the operator's commands, with kubectl; the tests play the controllers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bitfusiond.core import names
from tests.real.harness.apiserver import APIServer
from tests.real.harness.operator import Operator, controllers
from tests.real.harness.tokens import put_tokens
from tests.real.harness.webhook import Installation, routed

NODES = "/api/v1/nodes"
PODS = "/api/v1/namespaces/kube-system/pods"
READY = [{"type": "Ready", "status": "True"}]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[APIServer]:
    with routed(tmp_path_factory.mktemp("operate")) as server:
        yield server


@pytest.fixture
def operator(api: APIServer, tmp_path: Path) -> Operator:
    """Runs the commands as an administrator of ``api``."""
    return Operator.of_environment(api.write_kubeconfig(tmp_path / "kubeconfig"))


@pytest.fixture(scope="module")
def cluster(api: APIServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Everything deployed, on one node that is as it should be."""
    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp("webhook")
        installation = Installation(api, directory)
        put_tokens(api)
        stack.enter_context(controllers(api))
        stack.enter_context(installation.ready_replica())
        stack.enter_context(installation.endpoints_follow())
        make_node(api, "good", "1000")
        kubectl = Operator.of_environment(api.write_kubeconfig(directory / "kubeconfig"))
        assert kubectl.run("deploy").status == 0
        yield installation


def make_node(api: APIServer, name: str, shares: str | None) -> None:
    """A node with a plugin that is running; ``shares`` None = it never registered."""
    resources = {"cpu": "1"} | ({names.GPU: shares} if shares else {})
    status = {"allocatable": resources, "capacity": resources, "conditions": READY}
    api.create(NODES, {"metadata": {"name": name}, "status": status})
    container = {"name": "c", "image": "docker.io/bitfusiondeviceplugin/bitfusiond:0.5.0"}
    labels = {"app.kubernetes.io/name": "bitfusion-device-plugin"}
    pod = {
        "metadata": {"name": f"plugin-{name}", "labels": labels},
        "spec": {"nodeName": name, "containers": [container]},
    }
    api.create(PODS, pod)
    api.merge(f"{PODS}/plugin-{name}/status", {"status": {"conditions": READY}})
