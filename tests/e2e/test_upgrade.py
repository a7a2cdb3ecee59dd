"""From a running 0.4 to this: its names, its workloads and its copies go or become ours; no pod that runs notices."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import Cluster, Object
from tests.e2e.conftest import NAMESPACE
from tests.e2e.examples import pod

_RESOURCE = "bitfusion.io/gpu"
_TOKENS = {
    "bitfusion-client-secret-ca.crt": "ca.crt",
    "bitfusion-client-secret-client.yml": "client.yaml",
    "bitfusion-client-secret-servers.conf": "servers.conf",
}


@pytest.fixture
def integration04(cluster: Cluster, tokens: Path) -> Iterator[Cluster]:
    """A stand-in by the names and shapes of 0.4: a webhook that answers nobody, a privileged plugin that works."""
    assert cluster.just("uninstall", NAMESPACE="yes").status == 0
    cluster.wait(lambda: cluster.find("namespace", "bwki") is None, "the end of the namespace")
    assert cluster.just("tokens", str(tokens)).status == 0
    for document in (_object("v1", "Namespace", "bwki"), *_webhook(cluster.pod_image), _plugin(cluster)):
        done = cluster.create(document)
        assert done.status == 0, done.output
    cluster.run("create", "namespace", NAMESPACE)
    for secret, key in _TOKENS.items():
        data = {key: base64.b64encode((tokens / key).read_bytes()).decode()}
        assert cluster.create(_object("v1", "Secret", secret, NAMESPACE, data=data)).status == 0
    cluster.wait(lambda: _allocatable(cluster) == "500", "the devices of 0.4")
    yield cluster
    cluster.run("delete", "namespace", NAMESPACE, "--grace-period=1")
    assert cluster.just("uninstall", NAMESPACE="yes").status == 0


def test_a_running_pod_keeps_its_shares_through_the_upgrade(integration04: Cluster) -> None:
    cluster = integration04
    document = pod("running", NAMESPACE, ["sleep", "600"], cluster.pod_image)
    del document["metadata"]["annotations"]
    document["spec"]["containers"][0]["resources"] = {"limits": {_RESOURCE: "50"}}
    assert cluster.create(document).status == 0
    cluster.wait(lambda: _phase(cluster) == "Running", "the pod runs")
    before = _life(cluster)

    done = cluster.just("deploy", RESOURCE_NUMS="1000")
    assert done.status == 0, done.output

    assert _life(cluster) == before
    cluster.wait(lambda: _allocatable(cluster) == "1k", "the devices of the new plugin")
    assert _life(cluster) == before
    assert cluster.find("daemonset", "bitfusion-cli-device-plugin", "kube-system") is None
    assert cluster.find("clusterrolebinding", "bwki-webhook-deployment") is None
    for secret in _TOKENS:
        labels = cluster.get("secret", secret, NAMESPACE)["metadata"]["labels"]
        assert labels["app.kubernetes.io/managed-by"] == "bitfusiond"
    new = pod("new", NAMESPACE, ["true"], cluster.pod_image, amount=1, percent=50)
    assert cluster.create(new).status == 0
    cluster.ended("new", NAMESPACE)
    assert cluster.just("verify").status == 0


def _allocatable(cluster: Cluster) -> str:
    (node,) = cluster.every("node", "")
    return str(node["status"]["allocatable"].get(_RESOURCE))


def _phase(cluster: Cluster) -> str:
    return str(cluster.get("pod", "running", NAMESPACE)["status"].get("phase"))


def _life(cluster: Cluster) -> tuple[Any, ...]:
    """What changes if the pod is made anew, or a container of it."""
    found = cluster.get("pod", "running", NAMESPACE)
    (status,) = found["status"]["containerStatuses"]
    return found["metadata"]["uid"], status["containerID"], status["restartCount"], found["status"]["phase"]


def _object(version: str, kind: str, name: str, namespace: str | None = None, **fields: Any) -> Object:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}


def _webhook(image: str) -> list[Object]:
    labels = {"app": "bwki"}
    container = {"name": "bwki", "image": image, "command": ["sleep", "3600"]}
    spec = {"selector": {"matchLabels": labels}, "template": _template(labels, [container])}
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": "bwki"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    service = {"namespace": "bwki", "name": "bwki-webhook-svc", "path": "/mutate"}
    configuration = {
        "name": "bwkimua.bitfusion.io",
        "clientConfig": {"service": service},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        # 0.4's would refuse each pod of the namespaces that it selects; this one never answers.
        "namespaceSelector": {"matchLabels": {"no": "namespace"}},
    }
    ports = [{"port": 443, "targetPort": 8443}]
    return [
        _object("v1", "ConfigMap", "bwki-webhook-configmap", "bwki", data={"sidecarconfig.yaml": "old"}),
        _object("apps/v1", "Deployment", "bitfusion-webhook-deployment", "bwki", spec=spec),
        _object("v1", "Service", "bwki-webhook-svc", "bwki", spec={"ports": ports, "selector": labels}),
        _object(
            "rbac.authorization.k8s.io/v1",
            "ClusterRoleBinding",
            "bwki-webhook-deployment",
            roleRef=role,
            subjects=[subject],
        ),
        _object(
            "admissionregistration.k8s.io/v1beta1",
            "MutatingWebhookConfiguration",
            "bwki-webhook-cfg",
            webhooks=[configuration],
        ),
    ]


def _plugin(cluster: Cluster) -> Object:
    """The name and the privileges of 0.4's, with a program that serves the same resource."""
    container = {
        "name": "plugin",
        "image": f"{cluster.variables['IMAGE_REPO']}/bitfusiond:{cluster.variables['IMAGE_TAG']}",
        "args": ["--role", "plugin", "--resource-nums", "500", "--socket-name", "bitfusion-cli"],
        "securityContext": {"privileged": True, "runAsUser": 0},
        "volumeMounts": [{"name": "sockets", "mountPath": "/var/lib/kubelet/device-plugins"}],
    }
    labels = {"tier": "node"}
    template = _template(labels, [container])
    template["spec"]["volumes"] = [{"name": "sockets", "hostPath": {"path": "/var/lib/kubelet/device-plugins"}}]
    spec = {"selector": {"matchLabels": labels}, "template": template}
    return _object("apps/v1", "DaemonSet", "bitfusion-cli-device-plugin", "kube-system", spec=spec)


def _template(labels: dict[str, str], containers: list[Object]) -> Object:
    spec: Object = {"terminationGracePeriodSeconds": 1, "containers": containers}
    return {"metadata": {"labels": labels}, "spec": spec}
