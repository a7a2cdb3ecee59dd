"""TLS as the API server speaks it."""

from __future__ import annotations

import ssl


class EncryptedKeyError(Exception):
    """A private key that needs a password."""


def server_context(cert: str, key: str) -> ssl.SSLContext:
    """TLS 1.2 or newer, HTTP/1.1 only.

    Raises OSError (ssl.SSLError is one) for files that cannot be read or used, EncryptedKeyError for such a key.

    The API server speaks HTTP/1.1 to a webhook behind a Service; offering h2 would only split its pool in two.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # OpenSSL before 3.0 lets a client ask for one after another
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(cert, key, password=_no_password)
    return context


def _no_password() -> str:
    # Without this OpenSSL asks for one on the terminal.
    raise EncryptedKeyError
