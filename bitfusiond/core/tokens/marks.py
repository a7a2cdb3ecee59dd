"""The mark of a copy that we wrote. Who does not know the key can make none, for no Secret of any namespace.

It holds for a namespace and a name, not for one Secret: whoever could read a copy can put its mark on another in the
same place. That gains nothing: the copy itself would have followed its source there.
"""

from __future__ import annotations

import hmac
import secrets

from bitfusiond.core.text import from_base64

KEY = "key"  # in the Secret that holds it
_BYTES = 32


def new_key() -> bytes:
    return secrets.token_bytes(_BYTES)


def key_of(data: object) -> bytes | None:
    """The key in the ``data`` of a Secret; None where there is none, or one that could be guessed."""
    key = from_base64(data.get(KEY)) if isinstance(data, dict) else b""
    return key if len(key) >= _BYTES else None


def mark(key: bytes, namespace: str, name: str) -> str:
    """What a copy of ours carries in the annotation ``bitfusion.io/mark``."""
    return hmac.digest(key, f"{namespace}/{name}".encode(), "sha256").hex()
