"""Which registries are asked, how, and at which addresses: the operator's choice, and ours where there is none.

The name of an image is a pod's word, and a registry's answers are the registry's: both can name any host.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple
from urllib.parse import urlsplit

_PORTS = {"https": 443, "http": 80}
# Of the clouds' services that hand out credentials, those outside of the link-local networks.
_METADATA = frozenset(map(ipaddress.ip_address, ("100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254")))
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Origin(NamedTuple):
    """Whom to connect to. ``host`` of IPv6 has no brackets."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """As in a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


class NotAllowedError(ValueError):
    """Nothing is asked there. One line for a person."""


@dataclass(frozen=True, slots=True)
class Registries:
    """``allowed`` are globs of ``HOST`` or ``HOST:PORT``. ``insecure`` are the origins that need no certificate that we
    trust: ``http`` ones none at all.
    """

    allowed: tuple[str, ...] = ("*",)
    insecure: frozenset[Origin] = frozenset()

    def origin(self, registry: str, api: str) -> Origin:
        """Where ``registry``, as an image's name has it, answers: at ``api``. Raises NotAllowedError."""
        if registry not in self.allowed and not any(fnmatchcase(registry, glob) for glob in self.allowed):
            raise NotAllowedError(f"{registry} is none of the registries that are asked (--image-registries)")
        plain = _origin(f"http://{api}")
        return plain if plain in self.insecure else _origin(f"https://{api}")

    def follow(self, url: str) -> tuple[Origin, str]:
        """Origin and target of a URL that a registry names. Raises NotAllowedError."""
        try:
            parts = urlsplit(url)
            origin = _origin(f"{parts.scheme}://{parts.netloc}")
        except ValueError:
            raise NotAllowedError("the registry names a URL that is none") from None
        if origin.scheme == "http" and origin not in self.insecure:
            raise NotAllowedError(
                f"the registry names http://{origin.authority}, which is not secure (--insecure-registries)"
            )
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not re.fullmatch(r"[!-~]+", target):
            raise NotAllowedError("the registry names a URL that is none")
        return origin, target

    def is_verified(self, origin: Origin) -> bool:
        """Whether its certificate must be one that we trust."""
        return origin not in self.insecure

    def check_address(self, origin: Origin, address: str) -> None:
        """Raise NotAllowedError for an address where no registry is, unless the operator named the origin."""
        if origin in self.insecure or origin.authority in self.allowed:
            return
        if _is_special(ipaddress.ip_address(address.partition("%")[0])):
            raise NotAllowedError(
                f"{origin.authority} is at {address}, where no registry is asked unless it is named in"
                " --image-registries"
            )


def _is_special(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """This machine, its link, the services of its cloud, and what is no address of one machine."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif address in _NAT64:
            address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return (
        address in _METADATA
        or address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or address.is_multicast
        or address.is_reserved
    )


def insecure(text: str) -> frozenset[Origin]:
    """From ``http://HOST:PORT,https://HOST:PORT``. Raises ValueError with what is allowed."""
    try:
        found = frozenset(_origin(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        found = frozenset()
    if not found:
        raise ValueError(
            "comma-separated registries, each with its scheme: http://registry.example:5000 (no TLS) or"
            " https://registry.example (a certificate that nobody checks)"
        )
    return found


def _origin(url: str) -> Origin:
    """Raises ValueError for what is more than scheme, host and port, or less."""
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port
    wrong = parts.username is not None or parts.path or parts.query or parts.fragment or parts.scheme not in _PORTS
    if wrong or not host or port == 0 or not re.fullmatch(r"[A-Za-z0-9._:-]+", host):
        raise ValueError(url)
    return Origin(parts.scheme, host, port or _PORTS[parts.scheme])
