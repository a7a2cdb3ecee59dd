"""The serving certificate from files (``--tls-cert``, ``--tls-key``), taken up when they change."""

from __future__ import annotations

import ssl
from pathlib import Path

from bitfusiond import filewatch, logs, serving
from bitfusiond.errors import ConfigurationError

_log = logs.Log("certificates")


class FileCertificate:
    """A TLS context whose certificate follows two PEM files."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises ConfigurationError that names the option and what is wrong with the file."""
        self._cert = cert
        self._key = key
        self.context = self._checked()

    async def follow(self) -> None:
        """Take up changed files, for ever. Connections that are open keep what they agreed on."""
        await filewatch.watch((self._cert, self._key), self._reload)

    def _reload(self) -> None:
        try:
            # A pair that does not match would leave the live context with half of it: try it on another first.
            self._checked()
            self.context.load_cert_chain(self._cert, self._key)
        except (ConfigurationError, OSError) as error:
            _log.error("certificate not taken up, keeping the last good one", message=str(error))
        else:
            _log.info("certificate taken up", path=str(self._cert))

    def _checked(self) -> ssl.SSLContext:
        for option, path in (("--tls-cert", self._cert), ("--tls-key", self._key)):
            try:
                path.read_bytes()
            except OSError as error:
                raise ConfigurationError(f"{option}: cannot read {path}: {error.strerror}") from None
        try:
            return serving.server_context(str(self._cert), str(self._key))
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ConfigurationError(f"--tls-key: {self._key} is not the key of {self._cert}") from None
            raise ConfigurationError(
                f"--tls-cert, --tls-key: {self._cert} and {self._key} must be a certificate chain and its"
                f" unencrypted key, both PEM ({error.reason or error})"
            ) from None
