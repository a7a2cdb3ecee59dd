"""What a pull secret says: credentials, and for which images. As the kubelet reads them.

Source: k8s.io/kubernetes pkg/credentialprovider, config.go and keyring.go.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeGuard

from bitfusiond.core.fields import Json, mapping
from bitfusiond.core.images.reference import Reference
from bitfusiond.core.text import from_base64

# Type of the Secret: its key, and where in the JSON the registries are.
_TYPES = {
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson", "auths"),
    "kubernetes.io/dockercfg": (".dockercfg", ""),
}
_LONGEST = 64 * 1024  # bytes of one
_MOST_ENTRIES = 256  # of one that are looked at; people have some tens at most
MOST_TRIED = 4  # credentials for one image
_KEY = re.compile(r"(?:https?://)?(?P<host>[^/:]+|\[[^]]*\])(?::(?P<port>[0-9]+))?(?P<path>/.*)?")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Of one user. Nothing of it shows where the value is printed."""

    user: str = field(repr=False)
    password: str = field(repr=False)

    @property
    def basic(self) -> str:
        """As in an Authorization header of the scheme Basic."""
        return base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Entry:
    """Credentials, and the images that they are for: ``HOST[:PORT][/PATH]``, in the host ``*`` for a part of it."""

    key: str
    credentials: Credentials


def read(secret: Json) -> list[Entry]:
    """The entries of a Secret. Raises ValueError that says what is wrong with it and quotes nothing of it."""
    kind = secret.get("type")
    if kind not in _TYPES:
        raise ValueError(f"is not of type {' or '.join(_TYPES)}")
    key, below = _TYPES[kind]
    data = from_base64(mapping(secret, "data").get(key))
    if not data or len(data) > _LONGEST:
        raise ValueError(f"has nothing under {key}" if not data else f"has more than {_LONGEST} bytes under {key}")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError(f"has no JSON under {key}") from None
    registries = mapping(document, below) if below else mapping(document)
    return list(islice(_entries(registries), _MOST_ENTRIES))


def _entries(registries: Json) -> Iterator[Entry]:
    for key, each in registries.items():
        user, password = mapping(each).get("username"), mapping(each).get("password")
        if written := mapping(each).get("auth"):
            user, _, password = _decoded(written).partition(":")
        if _is_text(user) and _is_text(password) and (user or password):
            yield Entry(key, Credentials(user, password))


def _is_text(value: object) -> TypeGuard[str]:
    """JSON can hold halves of characters, which no header can."""
    return isinstance(value, str) and value == value.encode(errors="ignore").decode()


def _decoded(auth: object) -> str:
    """Some tools leave the padding off."""
    try:
        return base64.b64decode(f"{auth}".rstrip("=\x00\n") + "==").decode()
    except (binascii.Error, ValueError):
        return ""


def for_image(entries: Iterable[Entry], image: Reference) -> list[Credentials]:
    """Those that are for ``image``, the most special first, each once, MOST_TRIED at most."""
    fitting = [each for each in entries if _is_for(each.key, image)]
    # By the key without its scheme, longer and later ones first: as the kubelet sorts them.
    fitting.sort(key=lambda entry: re.sub("^https?://", "", entry.key), reverse=True)
    return list(dict.fromkeys(each.credentials for each in fitting))[:MOST_TRIED]


def _is_for(key: str, image: Reference) -> bool:
    match = _KEY.fullmatch(key)
    if match is None:
        return False
    pattern = match["host"].lower().split(".")
    path = re.sub(r"^/v[12]/?", "/", match["path"] or "/").strip("/")
    if not image.repository.startswith(path):
        return False
    for name in image.known_as:
        host, _, port = name.rpartition(":") if re.search(r":[0-9]+$", name) else (name, "", "")
        parts = host.split(".")
        if (match["port"] or "") == port and len(parts) == len(pattern) and all(map(_fits, parts, pattern)):
            return True
    return False


def _fits(part: str, pattern: str) -> bool:
    """Whether ``pattern``, in which ``*`` stands for anything, is ``part``.

    By hand: a regular expression of somebody else's making can take very long, and ``fnmatch`` keeps thousands of them.
    """
    first, *others = pattern.split("*")
    if not others:
        return part == pattern
    if not part.startswith(first):
        return False
    at = len(first)
    *between, last = others
    for each in between:
        at = part.find(each, at)
        if at < 0:
            return False
        at += len(each)
    return len(part) - len(last) >= at and part.endswith(last)
