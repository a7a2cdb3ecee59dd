"""The CA of clients' certificates (``--client-ca``), taken up when its file changes."""

from __future__ import annotations

import ssl
from functools import partial
from pathlib import Path

from bitfusiond import logs, pki
from bitfusiond.errors import ConfigurationError
from bitfusiond.files import read
from bitfusiond.files.watch import Followed
from bitfusiond.http import tls

_log = logs.Log("certificates")


def followed_client_ca(path: Path) -> Followed[str]:
    """The PEM of now; a changed file holds from the next connection on.

    Raises ConfigurationError that names the option, the file and what is wrong with it.
    """
    return Followed(
        _log,
        partial(_load, path),
        path,
        taken_up="client CA taken up",
        not_taken_up="client CA not taken up, keeping the last good one",
    )


def _load(path: Path) -> str:
    pem = pki.bundle_of(read.read_text(path, "--client-ca"))
    try:
        tls.trust_clients_of(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pem)
    except (ssl.SSLError, ValueError):
        raise ConfigurationError(
            f"--client-ca: {path} holds no certificate of a CA: give the PEM file of the CA that signs the client"
            " certificate of the API server"
        ) from None
    return pem
