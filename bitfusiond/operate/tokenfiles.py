"""The three token files: whether a client could use them. No message quotes what is in them."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509

from bitfusiond.core import names
from bitfusiond.core.clients import servers_conf
from bitfusiond.files.read import load_yaml

_LARGEST = 1_000_000  # bytes; a Secret holds no more than 1 MiB


def problems(file: str, content: bytes, now: datetime) -> list[str]:
    """What is wrong with the content of the token file ``file`` at ``now``, each as ``FILE: what``."""
    if not content.strip():
        return [f"{file}: it is empty"]
    if len(content) > _LARGEST:
        return [f"{file}: it has {len(content)} bytes, a Secret holds at most {_LARGEST}"]
    if file == names.CA_CRT:
        problem = _certificates(content, now)
    else:
        problem = {names.CLIENT_YAML: _client, names.SERVERS_CONF: _servers}[file](content)
    return [f"{file}: {problem}"] if problem else []


def servers(content: bytes) -> list[tuple[str, int]]:
    """Where the servers of a servers.conf are. Raises ValueError with what is wrong, without the values."""
    try:
        return servers_conf.addresses(load_yaml(servers_conf.repaired(content.decode())))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None


def end(content: bytes) -> datetime:
    """When the first of the certificates ends. Raises ValueError where there is none."""
    return min(each.not_valid_after_utc for each in x509.load_pem_x509_certificates(content))


def _certificates(content: bytes, now: datetime) -> str | None:
    """What is wrong with a ca.crt at ``now``."""
    try:
        until = end(content)
    except ValueError:
        return "it has no certificate in PEM (-----BEGIN CERTIFICATE-----)"
    return f"its certificate ended {until:%Y-%m-%d}: download the token anew" if until <= now else None


def _client(content: bytes) -> str | None:
    """What is wrong with a client.yaml."""
    try:
        document = load_yaml(content.decode())
    except UnicodeDecodeError:
        return "it is not UTF-8 text"
    except ValueError as error:
        # YAML's own words may repeat a value: keep what stands before it.
        return str(error).partition(": ")[0]
    return None if isinstance(document, dict) and document else "it must be a mapping of keys and values, in YAML"


def _servers(content: bytes) -> str | None:
    """What is wrong with a servers.conf."""
    try:
        servers(content)
    except servers_conf.ServersError as error:
        return str(error)
    except ValueError as error:
        return str(error).partition(": ")[0]
    return None
