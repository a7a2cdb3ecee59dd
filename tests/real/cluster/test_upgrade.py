"""From a running 0.4, and from the version before this one, to this: no pod that runs notices.

The names, workloads and copies of 0.4 go or become ours.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.cluster.conftest import NAMESPACE
from tests.real.cluster.examples import pod
from tests.real.harness.cluster import Cluster, Object
from tests.real.harness.load import creating_pods

_RESOURCE = "bitfusion.io/gpu"
_PREVIOUS = "BITFUSIOND_TEST_PREVIOUS"
_RATE = 20.0
_TOKENS = {
    "bitfusion-client-secret-ca.crt": "ca.crt",
    "bitfusion-client-secret-client.yml": "client.yaml",
    "bitfusion-client-secret-servers.conf": "servers.conf",
}


@pytest.fixture
def empty(cluster: Cluster, tokens: Path) -> Iterator[Cluster]:
    """The cluster without us, but with the tokens, and with a namespace for pods."""
    cluster.uninstalled()
    assert cluster.just("tokens", str(tokens)).status == 0
    cluster.run("create", "namespace", NAMESPACE)
    yield cluster
    cluster.clear(NAMESPACE)


@pytest.fixture
def integration04(empty: Cluster, tokens: Path) -> Cluster:
    """A stand-in by the names and shapes of 0.4: a webhook that answers nobody, a privileged plugin that works."""
    for document in (_object("v1", "Namespace", "bwki"), *_webhook(empty), _plugin(empty)):
        done = empty.create(document)
        assert done.status == 0, done.output
    for secret, key in _TOKENS.items():
        data = {key: base64.b64encode((tokens / key).read_bytes()).decode()}
        assert empty.create(_object("v1", "Secret", secret, NAMESPACE, data=data)).status == 0
    empty.wait(lambda: _allocatable(empty) == "500", "the devices of 0.4")
    return empty


def test_a_running_pod_keeps_its_shares_through_the_upgrade(integration04: Cluster) -> None:
    cluster = integration04
    document = pod("running", NAMESPACE, ["sleep", "600"], cluster.pod_image)
    del document["metadata"]["annotations"]
    document["spec"]["containers"][0]["resources"] = {"limits": {_RESOURCE: "50"}}
    before = cluster.started(document)

    done = cluster.just("deploy", RESOURCE_NUMS="1000")
    assert done.status == 0, done.output

    assert cluster.life("running", NAMESPACE) == before
    cluster.wait(lambda: _allocatable(cluster) == "1k", "the devices of the new plugin")
    assert cluster.life("running", NAMESPACE) == before
    assert cluster.find("daemonset", "bitfusion-cli-device-plugin", "kube-system") is None
    assert cluster.find("clusterrolebinding", "bwki-webhook-deployment") is None
    for secret in _TOKENS:
        labels = cluster.get("secret", secret, NAMESPACE)["metadata"]["labels"]
        assert labels["app.kubernetes.io/managed-by"] == "bitfusiond"
    _works(cluster)


def _works(cluster: Cluster) -> None:
    new = pod("new", NAMESPACE, ["true"], cluster.pod_image, amount=1, percent=50)
    assert cluster.create(new).status == 0
    cluster.ended("new", NAMESPACE)
    done = cluster.just("verify")
    assert done.status == 0, done.output


@pytest.fixture
def previous(empty: Cluster) -> Cluster:
    """The version before this one, deployed by its own sources, from its own images."""
    sources = os.environ.get(_PREVIOUS)
    if not sources:
        pytest.skip(
            f"set {_PREVIOUS} to DIR/previous/checkout of `python -m tests.real.images DIR --previous`, whose images"
            " the node has with the tag previous, to run this"
        )
    assert _deploy_previous(empty) == ""
    return empty


def _deploy_previous(cluster: Cluster) -> str:
    """What went wrong."""
    done = cluster.just("deploy", sources=Path(os.environ[_PREVIOUS]), IMAGE_TAG="previous")
    return done.output if done.status else ""


def test_over_the_version_before_and_down_again_no_pod_is_refused_and_none_that_runs_notices(
    previous: Cluster, tmp_path: Path
) -> None:
    cluster = previous
    before = cluster.started(pod("running", NAMESPACE, ["sleep", "600"], cluster.pod_image, amount=1, percent=50))
    with creating_pods(cluster.door(tmp_path), NAMESPACE, _RATE, stored_every=0) as load:
        done = cluster.just("deploy")
    assert done.status == 0, done.output
    print(load.summary())
    assert load.failures == []
    for home in ("bwki", "kube-system"):
        assert _images(cluster, home) == {cluster.variables["IMAGE_TAG"]}
    assert cluster.life("running", NAMESPACE) == before
    _works(cluster)
    with creating_pods(cluster.door(tmp_path), NAMESPACE, _RATE, stored_every=0) as load:
        assert _deploy_previous(cluster) == ""
    assert load.failures == []
    assert _images(cluster, "bwki") == {"previous"}
    assert cluster.life("running", NAMESPACE) == before
    assert cluster.just("deploy").status == 0  # an uninstall by these sources then knows all that there is


def _images(cluster: Cluster, namespace: str) -> set[str]:
    """The tags of those that our pods run from, but for the ones that end."""
    pods = cluster.every("pod", namespace, "app.kubernetes.io/part-of=bitfusiond")
    staying = [each["spec"] for each in pods if "deletionTimestamp" not in each["metadata"]]
    return {container["image"].rpartition(":")[2] for spec in staying for container in spec["containers"]}


def _allocatable(cluster: Cluster) -> str:
    (node,) = cluster.every("node", "")
    return str(node["status"]["allocatable"].get(_RESOURCE))


def _object(version: str, kind: str, name: str, namespace: str | None = None, **fields: Any) -> Object:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}


def _webhook(cluster: Cluster) -> list[Object]:
    # 0.4 made it by v1beta1, which ended with 1.21: a later cluster has it from before its own upgrade.
    version = "v1beta1" if cluster.minor < 22 else "v1"
    labels = {"app": "bwki"}
    container = {"name": "bwki", "image": cluster.pod_image, "command": ["sleep", "3600"]}
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
        "admissionReviewVersions": ["v1beta1"],
        "sideEffects": "None",
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
            f"admissionregistration.k8s.io/{version}",
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
