"""The webhook as an operator installs it: Service, endpoints, configurations and replicas, as processes.

No controller runs beside the API server here, so the tests play the kubelet and the controllers of Endpoints and
EndpointSlices: an address is in both while its replica says that it is ready. With ``ROUTING`` the API server dials
these addresses itself, as it does through kube-proxy in a cluster. Kubernetes 1.20 goes by the Endpoints, 1.37 by the
EndpointSlices.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from bitfusiond.core import names
from bitfusiond.core.tokens.copies import TOKENS
from tests.fakes.processes import running, wait_until
from tests.real.harness.apiserver import APIServer, Refused, started

# The Service of a webhook is resolved to an address of its Endpoints, not to a virtual address that nobody serves here.
ROUTING = "--enable-aggregator-routing=true"
SERVICE = "bwki-webhook-svc"
MUTATING = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
VALIDATING = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
CONFIGURATIONS = (
    (MUTATING, "MutatingWebhookConfiguration", "bwki-webhook-cfg", "bwkimua.bitfusion.io", "/mutate"),
    (VALIDATING, "ValidatingWebhookConfiguration", "validation.bitfusion.io-cfg", "bwkival.bitfusion.io", "/validate"),
)
_PROBE_SECONDS = 0.2

Json = dict[str, Any]


@contextmanager
def routed(directory: Path, *options: str) -> Iterator[APIServer]:
    """An API server that finds webhooks by their Service; its configurations hold for no other test."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets:
        pytest.skip("set KUBEBUILDER_ASSETS to a directory with kube-apiserver and etcd to run this")
    with started(Path(assets), directory, ROUTING, *options) as server:
        yield server


