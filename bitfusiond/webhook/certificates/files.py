"""The serving certificate from files (``--tls-cert``, ``--tls-key``), taken up when they change."""

from __future__ import annotations

import ssl
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cryptography import x509

from bitfusiond import logs
from bitfusiond.errors import ConfigurationError
from bitfusiond.files import read
from bitfusiond.files.watch import Followed
from bitfusiond.http import tls

_log = logs.Log("certificates")


class FileCertificate:
    """A TLS context that follows two PEM files: :attr:`context` is the one for the next handshake.

    A new pair gets a new context. OpenSSL keeps one certificate for each type of key in a context, so that after a
    change from RSA to ECDSA some clients would still be shown the old one.
    """

    def __init__(self, cert: Path, key: Path, client_ca: tls.ClientCAs = tls.no_client_ca) -> None:
        """Raises ConfigurationError that names the option and what is wrong with the file."""
        self._cert = cert
        self._pair = Followed(
            _log,
            partial(_load, cert, key, client_ca),
            cert,
            key,
            taken_up="certificate taken up",
            not_taken_up="certificate not taken up, keeping the last good one",
        )

    @property
    def context(self) -> ssl.SSLContext:
        return self._pair().tls.context

    def seconds_left(self) -> float:
        """Until the certificate in force expires, by this machine's clock; below zero when it has."""
        return self._pair().not_after - time.time()

    def ready_reason(self) -> str | None:
        """An expired certificate fails every handshake of the API server."""
        return None if self.seconds_left() > 0 else f"--tls-cert: the certificate in {self._cert} has expired"

    async def follow(self) -> None:
        """Take up changed files, for ever. Connections that are open keep what they agreed on."""
        await self._pair.follow()


class _Pair(NamedTuple):
    """A certificate and its key; ``not_after`` in seconds of the epoch."""

    tls: tls.ServerTLS
    not_after: float


def _load(cert: Path, key: Path, client_ca: tls.ClientCAs) -> _Pair:
    chain, private = read.read_bytes(cert, "--tls-cert"), read.read_bytes(key, "--tls-key")
    try:
        loaded = tls.ServerTLS(chain, private, client_ca)
        leaf = x509.load_pem_x509_certificate(chain)
    except tls.EncryptedKeyError:
        raise ConfigurationError(f"--tls-key: {key} is encrypted: give one without a password") from None
    except ssl.SSLError as error:
        reason = getattr(error, "reason", None)
        if reason == "KEY_VALUES_MISMATCH":
            raise ConfigurationError(f"--tls-key: {key} is not the key of {cert}") from None
        raise ConfigurationError(
            f"--tls-cert, --tls-key: {cert} and {key} must be a certificate chain and its unencrypted key, both"
            f" PEM{f' ({reason})' if reason else ''}"
        ) from None
    except ValueError as error:
        raise ConfigurationError(f"--tls-cert: {cert} cannot be read: {' '.join(str(error).split())}") from None
    return _Pair(loaded, leaf.not_valid_after_utc.timestamp())
