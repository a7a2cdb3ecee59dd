"""Token files that a client could use, and the Secrets of them."""

from __future__ import annotations

import trustme

from bitfusiond.core import names
from tests.real.harness.apiserver import APIServer, secret_path

SERVERS = "servers:\n- addresses:\n  - 192.0.2.1:56001\n"


def token_files(client: str = "one", servers: str = SERVERS) -> dict[str, bytes]:
    """A token like those that can be downloaded; another ``client`` and ``servers`` make another token."""
    content = {names.CLIENT_YAML: f"client: {client}\n", names.SERVERS_CONF: servers}
    return {names.CA_CRT: trustme.CA().cert_pem.bytes()} | {file: text.encode() for file, text in content.items()}


def put_tokens(api: APIServer, of: str = "kube-system", files: dict[str, bytes] | None = None) -> None:
    """The three Secrets, as `kubectl create secret` would make them; over what is there."""
    api.namespace(of)
    for file, content in (files or token_files()).items():
        api.put_secret(of, names.TOKEN_SECRETS[file], {file: content})


def remove_tokens(api: APIServer, of: str = "kube-system") -> None:
    for name in names.TOKEN_SECRETS.values():
        api.delete(secret_path(of, name))
