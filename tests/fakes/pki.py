"""A throw-away CA, and a certificate of it in files."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import trustme


class Pki:
    """A CA, and the two files that ``--tls-cert`` and ``--tls-key`` name."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.cert = directory / "tls.crt"
        self.key = directory / "tls.key"
        self.issue()

    def issue(self, **more: Any) -> trustme.LeafCert:
        """Write a new certificate and its key into the files."""
        leaf = self.ca.issue_cert("localhost", "127.0.0.1", **more)
        self.cert.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
        self.key.write_bytes(leaf.private_key_pem.bytes())
        return leaf

    def client(self, *alpn: str) -> ssl.SSLContext:
        """A context that trusts the CA and offers ``alpn``."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context
