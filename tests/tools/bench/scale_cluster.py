"""The cluster of ``just bench scale``: objects by the thousand, no kubelet; and one replica as it is deployed."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import trustme
import yaml

from bitfusiond.core import names
from bitfusiond.core.fields import Json
from tests import MANIFESTS
from tests.fakes.processes import wait_until
from tests.pods import example
from tests.real.harness import grants
from tests.real.harness.apiserver import APIServer, Refused, started
from tests.real.harness.webhook import CONFIGURATIONS, ROUTING, Installation, Replica, put_sources
from tests.tools.bench import clients
from tests.tools.bench.clients import Request

OURS, FLOOR, NOBODY = "ours", "floor", "nobody"
_LABEL = "asks"
_RBAC = MANIFESTS / "base" / "webhook-rbac.yaml"
_ACCOUNT = "bitfusion-webhook-deployment"
_USER = f"system:serviceaccount:{names.NAMESPACE}:{_ACCOUNT}"
# What we ask for by the clock, whatever happens: lists every ten minutes, watches that the API server ended, and once
# a minute the certificates.
_BY_THE_CLOCK = {"list", "watch"}
_CERTIFICATES = {"bwki-webhook-certs", *(name for _, _, name, _, _ in CONFIGURATIONS)}
_CONNECTIONS = 8


class ScaleCluster:
    """An API server that asks one webhook or another, or none, by a label of the pod."""

    def __init__(self, api: APIServer, directory: Path, namespaces: int) -> None:
        self.api = api
        self._audit_log = directory / "audit.log"
        self._teams = [f"team-{number}" for number in range(namespaces)]
        self.installation = Installation(api, directory)
        put_sources(api, self.installation.tokens)
        for document in yaml.safe_load_all(_RBAC.read_text()):
            api.put(document)
        self._kubeconfig = api.write_kubeconfig(directory / "kubeconfig", api.token_of(names.NAMESPACE, _ACCOUNT))
        self.installation.register()
        for path, _, name, _, _ in CONFIGURATIONS:
            selector = {"op": "add", "path": "/webhooks/0/objectSelector", "value": _selector(OURS)}
            api.request("PATCH", f"{path}/{name}", [selector], "application/json-patch+json")

    @contextmanager
    def replica(self) -> Iterator[Replica]:
        """A replica under the ServiceAccount's permissions, ready, and it knows the nodes."""
        with self.installation.replica(kubeconfig=self._kubeconfig) as replica:
            wait_until(replica.ready, "a replica that is ready", 60)
            synced = 'bitfusiond_watch_synced{watch="nodes"} 1.0'
            wait_until(lambda: synced in replica.get("/metrics")[1], "the list of all nodes", 120)
            yield replica

    def make_nodes(self, count: int) -> clients.Result:
        return self._once([Request("POST", "/api/v1/nodes", json.dumps(node(number))) for number in range(count)])

    def make_namespaces(self) -> clients.Result:
        made = [json.dumps({"metadata": {"name": name}}) for name in self._teams]
        return self._once([Request("POST", "/api/v1/namespaces", body) for body in made])

    def heartbeats(self, count: int) -> clients.Result:
        """The status of ``count`` nodes written as a kubelet does every five minutes: only the times are new."""
        conditions = [{"type": each["type"], "lastHeartbeatTime": _now()} for each in node(0)["status"]["conditions"]]
        body = json.dumps({"status": {"conditions": conditions}})
        kind = "application/strategic-merge-patch+json"
        return self._once(
            [Request("PATCH", f"/api/v1/nodes/{_name(number)}/status", body, kind) for number in range(count)]
        )

    def node_bytes(self) -> int:
        """The size of a Node as a watch sends it."""
        return len(json.dumps(self.api.request("GET", f"/api/v1/nodes/{_name(0)}"), separators=(",", ":")))

    def create_pods(self, asked: str, *, opted_in: bool, connections: int, seconds: float) -> clients.Result:
        """Pods in all namespaces in turn, as fast as they are taken."""
        return clients.run(self.api, self._pods(asked, opted_in=opted_in), connections, seconds)

    def create_first_pods(self) -> clients.Result:
        """One pod that is ours in each namespace."""
        return self._once(self._pods(OURS, opted_in=True))

    def _pods(self, asked: str, *, opted_in: bool) -> list[Request]:
        body = json.dumps(pod(asked, opted_in=opted_in))
        return [Request("POST", f"/api/v1/namespaces/{team}/pods", body) for team in self._teams]

    def _once(self, requests: list[Request]) -> clients.Result:
        return clients.run(self.api, requests, _CONNECTIONS)

    def asked_for(self) -> Counter[str]:
        """Requests of the replica so far, from the audit log: those ``by the clock`` and the ``others``."""
        counted: Counter[str] = Counter()
        for request in grants.requests(self._audit_log, _USER):
            clockwork = request.verb in _BY_THE_CLOCK or request.name in _CERTIFICATES
            counted["by the clock" if clockwork else "others"] += 1
        return counted

    def webhook_seconds(self) -> dict[str, tuple[float, float]]:
        """By path, how long the API server waited for us in all, and how many times."""
        found: dict[str, tuple[float, float]] = {}
        lines = str(self.api.request("GET", "/metrics")).splitlines()
        for _, _, _, webhook, path in CONFIGURATIONS:
            totals = [
                sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name) and f'"{webhook}"' in line)
                for name in (
                    f"apiserver_admission_webhook_admission_duration_seconds_{end}" for end in ("sum", "count")
                )
            ]
            found[path] = (totals[0], totals[1])
        return found

    def configure_floor(self, port: int, ca: bytes) -> None:
        """Have the webhook at ``port`` asked, in both ways, about pods with its label."""
        for path, kind, _, webhook, _ in CONFIGURATIONS:
            entry = {
                "name": f"floor-{webhook}",
                "clientConfig": {"url": f"https://127.0.0.1:{port}/", "caBundle": base64.b64encode(ca).decode()},
                "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
                "objectSelector": _selector(FLOOR),
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }
            version = "admissionregistration.k8s.io/v1"
            self.api.create(
                path, {"apiVersion": version, "kind": kind, "metadata": {"name": "floor"}, "webhooks": [entry]}
            )

    def injects(self) -> bool:
        """Whether the API server has taken up our configurations, and a pod comes out injected."""
        path = f"/api/v1/namespaces/{self._teams[0]}/pods?dryRun=All"
        try:
            stored = self.api.create(path, pod(OURS, opted_in=True))
        except Refused:
            return False
        return names.STATUS in stored["metadata"]["annotations"]


