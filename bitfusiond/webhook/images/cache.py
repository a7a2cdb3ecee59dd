"""What was read of registries, bounded in number and size, and given to those alone who could read it themselves."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from bitfusiond.core.images.image import Image
from bitfusiond.core.images.pullsecrets import Credentials
from bitfusiond.core.images.reference import Reference

TAG_SECONDS = 60.0  # for so long a tag is what it was, and who could read it can
_MOST_IMAGES = 500
_MOST_BYTES = 4 * 2**20
_MOST_RESOLVED = 5000

Who = bytes  # a digest of credentials, by a key of this process


class Cache:
    """Images by repository and digest, and which digest somebody got for a name a moment ago."""

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._images: dict[tuple[str, str, str], Image] = {}
        self._bytes = 0
        self._resolved: dict[tuple[Who, Reference], tuple[float, str]] = {}

    def who(self, credentials: Sequence[Credentials]) -> Who:
        """Who asks: the same for the same credentials in the same order, whatever the namespace."""
        digest = hashlib.blake2b(key=self._key, digest_size=32)
        for each in credentials:
            for part in (each.user.encode(), each.password.encode()):
                digest.update(len(part).to_bytes(8) + part)
        return digest.digest()

    def resolved(self, who: Who, image: Reference, now: float) -> Image | None:
        """What ``who`` read under the very name within TAG_SECONDS."""
        until, digest = self._resolved.get((who, image), (0.0, ""))
        return self.known(image, digest) if now < until else None

    def known(self, image: Reference, digest: str) -> Image | None:
        """An image of that repository. For those only who have just been told the digest by its registry."""
        key = (image.registry, image.repository, digest)
        found = self._images.pop(key, None)
        if found is not None:
            self._images[key] = found  # the last to go
        return found

    def keep(self, who: Who, image: Reference, digest: str, found: Image, now: float) -> None:
        key = (image.registry, image.repository, digest)
        if (before := self._images.pop(key, None)) is not None:
            self._bytes -= before.size
        self._images[key] = found
        self._bytes += found.size
        while len(self._images) > _MOST_IMAGES or self._bytes > _MOST_BYTES:
            self._bytes -= self._images.pop(next(iter(self._images))).size
        self._resolved.pop((who, image), None)
        self._resolved[who, image] = now + TAG_SECONDS, digest
        if len(self._resolved) > _MOST_RESOLVED:
            del self._resolved[next(iter(self._resolved))]
