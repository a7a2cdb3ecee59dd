"""Whose certificates are trusted of registries: the system's CAs, and those of ``--registry-ca``."""

from __future__ import annotations

import ssl
from pathlib import Path

from bitfusiond import logs, pki
from bitfusiond.errors import ConfigurationError
from bitfusiond.files import read, watch
from bitfusiond.registry import wire
from bitfusiond.registry.wire import Trust

_log = logs.Log("images")


class RegistryCA:
    """Call it for the TLS contexts of now; the file is taken up when it changes."""

    def __init__(self, path: Path | None) -> None:
        """Raises ConfigurationError that names the option, the file and what is wrong with it."""
        self._path = path
        self._watch = watch.Watch(*([] if path is None else [path]))
        self._trust = self._load()

    def __call__(self) -> Trust:
        return self._trust

    async def follow(self) -> None:
        """Take up a changed file, for ever. It holds from the next connection on."""
        await self._watch.follow(self._reload, self._not_reloaded)

    def _reload(self) -> None:
        self._trust = self._load()
        _log.info("registry CA taken up", path=str(self._path))

    def _not_reloaded(self, error: Exception) -> None:
        _log.error("registry CA not taken up, keeping the last good one", message=str(error))

    def _load(self) -> Trust:
        if self._path is None:
            return wire.trust()
        pem = pki.bundle_of(read.read_text(self._path, "--registry-ca"))
        try:
            if pem:
                return wire.trust(pem)
        except (ssl.SSLError, ValueError):
            pass
        raise ConfigurationError(
            f"--registry-ca: {self._path} holds no certificate: give the PEM file of the CA that signs the certificates"
            " of your registries"
        )
