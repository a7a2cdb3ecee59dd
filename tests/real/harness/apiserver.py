"""etcd and kube-apiserver for a test session: RBAC on, no kubelet; pods are admitted and stored, never run."""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from bitfusiond.core.fields import Json
from tests.fakes.processes import free_port, frozen, running, wait_until
from tests.real.harness import programs

_ADMIN_TOKEN = "admin-of-the-tests"
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
CORE = "/api/v1"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


class Program:
    """A process that can be started again."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self._arguments = arguments
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(self._arguments, stdout=output, stderr=output)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        assert self._process is not None, "it was started"
        with frozen(self._process):
            yield


@dataclass(frozen=True, slots=True)
class Door:
    """How a client comes into an API server: where it is, and by what it is known."""

    url: str
    context: ssl.SSLContext
    headers: dict[str, str] = field(default_factory=dict)

    def connect(self) -> http.client.HTTPSConnection:
        place = urlsplit(self.url)
        return http.client.HTTPSConnection(place.hostname or "", place.port, timeout=30, context=self.context)


@dataclass(frozen=True, slots=True)
class APIServer:
    """A running API server: ``request`` speaks to it as an administrator."""

    url: str
    ca: Path
    token: str
    program: Program = field(repr=False)

    def request(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        """The answer's JSON. Raises :class:`Refused` for any status from 400 on."""
        data = None if body is None else json.dumps(body).encode()
        door = self.door
        headers = {**door.headers, "Content-Type": content_type}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, context=door.context, timeout=30) as answer:
                text = answer.read()
                return json.loads(text) if text.startswith(b"{") else text.decode()
        except urllib.error.HTTPError as error:
            text = error.read()
            raise Refused(
                error.code, json.loads(text) if text.startswith(b"{") else {"message": text.decode()}
            ) from None

    @property
    def door(self) -> Door:
        """As an administrator."""
        context = ssl.create_default_context(cafile=str(self.ca)) if self.ca.exists() else ssl.create_default_context()
        context.check_hostname = False
        return Door(self.url, context, {"Authorization": f"Bearer {self.token}"})

    @property
    def minor(self) -> int:
        """Of its version: 20 for 1.20.2."""
        return programs.minor_version(self.request("GET", "/version")["gitVersion"])

    def create(self, path: str, document: Any) -> Any:
        return self.request("POST", path, document)

    def apply(self, path: str, document: Json, manager: str = "admin") -> Any:
        """Server-side, and whatever others own of it."""
        return self.request("PATCH", f"{path}?fieldManager={manager}&force=true", document, APPLY)

    def put(self, document: Json) -> None:
        """Apply an object, wherever it belongs."""
        group = f"/apis/{document['apiVersion']}" if "/" in document["apiVersion"] else CORE
        namespace = document["metadata"].get("namespace")
        place = f"{group}/namespaces/{namespace}" if namespace else group
        plural = re.sub("y$", "ie", document["kind"].lower()) + "s"
        self.apply(f"{place}/{plural}/{document['metadata']['name']}", document)

    def merge(self, path: str, changes: Json) -> Any:
        return self.request("PATCH", path, changes, MERGE)

    def find(self, path: str) -> Any:
        """The object, None where there is none."""
        try:
            return self.request("GET", path)
        except Refused as refused:
            if refused.code != 404:
                raise
            return None

    def delete(self, path: str) -> None:
        """Also where there is none."""
        try:
            self.request("DELETE", path)
        except Refused as refused:
            if refused.code != 404:
                raise

    def namespace(self, name: str) -> str:
        """Make it, unless it is there; its name."""
        self.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        return name

    def put_secret(self, of: str, name: str, data: Mapping[str, bytes]) -> None:
        """Make it, or put ``data`` over what is there."""
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        metadata = {"name": name, "namespace": of}
        self.put({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": encoded})

    def secret(self, of: str, name: str) -> dict[str, bytes]:
        """What it holds; nothing where there is none."""
        found = self.find(secret_path(of, name)) or {}
        return {key: base64.b64decode(value) for key, value in found.get("data", {}).items()}

    def account(self, of: str, name: str, rules: list[Json]) -> str:
        """A new ServiceAccount that may do what ``rules`` say everywhere; its token."""
        self.create(f"{CORE}/namespaces/{of}/serviceaccounts", {"metadata": {"name": name}})
        self.create(f"{RBAC}/clusterroles", {"metadata": {"name": name}, "rules": rules})
        self.bind(f"{RBAC}/clusterrolebindings", name, ("ClusterRole", name), (of, name))
        return self.token_of(of, name)

    def bind(self, path: str, name: str, role: tuple[str, str], account: tuple[str, str]) -> None:
        """A binding at ``path``: the role by kind and name, the ServiceAccount by namespace and name."""
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": role[0], "name": role[1]}
        subject = {"kind": "ServiceAccount", "namespace": account[0], "name": account[1]}
        self.create(path, {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]})

    def token_of(self, of: str, account: str) -> str:
        """A day's token of a ServiceAccount."""
        path = f"{CORE}/namespaces/{of}/serviceaccounts/{account}/token"
        token: str = self.create(path, {"spec": {"expirationSeconds": 86400}})["status"]["token"]
        return token

    def write_kubeconfig(self, path: Path, token: str = "") -> Path:
        """An administrator's, or that of whom ``token`` belongs to."""
        document = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": self.url, "certificate-authority": str(self.ca)}}],
            "users": [{"name": "u", "user": {"token": token or self.token}}],
        }
        path.write_text(json.dumps(document))
        return path

    def healthy(self) -> bool:
        try:
            return bool(self.request("GET", "/readyz") == "ok")
        except (OSError, Refused):
            return False

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Without the API server, as after its machine lost power; etcd keeps everything. Afterwards it is back."""
        self.program.kill()
        try:
            yield
        finally:
            self.program.start()
            wait_until(self.healthy, "the API server, again", 60)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """An API server whose connections stand and which answers nothing."""
        with self.program.frozen():
            yield


class Refused(Exception):  # noqa: N818 - an answer, not an error
    """What the API server said no with: a Status object."""

    def __init__(self, code: int, status: dict[str, Any]) -> None:
        super().__init__(status.get("message"))
        self.code = code
        self.status = status


def secret_path(of: str, name: str = "") -> str:
    return f"{CORE}/namespaces/{of}/secrets" + (f"/{name}" if name else "")


@contextmanager
def started(directory: Path, *options: str, disabled: str = "ServiceAccount") -> Iterator[APIServer]:
    """An API server with its state in ``directory`` and more ``options`` of its own. Skips without its programs.

    ``disabled`` is an admission plugin: that of service accounts wants one in each namespace, which a controller makes.
    """
    assets = programs.assets()
    client, peer, secure = free_port(), free_port(), free_port()
    (directory / "tokens").write_text(f"{_ADMIN_TOKEN},admin,1,system:masters\n")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.TraditionalOpenSSL
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (directory / "service-accounts.key").write_bytes(pem)
    etcd = [
        str(assets / "etcd"),
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{client}",
        f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        "--unsafe-no-fsync",
    ]
    apiserver = [
        str(assets / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{client}",
        "--bind-address=127.0.0.1",
        f"--secure-port={secure}",
        f"--cert-dir={directory}",
        "--endpoint-reconciler-type=none",
        "--authorization-mode=RBAC",
        f"--token-auth-file={directory / 'tokens'}",
        "--service-account-issuer=https://tests.example",
        f"--service-account-key-file={directory / 'service-accounts.key'}",
        f"--service-account-signing-key-file={directory / 'service-accounts.key'}",
        *([f"--disable-admission-plugins={disabled}"] if disabled else []),
        *options,
    ]
    program = Program(apiserver, directory / "apiserver.log")
    server = APIServer(f"https://127.0.0.1:{secure}", directory / "apiserver.crt", _ADMIN_TOKEN, program)
    with running(etcd, directory / "etcd.log"):
        program.start()
        try:
            wait_until(server.healthy, f"the API server (its log: {directory / 'apiserver.log'})", 60)
            yield server
        finally:
            program.kill()
