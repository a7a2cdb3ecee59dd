"""The serving certificate from files (``--tls-cert``, ``--tls-key``), taken up when they change."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

from cryptography import x509

from bitfusiond import logs
from bitfusiond.errors import ConfigurationError
from bitfusiond.files import watch
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
        self._key = key
        self._client_ca = client_ca
        self._watch = watch.Watch(cert, key)
        self._tls = self._load()

    @property
    def context(self) -> ssl.SSLContext:
        return self._tls.context

    def seconds_left(self) -> float:
        """Until the certificate in force expires, by this machine's clock; below zero when it has."""
        return self._not_after - time.time()

    def ready_reason(self) -> str | None:
        """An expired certificate fails every handshake of the API server."""
        return None if self.seconds_left() > 0 else f"--tls-cert: the certificate in {self._cert} has expired"

    async def follow(self) -> None:
        """Take up changed files, for ever. Connections that are open keep what they agreed on."""
        await self._watch.follow(self._reload, self._not_reloaded)

    def _reload(self) -> None:
        self._tls = self._load()
        _log.info("certificate taken up", path=str(self._cert))

    def _not_reloaded(self, error: Exception) -> None:
        _log.error("certificate not taken up, keeping the last good one", message=str(error))

    def _load(self) -> tls.ServerTLS:
        cert, key = _read("--tls-cert", self._cert), _read("--tls-key", self._key)
        try:
            loaded = tls.ServerTLS(cert, key, self._client_ca)
            leaf = x509.load_pem_x509_certificate(cert)
        except tls.EncryptedKeyError:
            raise ConfigurationError(f"--tls-key: {self._key} is encrypted: give one without a password") from None
        except ssl.SSLError as error:
            reason = getattr(error, "reason", None)
            if reason == "KEY_VALUES_MISMATCH":
                raise ConfigurationError(f"--tls-key: {self._key} is not the key of {self._cert}") from None
            raise ConfigurationError(
                f"--tls-cert, --tls-key: {self._cert} and {self._key} must be a certificate chain and its"
                f" unencrypted key, both PEM{f' ({reason})' if reason else ''}"
            ) from None
        except ValueError as error:
            raise ConfigurationError(
                f"--tls-cert: {self._cert} cannot be read: {' '.join(str(error).split())}"
            ) from None
        self._not_after = leaf.not_valid_after_utc.timestamp()
        return loaded


def _read(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{option}: cannot read {path}: {error.strerror}") from None