def own_address() -> str:
    """An address of this machine that Endpoints may hold: none of the loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("198.51.100.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address but those of its loopback")
        address: str = sock.getsockname()[0]
        return address


def namespace(api: APIServer, name: str) -> str:
    try:
        api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    except Refused as refused:
        assert refused.code == 409  # noqa: PT017 - it is there already
    return name


def secret_path(of: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{of}/secrets" + (f"/{name}" if name else "")


def put_sources(api: APIServer, of: str, value: str = "a: 1") -> None:
    namespace(api, of)
    encoded = base64.b64encode(value.encode()).decode()
    for token in TOKENS:
        body: Json = {"apiVersion": "v1", "kind": "Secret", "data": {token.file: encoded}}
        body["metadata"] = {"name": token.secret}
        path = f"{secret_path(of, token.secret)}?fieldManager=admin&force=true"
        api.request("PATCH", path, body, "application/apply-patch+yaml")


def copies(api: APIServer, of: str) -> list[str]:
    """The names of the token Secrets in a namespace."""
    found = {item["metadata"]["name"] for item in api.request("GET", secret_path(of))["items"]}
    return sorted(found & set(names.TOKEN_SECRETS.values()))


def write_kubeconfig(path: Path, api: APIServer, token: str | None = None) -> Path:
    document = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": api.url, "certificate-authority": str(api.ca)}}],
        "users": [{"name": "u", "user": {"token": token or api.token}}],
    }
    path.write_text(json.dumps(document))
    return path


class Replica:
    """One process of the webhook."""

    def __init__(self, process: Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log
        wait_until(lambda: bool(self.said("listening")), f"a replica that listens (its log: {log})")
        self.address = str(self.said("listening")[0]["address"])
        self._observe = str(self.said("observing")[0]["address"])

    def logged(self) -> list[Json]:
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.endswith("}")]

    def said(self, event: str) -> list[Json]:
        return [line for line in self.logged() if line["event"] == event]

    def get(self, path: str) -> tuple[int, str]:
        """What ``--observe`` answers."""
        connection = http.client.HTTPConnection(self._observe, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def ready(self) -> bool:
        try:
            return self.get("/readyz")[0] == 200
        except OSError:
            return False

    def review(self, pod: Json, of: str, seconds: float = 15) -> Json:
        """The answer to an AdmissionReview that comes from us instead of the API server."""
        kind = {"group": "", "version": "v1", "kind": "Pod"}
        request: Json = {"uid": "u", "kind": kind, "resource": {"group": "", "version": "v1", "resource": "pods"}}
        request |= {"operation": "CREATE", "namespace": of, "object": pod, "dryRun": False, "userInfo": {}}
        body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(self.address, timeout=seconds, context=context)
        try:
            connection.request("POST", "/mutate", json.dumps(body), {"Content-Type": "application/json"})
            answer: Json = json.loads(connection.getresponse().read())["response"]
            return answer
        finally:
            connection.close()


def _port(number: int) -> Json:
    return {"name": "https", "protocol": "TCP", "port": number}


class Installation:
    """The webhook in one namespace of a cluster. ``entry`` is what Python runs as a replica."""

    def __init__(
        self,
        api: APIServer,
        directory: Path,
        home: str = "bwki",
        tokens: str = "kube-system",
        entry: tuple[str, ...] = ("-m", "bitfusiond"),
    ) -> None:
        self.api, self.home, self.tokens = api, namespace(api, home), namespace(api, tokens)
        self._entry = entry
        self._directory = directory
        self._kubeconfig = write_kubeconfig(directory / f"kubeconfig-{home}", api)
        self._replicas: list[Replica] = []
        self._started = 0
        self._published: list[str] | None = None
        self._discovery: str = api.request("GET", "/apis/discovery.k8s.io")["preferredVersion"]["groupVersion"]

    @contextmanager
    def replica(self, *options: str, kubeconfig: Path | None = None) -> Iterator[Replica]:
        """A replica, perhaps not ready yet; behind the Service once it is."""
        self._started += 1
        log = self._directory / f"log-{self.home}-{self._started}"
        arguments = [
            *[sys.executable, *self._entry, "--role", "webhook", "--kubeconfig", str(kubeconfig or self._kubeconfig)],
            *["--namespace", self.home, "--token-namespace", self.tokens, "--total-gpu-memory", "16000"],
            *["--listen", f"{own_address()}:0", "--observe", "127.0.0.1:0", "--drain-seconds", "0", *options],
        ]
        with running(arguments, log) as process:
            replica = Replica(process, log)
            self._replicas.append(replica)
            try:
                yield replica
            finally:
                self._replicas.remove(replica)

    @contextmanager
    def ready_replica(self, *options: str) -> Iterator[Replica]:
        with self.replica(*options) as replica:
            wait_until(replica.ready, "a replica that is ready")
            yield replica

    def register(self) -> None:
        """The Service and both configurations, as manifests have them: the caBundle is left to the webhook."""
        port = {"name": "https", "port": 443, "targetPort": 8443}
        self.api.create(
            f"/api/v1/namespaces/{self.home}/services", {"metadata": {"name": SERVICE}, "spec": {"ports": [port]}}
        )
        for path, kind, name, webhook, endpoint in CONFIGURATIONS:
            self.api.create(path, self._configuration(kind, name, webhook, endpoint))

    def unregister(self) -> None:
        """Take away what :meth:`register` made, and the certificates."""
        for path, _, name, _, _ in CONFIGURATIONS:
            self.api.request("DELETE", f"{path}/{name}")
        # The API server deletes the Endpoints with it, but not the EndpointSlices.
        self.api.request("DELETE", f"/api/v1/namespaces/{self.home}/services/{SERVICE}")
        self.api.request("DELETE", f"{self._slices}?labelSelector=kubernetes.io/service-name={SERVICE}")
        self.api.request("DELETE", secret_path(self.home, "bwki-webhook-certs"))

    def _configuration(self, kind: str, name: str, webhook: str, endpoint: str) -> Json:
        rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
        entry = {
            "name": webhook,
            "clientConfig": {"service": {"namespace": self.home, "name": SERVICE, "path": endpoint, "port": 443}},
            "rules": [rule],
            "sideEffects": "NoneOnDryRun",
            "admissionReviewVersions": ["v1", "v1beta1"],
            "failurePolicy": "Fail",
            "timeoutSeconds": 10,
        }
        document = {"kind": kind, "metadata": {"name": name}, "webhooks": [entry]}
        return {"apiVersion": "admissionregistration.k8s.io/v1", **document}

    def publish(self) -> None:
        """One round of the controllers of endpoints."""
        addresses = [replica.address for replica in list(self._replicas) if replica.ready()]
        if addresses == self._published:
            return
        places = [(host, int(port)) for host, _, port in (address.rpartition(":") for address in addresses)]
        subsets = [{"addresses": [{"ip": host}], "ports": [_port(port)]} for host, port in places]
        of_service = f"/api/v1/namespaces/{self.home}"
        # The controllers make these for a Service that is there.
        self.api.request("GET", f"{of_service}/services/{SERVICE}")
        self._apply(f"{of_service}/endpoints/{SERVICE}", "v1", "Endpoints", subsets=subsets)
        # All addresses of a slice have the same ports.
        for host, port in places:
            endpoints = [{"addresses": [host], "conditions": {"ready": True}}]
            fields: Json = {"addressType": "IPv4", "endpoints": endpoints, "ports": [_port(port)]}
            self._apply(f"{self._slices}/{SERVICE}-{port}", self._discovery, "EndpointSlice", **fields)
        for address in self._published or ():
            if address not in addresses:
                gone = f"metadata.name={SERVICE}-{address.rpartition(':')[2]}"
                self.api.request("DELETE", f"{self._slices}?fieldSelector={gone}")
        self._published = addresses

    @property
    def _slices(self) -> str:
        return f"/apis/{self._discovery}/namespaces/{self.home}/endpointslices"

    def _apply(self, path: str, version: str, kind: str, **fields: Any) -> None:
        metadata = {"name": path.rpartition("/")[2], "labels": {"kubernetes.io/service-name": SERVICE}}
        document = {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}
        self.api.request("PATCH", f"{path}?fieldManager=tests&force=true", document, "application/apply-patch+yaml")

    @contextmanager
    def endpoints_follow(self) -> Iterator[None]:
        """The controllers of endpoints, which outlive their API server."""
        over = threading.Event()

        def follow() -> None:
            while not over.wait(_PROBE_SECONDS):
                with suppress(OSError, HTTPException, Refused):
                    self.publish()

        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def admits(self, path: str, pod: Mapping[str, Any]) -> bool:
        """Whether the API server has taken up the configurations: it does so a moment after they are written."""
        try:
            stored = self.api.create(f"{path}?dryRun=All", pod)
        except Refused:
            return False
        return names.STATUS in stored["metadata"].get("annotations", {})


@contextmanager
def installed(api: APIServer, directory: Path, *options: str) -> Iterator[tuple[Installation, Replica]]:
    """One replica that is ready and asked for every pod of the cluster, and the sources of the tokens."""
    with ExitStack() as stack:
        installation = Installation(api, directory)
        put_sources(api, installation.tokens)
        installation.register()
        replica = stack.enter_context(installation.ready_replica(*options))
        installation.publish()
        yield installation, replica
