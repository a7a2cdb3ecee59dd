"""TLS as the API server speaks it."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# PEM of the CAs that clients' certificates must come from; None: clients are asked for none.
ClientCAs = Callable[[], str | None]


class EncryptedKeyError(Exception):
    """A private key that needs a password."""


def no_client_ca() -> str | None:
    """Clients are asked for no certificate."""
    return None


class ServerTLS:
    """The TLS of one certificate and its key, both PEM: :attr:`context` is the one for the next handshake.

    It is made anew when ``client_ca`` returns something else: what a context trusts can only grow. Raises ssl.SSLError
    for what cannot be used, EncryptedKeyError for such a key.
    """

    def __init__(self, cert: bytes, key: bytes, client_ca: ClientCAs = no_client_ca) -> None:
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self._trusted = client_ca()
        self._context = _server_context(cert, key, self._trusted)

    @property
    def context(self) -> ssl.SSLContext:
        trusted = self._client_ca()
        if trusted != self._trusted:
            self._context = _server_context(self._cert, self._key, trusted)
            self._trusted = trusted
        return self._context


def _server_context(cert: bytes, key: bytes, client_ca: str | None) -> ssl.SSLContext:
    """TLS 1.2 or newer, HTTP/1.1 only.

    The API server speaks HTTP/1.1 to a webhook behind a Service; offering h2 would only split its pool in two.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # OpenSSL before 3.0 lets a client ask for one after another
    context.set_alpn_protocols(["http/1.1"])
    with _in_memory(cert) as cert_path, _in_memory(key) as key_path:
        context.load_cert_chain(cert_path, key_path, password=_no_password)
    if client_ca is not None:
        trust_clients_of(context, client_ca)
    return context


def trust_clients_of(context: ssl.SSLContext, client_ca: str) -> None:
    """Ask clients for a certificate of ``client_ca``. One that brings none is let in, one with another is not.

    Raises ssl.SSLError where ``client_ca`` holds no certificate.
    """
    context.load_verify_locations(cadata=client_ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    # Python's own choice differs between versions: 3.13 would refuse what `openssl x509 -req` signs without options.
    context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN


@contextmanager
def _in_memory(pem: bytes) -> Iterator[str]:
    """A path to ``pem``, as Python's ssl reads files only.

    It has no name on any disk: it needs no directory that can be written, and is gone when it is closed.
    """
    with os.fdopen(os.memfd_create("serving", os.MFD_CLOEXEC), "wb") as file:
        file.write(pem)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _no_password() -> str:
    # Without this OpenSSL asks for one on the terminal.
    raise EncryptedKeyError
