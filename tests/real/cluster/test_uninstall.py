"""``just uninstall`` takes all of ours away and nothing else; also where half of it is gone already."""

from __future__ import annotations

from pathlib import Path

from tests.real.cluster.examples import pod
from tests.real.harness.cluster import Cluster

_TOKENS = (
    "bitfusion-client-secret-ca.crt",
    "bitfusion-client-secret-client.yml",
    "bitfusion-client-secret-servers.conf",
)
_OURS = (
    "deployment,daemonset,service,configmap,serviceaccount,role,rolebinding,networkpolicy,"
    "clusterrole,clusterrolebinding,priorityclass,mutatingwebhookconfiguration,validatingwebhookconfiguration"
)


def test_uninstall_leaves_the_tokens_and_running_pods_and_nothing_else(
    deployed: Cluster, namespace: str, tokens: Path
) -> None:
    sleeper = pod("sleeper", namespace, ["sleep", "300"], deployed.pod_image, amount=1, percent=50)
    assert deployed.create(sleeper).status == 0
    deployed.wait(lambda: deployed.get("pod", "sleeper", namespace)["status"]["phase"] == "Running", "it runs")
    deployed.scale_webhook(0)  # half broken
    deployed.delete("service", "bwki-webhook-svc", "bwki")
    done = deployed.just("uninstall")
    assert done.status == 0, done.output
    assert [each["metadata"]["name"] for each in _left(deployed)] == []
    assert [name for name in _TOKENS if deployed.find("secret", name, namespace)] == []
    assert all(deployed.find("secret", name, "kube-system") for name in _TOKENS)
    assert deployed.get("pod", "sleeper", namespace)["status"]["phase"] == "Running"
    again = deployed.just("uninstall")
    assert again.status == 0, again.output
    plain = deployed.create(_plain(namespace, deployed.pod_image))
    assert plain.status == 0, plain.output
    assert deployed.just("uninstall", NAMESPACE="yes").status == 0
    deployed.wait(lambda: deployed.find("namespace", "bwki") is None, "the end of the namespace")


def _left(cluster: Cluster) -> list[dict[str, dict[str, str]]]:
    return cluster.every(_OURS, "", "app.kubernetes.io/part-of=bitfusiond")


def _plain(namespace: str, image: str) -> dict[str, object]:
    document = pod("plain", namespace, ["true"], image)
    del document["metadata"]["annotations"]
    document["spec"]["containers"][0]["resources"] = {}
    return document