@contextmanager
def cluster(directory: Path, namespaces: int) -> Iterator[ScaleCluster]:
    """etcd and kube-apiserver, with an audit log of what our ServiceAccount asks for and nothing else."""
    policy = directory / "audit-policy"
    rules = [{"level": "Metadata", "users": [_USER]}, {"level": "None"}]
    policy.write_text(json.dumps({**grants.POLICY, "rules": rules}))
    audit = [f"--audit-policy-file={policy}", f"--audit-log-path={directory / 'audit.log'}"]
    with started(directory, ROUTING, *audit) as api:
        yield ScaleCluster(api, directory, namespaces)


@contextmanager
def floor(directory: Path) -> Iterator[tuple[int, bytes]]:
    """The webhook that allows everything: its port and its CA."""
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    certificate, key = directory / "floor.crt", directory / "floor.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(str(key))
    command = [sys.executable, "-m", "tests.tools.bench.webhook_allow", str(certificate), str(key)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), authority.cert_pem.bytes()
        finally:
            process.kill()


def pod(asked: str, *, opted_in: bool) -> Json:
    """The README's pod under a name that the API server makes, or the same without a word about us."""
    made = example("pod")
    annotations = made["metadata"]["annotations"] if opted_in else {}
    made["metadata"] = {"generateName": "train-", "labels": {_LABEL: asked}, "annotations": annotations}
    if not opted_in:
        del made["spec"]["containers"][0]["resources"]
    return made


def node(number: int) -> Json:
    """A Node of some 6 kB: labels, conditions and images as a kubelet writes them, and 1,000 shares."""
    name = _name(number)
    amounts = {"cpu": "64", "memory": "263856920Ki", "ephemeral-storage": "1844284980Ki", "pods": "110"}
    amounts |= {"hugepages-2Mi": "0", names.GPU: "1000"}
    healthy = {"Ready": "True", "MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False"}
    conditions = [
        {
            "type": kind,
            "status": status,
            "reason": f"KubeletReports{kind}",
            "message": f"kubelet reports {kind}",
            "lastHeartbeatTime": _now(),
            "lastTransitionTime": _now(),
        }
        for kind, status in healthy.items()
    ]
    images = [
        {"names": [f"registry.example/team/image-{each}@sha256:{each:064x}", f"registry.example/team/image-{each}:1"]}
        | {"sizeBytes": 10**8 + each}
        for each in range(20)
    ]
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    labels |= {f"example.com/label-{each}": f"value-{each}" for each in range(10)}
    status: Json = {"capacity": amounts, "allocatable": amounts, "conditions": conditions, "images": images}
    status["addresses"] = [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": name}]
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "status": status}


def _name(number: int) -> str:
    return f"node-{number:05}.example"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _selector(asked: str) -> Json:
    return {"matchLabels": {_LABEL: asked}}
