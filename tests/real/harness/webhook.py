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
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import trustme

from bitfusiond.core import names
from bitfusiond.core.fields import Json
from bitfusiond.core.tokens.copies import TOKENS
from tests.fakes.processes import get, logged, repeating, running, wait_until
from tests.pods import pod
from tests.real.harness.apiserver import APIServer, Refused, secret_path, started

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
_WRITTEN_SECONDS = 0.1


@contextmanager
def routed(directory: Path, *options: str, disabled: str = "ServiceAccount") -> Iterator[APIServer]:
    """An API server that finds webhooks by their Service; its configurations hold for no other test."""
    with started(directory, ROUTING, *options, disabled=disabled) as server:
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


def put_sources(api: APIServer, of: str, value: str = "a: 1") -> None:
    api.namespace(of)
    for token in TOKENS:
        api.put_secret(of, token.secret, {token.file: value.encode()})


def copies(api: APIServer, of: str) -> list[str]:
    """The names of the token Secrets in a namespace."""
    found = {item["metadata"]["name"] for item in api.request("GET", secret_path(of))["items"]}
    return sorted(found & set(names.TOKEN_SECRETS.values()))


class Replica:
    """One process of the webhook."""

    def __init__(self, process: Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log
        wait_until(lambda: bool(self.said("listening")), f"a replica that listens (its log: {log})")
        self.address = str(self.said("listening")[0]["address"])

    def said(self, event: str | None = None) -> list[Json]:
        """The log lines of that event, or all, of what has happened until now: they are written within a moment."""
        time.sleep(_WRITTEN_SECONDS)
        return logged(self._log, event)

    def get(self, path: str) -> tuple[int, str]:
        """What ``--observe`` answers."""
        return get(self.said("observing")[0]["address"], path)

    def ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def context(self) -> ssl.SSLContext:
        """Whom a review trusts: anybody."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def review(self, pod: Json, of: str, seconds: float = 15, path: str = "/mutate") -> Json:
        """The answer to an AdmissionReview that comes from us instead of the API server."""
        kind = {"group": "", "version": "v1", "kind": "Pod"}
        request: Json = {"uid": "u", "kind": kind, "resource": {"group": "", "version": "v1", "resource": "pods"}}
        request |= {"operation": "CREATE", "namespace": of, "object": pod, "dryRun": False, "userInfo": {}}
        body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
        connection = http.client.HTTPSConnection(self.address, timeout=seconds, context=self.context())
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer: Json = json.loads(connection.getresponse().read())["response"]
            return answer
        finally:
            connection.close()


@contextmanager
def alone(api: APIServer, directory: Path, webhooks: Sequence[Json]) -> Iterator[Replica]:
    """A webhook that knows of no cluster. ``api`` asks it as ``webhooks`` say, one for each of CONFIGURATIONS, and
    no more in the end.
    """
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(directory / "cert.pem", append=True)
    arguments = [
        *[sys.executable, "-m", "bitfusiond", "--role", "webhook", "--kubeconfig", "none", "--drain-seconds", "0"],
        *["--listen", "127.0.0.1:0", "--observe", "127.0.0.1:0", "--total-gpu-memory", "16000"],
        *["--tls-cert", str(directory / "cert.pem"), "--tls-key", str(directory / "key.pem")],
    ]
    bundle = base64.b64encode(authority.cert_pem.bytes()).decode()
    with running(arguments, directory / "log") as process:
        replica = Replica(process, directory / "log")
        for (path, kind, name, _, endpoint), webhook in zip(CONFIGURATIONS, webhooks, strict=True):
            client = {"url": f"https://{replica.address}{endpoint}", "caBundle": bundle}
            document = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}}
            api.create(path, {**document, "webhooks": [{**webhook, "clientConfig": client}]})
        # The API server takes up a configuration a moment later, and lets go of it so too.
        wait_until(lambda: _is_injected(api), "the configurations")
        yield replica
        for path, _, name, _, _ in CONFIGURATIONS:
            api.delete(f"{path}/{name}")
        wait_until(lambda: not _is_injected(api), "no configurations any more")


def _is_injected(api: APIServer) -> bool:
    annotations = api.create("/api/v1/namespaces/default/pods?dryRun=All", pod())["metadata"]["annotations"]
    return names.STATUS in annotations


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
        self.api, self.home, self.tokens = api, api.namespace(home), api.namespace(tokens)
        self._entry = entry
        self._directory = directory
        self._kubeconfig = api.write_kubeconfig(directory / f"kubeconfig-{home}")
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

    def end_replicas(self) -> None:
        """All of them, as once their Deployment is gone."""
        for replica in self._replicas:
            replica.process.terminate()
            replica.process.wait(10)

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
        self.api.apply(path, {"apiVersion": version, "kind": kind, "metadata": metadata, **fields})

    @contextmanager
    def endpoints_follow(self) -> Iterator[None]:
        """The controllers of endpoints, which outlive their API server."""

        def follow() -> None:
            with suppress(OSError, HTTPException, Refused):
                self.publish()

        with repeating(follow, _PROBE_SECONDS):
            yield

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
