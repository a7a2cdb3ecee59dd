"""A ResourceQuota on ``requests.bitfusion.io/gpu`` counts shares, however a pod asked for them."""

from __future__ import annotations

import yaml

from tests import EXAMPLES
from tests.real.cluster.examples import pod
from tests.real.harness.cluster import Cluster

_KEY = "requests.bitfusion.io/gpu"


def test_two_halves_fill_the_readmes_quota_and_the_third_is_refused(deployed: Cluster, namespace: str) -> None:
    quota = yaml.safe_load((EXAMPLES / "quota.yaml").read_text())
    name = quota["metadata"]["name"]
    assert deployed.create(quota).status == 0

    def used() -> tuple[str, str]:
        status = deployed.get("quota", name, namespace).get("status", {})
        return status.get("used", {}).get(_KEY, ""), status.get("hard", {}).get(_KEY, "")

    deployed.wait(lambda: used() == ("0", "100"), "the quota")
    sleep = ["sleep", "60"]
    half = pod("percent", namespace, sleep, deployed.pod_image, amount=1, percent=50)
    assert deployed.create(half).status == 0
    deployed.wait(lambda: used() == ("50", "100"), "50 of 100")
    half = pod("memory", namespace, sleep, deployed.pod_image, amount=1, memory="8000M")
    assert deployed.create(half).status == 0
    deployed.wait(lambda: used() == ("100", "100"), "100 of 100")
    refused = deployed.create(pod("third", namespace, sleep, deployed.pod_image, amount=1, percent=50))
    assert refused.status != 0
    assert f"exceeded quota: {name}" in refused.output
    assert f"requested: {_KEY}=50" in refused.output
