"""etcd and kube-apiserver for a test session: RBAC on, no kubelet; pods are admitted and stored, never run."""

from __future__ import annotations

import http.client
import json
import signal
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.fakes.processes import free_port, running, wait_until
from tests.real.harness.version import minor_version

_ADMIN_TOKEN = "admin-of-the-tests"


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

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)


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
        return minor_version(self.request("GET", "/version")["gitVersion"])

    def create(self, path: str, document: Any) -> Any:
        return self.request("POST", path, document)

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
        self.program.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.program.signal(signal.SIGCONT)


class Refused(Exception):  # noqa: N818 - an answer, not an error
    """What the API server said no with: a Status object."""

    def __init__(self, code: int, status: dict[str, Any]) -> None:
        super().__init__(status.get("message"))
        self.code = code
        self.status = status


@contextmanager
def started(assets: Path, directory: Path, *options: str) -> Iterator[APIServer]:
    """An API server with the programs of ``assets``, its state in ``directory``, and more ``options`` of its own."""
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
        "--disable-admission-plugins=ServiceAccount",
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
