"""Tokens that the operator changes reach every namespace by themselves."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.real.cluster.examples import pod
from tests.real.harness.cluster import Cluster


def test_a_new_pod_sees_the_new_token(deployed: Cluster, namespace: str, tokens: Path, tmp_path: Path) -> None:
    read = ["cat", "/root/.bitfusion/client.yaml"]
    assert deployed.create(pod("before", namespace, read, deployed.pod_image, amount=1)).status == 0
    deployed.ended("before", namespace, "token: of-the-tests")
    newer = tmp_path / "tokens"
    shutil.copytree(tokens, newer)
    (newer / "client.yaml").write_text("token: newer\n")
    source = ("secret", "bitfusion-client-secret-client.yml")
    try:
        assert deployed.just("tokens", str(newer)).status == 0
        wanted = deployed.get(*source, "kube-system")["data"]
        deployed.wait(lambda: deployed.get(*source, namespace)["data"] == wanted, "the copy follows", 10)
        assert deployed.create(pod("after", namespace, read, deployed.pod_image, amount=1)).status == 0
        deployed.ended("after", namespace, "token: newer")
    finally:
        assert deployed.just("tokens", str(tokens)).status == 0
