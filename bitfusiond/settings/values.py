"""What an option's string stands for: each parser gives the value, or raises ValueError with what is allowed.

That is said as it reads after "is not": ``an integer from 1 to 100``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bitfusiond.core import names

if TYPE_CHECKING:
    from bitfusiond.core.images.registries import Origin

Parser = Callable[[str], Any]


class Address(NamedTuple):
    """A TCP address to listen on; port 0 lets the system pick one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def text(value: str) -> str:
    if not value.strip():
        raise ValueError("a value: it must not be blank")
    return value


def path(value: str) -> Path:
    return Path(text(value))


def integer(lowest: int, highest: int | None = None) -> Parser:
    allowed = f"an integer from {lowest} to {highest}" if highest is not None else f"an integer of at least {lowest}"

    def parse(value: str) -> int:
        # isdecimal() alone would let other scripts' digits pass; the length bounds what int() has to do.
        if not (value.isascii() and value.isdecimal() and len(value) <= 18):
            raise ValueError(allowed)
        number = int(value)
        if number < lowest or (highest is not None and number > highest):
            raise ValueError(allowed)
        return number

    return parse


def device_count(value: str) -> int:
    from bitfusiond.core import devices  # noqa: PLC0415 - of the plugin alone, and settings are of every role

    highest = devices.largest_size()
    try:
        return int(integer(1, highest)(value))
    except ValueError as error:
        raise ValueError(f"{error} (a longer list would not fit into the 4 MiB that a kubelet receives)") from None


def seconds(lowest: float, highest: float) -> Parser:
    allowed = f"a number of seconds from {lowest:g} to {highest:g}"

    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            raise ValueError(allowed) from None
        if not lowest <= number <= highest:  # also false for nan
            raise ValueError(allowed)
        return number

    return parse


def address(value: str) -> Address:
    allowed = "HOST:PORT with a port from 0 to 65535, for example 0.0.0.0:8443 or [::]:8443"
    host, colon, port = value.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal() and len(port) <= 5) or int(port) > 65535:
        raise ValueError(allowed)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(allowed)
    return Address(host or "0.0.0.0", int(port))  # noqa: S104 - the default of a daemon in a pod


def address_or_none(value: str) -> Address | None:
    return None if value == "none" else address(value)


def choice(*allowed: str) -> Parser:
    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError("one of " + ", ".join(allowed))
        return value

    return parse


# What a namespace can be called, the signs of a glob, and sets of characters that end.
GLOB = r"[a-z0-9*?-]|\[!?[a-z0-9-]+\]"


def globs(value: str) -> tuple[str, ...]:
    allowed = "comma-separated namespace names or globs, for example team-*,research"
    patterns = parts(value)
    if not patterns:
        raise ValueError(allowed)
    if wrong := [each for each in patterns if not _can_match(each)]:
        raise ValueError(f"{allowed}: {', '.join(wrong)} matches none")
    return patterns


def registry_globs(value: str) -> tuple[str, ...]:
    patterns = parts(value)
    if not patterns or any("/" in pattern for pattern in patterns):
        raise ValueError("comma-separated registries or globs, for example registry.example:5000,*.example")
    return patterns


def insecure_registries(value: str) -> frozenset[Origin]:
    from bitfusiond.core.images import registries  # noqa: PLC0415 - of the webhook alone

    return frozenset() if value == "none" else registries.insecure(value)


def parts(value: str) -> tuple[str, ...]:
    """What stands between commas, as it is."""
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _can_match(glob: str) -> bool:
    if not set("*?[") & set(glob):
        return bool(re.fullmatch(names.LABEL, glob))
    backwards = any(first > last for first, last in re.findall(r"(\w)-(?=(\w)[^\[]*\])", glob))
    return bool(re.fullmatch(f"(?:{GLOB})+", glob)) and not backwards


def socket_name(value: str) -> str:
    if value in {"", ".", "..", "kubelet.sock"} or "/" in value or "\0" in value:
        raise ValueError("a file name without a slash, other than kubelet.sock")
    return value


def resource_name(value: str) -> str:
    if not names.is_extended_resource(value):
        raise ValueError("an extended resource name such as bitfusion.io/gpu (DOMAIN/NAME, not of kubernetes.io)")
    return value


def dra_driver(value: str) -> str | None:
    if value not in {"none", names.DRIVER}:
        raise ValueError(f"one of none, {names.DRIVER}")
    return None if value == "none" else value


# Far more than a pod that is admitted can have: each of them is a container.
_MOST_CLAIMS = 256


def pod_claims(value: str) -> tuple[str, ...]:
    found = parts(value)
    if not found or len(found) > _MOST_CLAIMS or not all(re.fullmatch(names.LABEL, each) for each in found):
        raise ValueError(f"comma-separated names of spec.resourceClaims, at most {_MOST_CLAIMS}")
    return tuple(dict.fromkeys(found))


def switch(value: str) -> bool:
    if value.lower() not in {"true", "false"}:
        raise ValueError("true or false")
    return value.lower() == "true"
