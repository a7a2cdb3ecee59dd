"""Token files that a client could use, and the Secrets of them."""

from __future__ import annotations

import base64

import trustme

from bitfusiond.core import names
from tests.real.harness.apiserver import APIServer, Refused
from tests.real.harness.webhook import namespace, secret_path

SERVERS = "servers:\n- addresses:\n  - 192.0.2.1:56001\n"


def token_files(client: str = "one", servers: str = SERVERS) -> dict[str, bytes]:
    """A token like those that can be downloaded; another ``client`` and ``servers`` make another token."""
    content = {names.CLIENT_YAML: f"client: {client}\n", names.SERVERS_CONF: servers}
    return {names.CA_CRT: trustme.CA().cert_pem.bytes()} | {file: text.encode() for file, text in content.items()}


def put_tokens(api: APIServer, of: str = "kube-system", files: dict[str, bytes] | None = None) -> None:
    """The three Secrets, as `kubectl create secret` would make them; over what is there."""
    namespace(api, of)
    for file, content in (files or token_files()).items():
        name = names.TOKEN_SECRETS[file]
        metadata = {"name": name, "namespace": of}
        data = {file: base64.b64encode(content).decode()}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data}
        api.request(
            "PATCH", f"{secret_path(of, name)}?fieldManager=admin&force=true", body, "application/apply-patch+yaml"
        )


def remove_tokens(api: APIServer, of: str = "kube-system") -> None:
    for name in names.TOKEN_SECRETS.values():
        try:
            api.request("DELETE", secret_path(of, name))
        except Refused as refused:
            assert refused.code == 404  # noqa: PT017
