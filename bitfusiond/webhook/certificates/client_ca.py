"""The CA of clients' certificates (``--client-ca``), taken up when its file changes."""

from __future__ import annotations

import ssl
from pathlib import Path

from bitfusiond import logs, pki
from bitfusiond.errors import ConfigurationError
from bitfusiond.files import read, watch
from bitfusiond.http import tls

_log = logs.Log("certificates")


class ClientCA:
    """The last good content of the file: call it for its PEM."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigurationError that names the option, the file and what is wrong with it."""
        self._path = path
        self._watch = watch.Watch(path)
        self._pem = self._load()

    def __call__(self) -> str:
        return self._pem

    async def follow(self) -> None:
        """Take up a changed file, for ever. It holds from the next connection on."""
        await self._watch.follow(self._reload, self._not_reloaded)

    def _reload(self) -> None:
        self._pem = self._load()
        _log.info("client CA taken up", path=str(self._path))

    def _not_reloaded(self, error: Exception) -> None:
        _log.error("client CA not taken up, keeping the last good one", message=str(error))

    def _load(self) -> str:
        pem = pki.bundle_of(read.read_text(self._path, "--client-ca"))
        try:
            tls.trust_clients_of(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pem)
        except (ssl.SSLError, ValueError):
            raise ConfigurationError(
                f"--client-ca: {self._path} holds no certificate of a CA: give the PEM file of the CA that signs the"
                " client certificate of the API server"
            ) from None
        return pem
