"""TLS handshakes without a network, at whatever time a test says it is."""

from __future__ import annotations

import base64
import ssl
from functools import lru_cache
from typing import Any

from cryptography import x509

SERVER_NAME = "bwki-webhook-svc.bwki.svc"
# OpenSSL's X509_V_FLAG_NO_CHECK_TIME. The times of a certificate are checked here instead.
_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)


def ca_bundle(configuration: dict[str, Any]) -> bytes:
    """The caBundle that all webhooks of a configuration have."""
    (bundle,) = set(ca_bundles(configuration))
    return bundle


def ca_bundles(configuration: dict[str, Any]) -> list[bytes]:
    """One for each webhook of a configuration."""
    return [base64.b64decode(webhook["clientConfig"].get("caBundle", "")) for webhook in configuration["webhooks"]]


@lru_cache(maxsize=8)
def client(bundle: bytes) -> ssl.SSLContext:
    """Trusts ``bundle`` and nothing else, as an API server does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= _NO_CHECK_TIME
    context.load_verify_locations(cadata=bundle.decode())
    return context


def shake(server: ssl.SSLContext, bundle: bytes, now: float, name: str = SERVER_NAME) -> x509.Certificate:
    """The certificate that the client accepted. Raises ssl.SSLError where it did not."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client(bundle).wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [ours, theirs]
    for _ in range(6):
        for side in list(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
    assert not waiting
    shown = ours.getpeercert(binary_form=True)
    assert shown is not None
    certificate = x509.load_der_x509_certificate(shown)
    if not certificate.not_valid_before_utc.timestamp() <= now < certificate.not_valid_after_utc.timestamp():
        raise ssl.SSLCertVerificationError("certificate has expired or is not yet valid")
    return certificate
