"""A client of TLS 1.3 that sends key updates (RFC 8446, 4.6.3 and 7.2), which neither Python nor any command can."""

from __future__ import annotations

from pathlib import Path

import trio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

_CIPHER = "TLS_AES_256_GCM_SHA384"
_HASH_LENGTH = 48  # bytes
_HANDSHAKE, _DATA = b"\x16", b"\x17"
_UPDATE = b"\x18\0\0\1\0"  # update_not_requested


def _derived(secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label with an empty context (RFC 8446, 7.1)."""
    label = b"tls13 " + label
    info = length.to_bytes(2) + bytes([len(label)]) + label + b"\0"
    return HKDFExpand(SHA384(), length, info).derive(secret)


class KeyUpdates:
    """Records of ``client``, whose handshake is done and who has sent nothing yet.

    ``keylog`` is the SSLKEYLOGFILE of its context, which made no other connection.
    """

    def __init__(self, client: trio.SSLStream[trio.SocketStream], keylog: Path) -> None:
        name, *_ = client.cipher()
        assert name == _CIPHER
        lines = dict(line.split(" ", 1) for line in keylog.read_text().splitlines() if not line.startswith("#"))
        self._take(bytes.fromhex(lines["CLIENT_TRAFFIC_SECRET_0"].split()[1]))

    def _take(self, secret: bytes) -> None:
        self._secret = secret
        self._key = AESGCM(_derived(secret, b"key", 32))
        self._iv = _derived(secret, b"iv", 12)
        self._number = 0

    def _record(self, kind: bytes, content: bytes) -> bytes:
        nonce = int.from_bytes(self._iv) ^ self._number
        self._number += 1
        head = _DATA + b"\3\3" + (len(content) + 1 + 16).to_bytes(2)
        return head + self._key.encrypt(nonce.to_bytes(12), content + kind, head)

    def updates(self, number: int) -> bytes:
        """So many key updates, 27 bytes each."""
        records = []
        for _ in range(number):
            records.append(self._record(_HANDSHAKE, _UPDATE))
            self._take(_derived(self._secret, b"traffic upd", _HASH_LENGTH))
        return b"".join(records)

    def data(self, content: bytes) -> bytes:
        return self._record(_DATA, content)
