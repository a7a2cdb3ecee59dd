"""One node for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from tests.real.harness.node import DIRECTORY, Node
from tests.real.harness.plugin import Plugin

_HOW = (
    "run as root on the only node of a cluster made for tests, KUBECONFIG naming its administrator: "
    f"there must be {DIRECTORY}/kubelet.sock"
)
_RESTART = "BITFUSIOND_TEST_RESTART_KUBELET"
_POD_IMAGE = "BITFUSIOND_TEST_POD_IMAGE"
_IMAGE = "BITFUSIOND_TEST_IMAGE"


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """The node. The test is skipped unless all that it needs is there."""
    kubeconfig = os.environ.get("KUBECONFIG")
    if not kubeconfig or os.geteuid() != 0 or not (DIRECTORY / "kubelet.sock").exists():
        pytest.skip(_HOW)
    with config.new_client_from_config(kubeconfig) as api:  # type: ignore[no-untyped-call]
        core: Any = client.CoreV1Api(api)
        names = [each.metadata.name for each in core.list_node().items]
        if len(names) != 1:
            pytest.skip(f"{_HOW}; KUBECONFIG names a cluster of {len(names)} nodes")
        image = os.environ.get(_POD_IMAGE, "busybox:stable")
        yield Node(names[0], core, client.AppsV1Api(api), image, os.environ.get(_RESTART))


@pytest.fixture
def restartable(node: Node) -> Node:
    """The node, for a test that restarts its kubelet."""
    if node.restart_command is None:
        pytest.skip(f"set {_RESTART} to a command that restarts this machine's kubelet to run this")
    return node


@pytest.fixture(scope="session")
def image() -> str:
    """An image with bitfusiond that the node has."""
    found = os.environ.get(_IMAGE)
    if not found:
        pytest.skip(f"set {_IMAGE} to the name of an image of bitfusiond that the node has to run this")
    return found


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Plugin]:
    """The plugin as a process of this machine, not started yet; stopped at the end."""
    plugin = Plugin(tmp_path / "plugin.log")
    yield plugin
    plugin.end()
