"""A real registry as a process, images put into it, and tokens as its token server signs them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import Popen
from typing import Any
from urllib.parse import urljoin

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from tests.fakes.images import Document
from tests.fakes.pki import Pki
from tests.fakes.processes import free_port, running, wait_until

PROGRAM = "BITFUSIOND_TEST_REGISTRY"
# As `htpasswd -nbBC 4 ann word` writes it.
HTPASSWD = "ann:$2b$04$U1hDsbbme6G7Mb2nCGoz0OPujlUQow9K0hSmLQYk.Y9Ua/PNgiv6G\n"
ISSUER, AUDIENCE = "the tests", "the registry"


def program() -> str:
    """The registry's. Skips the test where there is none."""
    found = os.environ.get(PROGRAM) or shutil.which("docker-registry")
    if not found:
        pytest.skip(
            f"set {PROGRAM} to a registry's program to run this: /usr/bin/docker-registry of Debian's package, or what"
            " `go install github.com/distribution/distribution/v3/cmd/registry@latest` makes"
        )
    return found


class Store:
    """The images of registries that come and go: each process serves what the one before was given."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._number = 0

    @contextmanager
    def serving(
        self, auth: Mapping[str, Any] | None = None, pki: Pki | None = None
    ) -> Iterator[tuple[str, Popen[bytes]]]:
        """A registry: its address, and its process. ``auth`` as in its configuration."""
        address = f"127.0.0.1:{free_port()}"
        self._number += 1
        http: dict[str, Any] = {"addr": address, "secret": "of the tests"}
        if pki is not None:
            http["tls"] = {"certificate": str(pki.cert), "key": str(pki.key)}
        document = {
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": str(self.directory / "store")}},
            "http": http,
            **({"auth": auth} if auth else {}),
        }
        configuration = self.directory / f"{self._number}.yml"
        configuration.write_text(json.dumps(document))  # JSON is YAML
        log = self.directory / f"{self._number}.log"
        with running([program(), "serve", str(configuration)], log) as process:
            wait_until(lambda: b"listening on" in log.read_bytes(), f"a registry that listens (its log: {log})")
            yield address, process

    def push(self, repository: str, *documents: Document, tag: str | None = None) -> None:
        """The configuration first, then manifests; ``tag`` is of the last."""
        with self.serving() as (address, _):
            config, *manifests = documents
            at = f"http://{address}/v2/{repository}"
            with urllib.request.urlopen(urllib.request.Request(f"{at}/blobs/uploads/", method="POST")) as answer:
                place = urljoin(at, answer.headers["Location"])
            _put(f"{place}{'&' if '?' in place else '?'}digest={config.digest}", config, "application/octet-stream")
            for each in manifests:
                name = tag if tag and each is manifests[-1] else each.digest
                _put(f"{at}/manifests/{name}", each, each.media_type)

    def content(self, digest: str) -> Path:
        """The file that holds what has this digest."""
        algorithm, _, value = digest.partition(":")
        return self.directory / "store/docker/registry/v2/blobs" / algorithm / value[:2] / value / "data"


def _put(url: str, document: Document, media_type: str) -> None:
    request = urllib.request.Request(url, document.data, {"Content-Type": media_type}, method="PUT")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 201


class Signer:
    """The key of a token server, and its certificate, which the registry trusts."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tokens of the tests")])
        now = datetime.now(UTC)
        made = x509.CertificateBuilder(name, name, self._key.public_key(), x509.random_serial_number())
        made = made.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
        self._certificate = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(
            self._key, hashes.SHA256()
        )

    @property
    def pem(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def token(self, repository: str) -> str:
        """To pull from ``repository``, for a minute. Source: distribution's "Token Authentication Implementation"."""
        der = base64.b64encode(self._certificate.public_bytes(serialization.Encoding.DER)).decode()
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": "ann", "aud": AUDIENCE, "iat": now - 5, "nbf": now - 5, "exp": now + 60}
        access = [{"type": "repository", "name": repository, "actions": ["pull"]}]
        head, body = {"typ": "JWT", "alg": "RS256", "x5c": [der]}, {**claims, "jti": "1", "access": access}
        signed = b".".join(_encoded(json.dumps(part).encode()) for part in (head, body))
        signature = self._key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        return b".".join([signed, _encoded(signature)]).decode()


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
