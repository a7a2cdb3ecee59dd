"""Whose certificates are trusted of registries: the system's CAs, and those of ``--registry-ca``."""

from __future__ import annotations

import ssl
from functools import partial
from pathlib import Path

from bitfusiond import logs, pki
from bitfusiond.errors import ConfigurationError
from bitfusiond.files import read
from bitfusiond.files.watch import Followed
from bitfusiond.registry import wire
from bitfusiond.registry.wire import Trust

_log = logs.Log("images")


def followed_registry_ca(path: Path | None) -> Followed[Trust]:
    """The TLS contexts of now; a changed file holds from the next connection on. None: the system's CAs alone.

    Raises ConfigurationError that names the option, the file and what is wrong with it.
    """
    return Followed(
        _log,
        partial(_load, path),
        *([] if path is None else [path]),
        taken_up="registry CA taken up",
        not_taken_up="registry CA not taken up, keeping the last good one",
    )


def _load(path: Path | None) -> Trust:
    if path is None:
        return wire.trust()
    pem = pki.bundle_of(read.read_text(path, "--registry-ca"))
    try:
        if pem:
            return wire.trust(pem)
    except (ssl.SSLError, ValueError):
        pass
    raise ConfigurationError(
        f"--registry-ca: {path} holds no certificate: give the PEM file of the CA that signs the certificates of your"
        " registries"
    )
