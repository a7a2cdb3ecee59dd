"""A cluster with the integration 0.4 in it: its objects by the names and shapes that it gave them."""

from __future__ import annotations

import base64
from typing import Any

import trustme

from bitfusiond.core.fields import Json
from tests.real.harness.apiserver import APIServer
from tests.real.harness.operator import APPS, REPLICA_SETS, WEBHOOK
from tests.real.harness.webhook import MUTATING, VALIDATING

PLUGIN = f"{APPS}/namespaces/kube-system/daemonsets"
BINDINGS = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
ACCOUNTS = "/api/v1/namespaces/bwki/serviceaccounts"
REPLICA_SET = "bitfusion-webhook-deployment-6dbc6df664"


def install(api: APIServer, ca: trustme.CA, *, total_gpu_memory: str = "16000") -> None:
    """Everything that its `make deploy` makes, and the ReplicaSet that its Deployment then has."""
    api.namespace("bwki")
    bundle = _encoded(ca.cert_pem.bytes())
    api.create(
        "/api/v1/namespaces/bwki/secrets",
        _of("Secret", "bwki-webhook-certs", data={"cert.pem": "eA==", "key.pem": "eA=="}),
    )
    api.create(
        "/api/v1/namespaces/bwki/configmaps",
        _of("ConfigMap", "bwki-webhook-configmap", data={"sidecarconfig.yaml": "old"}),
    )
    maps = _of("ConfigMap", "bwki-bitfusion-client-configmap", data={"bitfusion-client-config.yaml": "old"})
    api.create("/api/v1/namespaces/bwki/configmaps", maps)
    api.create(ACCOUNTS, _of("ServiceAccount", "bwki-webhook-deployment"))
    api.create(BINDINGS, _binding())
    ports = [{"port": 443, "targetPort": 8443}]
    api.create(
        "/api/v1/namespaces/bwki/services",
        _of("Service", "bwki-webhook-svc", spec={"ports": ports, "selector": {"app": "bwki"}}),
    )
    deployment = api.create(
        WEBHOOK.rpartition("/")[0],
        _workload(
            "Deployment", "bitfusion-webhook-deployment", {"app": "bwki"}, {"TOTAL_GPU_MEMORY": total_gpu_memory}
        ),
    )
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "bitfusion-webhook-deployment", "controller": True}
    replicas = _workload("ReplicaSet", REPLICA_SET, {"app": "bwki"}, {})
    replicas["metadata"]["labels"] = {"app": "bwki"}
    replicas["metadata"]["ownerReferences"] = [{**owner, "uid": deployment["metadata"]["uid"]}]
    api.create(REPLICA_SETS, replicas)
    api.create(
        PLUGIN, _workload("DaemonSet", "bitfusion-cli-device-plugin", {"tier": "node"}, {"RESOURCE_NUMS": "700"})
    )
    # 0.4 made the first one by v1beta1, which ended with 1.21: a later cluster has it from before its own upgrade.
    version = "v1beta1" if api.minor < 22 else "v1"
    path = MUTATING.replace("/v1/", f"/{version}/")
    api.create(path, _configuration("MutatingWebhookConfiguration", bundle, version))
    api.create(VALIDATING, _configuration("ValidatingWebhookConfiguration", bundle, "v1"))


def is_left(api: APIServer) -> list[str]:
    """What of it is still there."""
    paths = [
        f"{PLUGIN}/bitfusion-cli-device-plugin",
        f"{BINDINGS}/bwki-webhook-deployment",
        f"{ACCOUNTS}/bwki-webhook-deployment",
        f"{REPLICA_SETS}/{REPLICA_SET}",
    ]
    return [path for path in paths if api.find(path) is not None]


def _of(kind: str, name: str, **fields: Any) -> Json:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **fields}


def _workload(kind: str, name: str, labels: dict[str, str], variables: dict[str, str]) -> Json:
    env = [{"name": key, "value": value} for key, value in variables.items()]
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i:0.4", "env": env}]}}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _binding() -> Json:
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": "bwki"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    return {"metadata": {"name": "bwki-webhook-deployment"}, "roleRef": role, "subjects": [subject]}


def _configuration(kind: str, bundle: str, version: str) -> Json:
    """That of v1beta1 leaves to the API server what that version does not ask for."""
    mutating = kind.startswith("Mutating")
    service = {"namespace": "bwki", "name": "bwki-webhook-svc", "path": "/mutate" if mutating else "/validate"}
    rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    webhook: Json = {
        "name": "bwkimua.bitfusion.io" if mutating else "bwkival.bitfusion.io",
        "clientConfig": {"service": service, "caBundle": bundle},
        "rules": [rule],
    }
    if version == "v1":
        webhook |= {"admissionReviewVersions": ["v1", "v1beta1"], "sideEffects": "None", "timeoutSeconds": 5}
    name = "bwki-webhook-cfg" if mutating else "validation.bitfusion.io-cfg"
    return {
        "apiVersion": f"admissionregistration.k8s.io/{version}",
        "kind": kind,
        "metadata": {"name": name, "labels": {"app": "bwki"}},
        "webhooks": [webhook],
    }


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()
