"""``just deploy`` and ``just verify`` on a cluster that has nothing wrong."""

from __future__ import annotations

from tests.real.harness.cluster import Cluster

_NAMES = (
    "bwki",
    "bitfusion-webhook-deployment",
    "bwki-webhook-configmap",
    "bwki-bitfusion-client-configmap",
    "bwki-webhook-svc",
    "bwki-webhook-cfg",
    "validation.bitfusion.io-cfg",
    "bitfusion-device-plugin",
)


def test_verify_finds_nothing_wrong_and_names_every_object(deployed: Cluster) -> None:
    done = deployed.just("verify")
    assert done.status == 0, done.output
    for name in _NAMES:
        assert name in done.output


def test_a_second_deploy_changes_nothing(deployed: Cluster) -> None:
    before = _versions(deployed)
    done = deployed.just("deploy")
    assert done.status == 0, done.output
    assert _versions(deployed) == before


def _versions(cluster: Cluster) -> dict[str, str]:
    """What only a change of an object moves: generations, and versions of what has none."""
    found = {}
    for kind, namespace in (
        ("deployment,daemonset,service,configmap,secret,serviceaccount,role,rolebinding,networkpolicy", ""),
        ("clusterrole,clusterrolebinding,priorityclass", ""),
        ("mutatingwebhookconfiguration,validatingwebhookconfiguration", ""),
    ):
        for each in cluster.every(kind, namespace, "app.kubernetes.io/part-of=bitfusiond"):
            meta = each["metadata"]
            key = f"{each['kind']} {meta.get('namespace', '')}/{meta['name']}"
            found[key] = str(meta.get("generation", meta["resourceVersion"]))
    assert len(found) > 10
    return found


def test_the_webhook_keeps_to_pod_security_restricted(deployed: Cluster) -> None:
    for each in deployed.every("pod", "bwki"):
        spec = each["spec"]
        (container,) = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert each["status"]["phase"] == "Running"
