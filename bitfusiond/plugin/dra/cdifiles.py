"""The directory in which the container runtime looks for devices: a file of ours for each claim that is prepared.

The runtime reads all of it, whenever something in it changes: a file has its name only when it is whole. It is a few
hundred bytes in a directory of the node's memory: quicker done than handed to a thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bitfusiond.core.pool import cdi
from bitfusiond.core.pool.cdi import Prepared

_PARTIAL = ".bitfusion.io-"  # no runtime reads a name that does not end in .json
_MODE = 0o644


class CdiFiles:
    """Raises OSError where the directory, which need not be there yet, does not permit what is asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, uid: str) -> Path:
        return self.directory / cdi.file_name(uid)

    def read(self, uid: str) -> Prepared | None:
        """What the claim was prepared with; None where there is no file, or none that is ours and whole."""
        try:
            content = self.path(uid).read_bytes()
        except FileNotFoundError:
            return None
        return cdi.read(content, uid)

    def write(self, prepared: Prepared) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        partial = self.directory / f"{_PARTIAL}{prepared.claim.uid}"
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(cdi.write(prepared))
        partial.rename(self.path(prepared.claim.uid))

    def remove(self, uid: str) -> bool:
        """Whether there was a file to remove."""
        try:
            self.path(uid).unlink()
        except FileNotFoundError:
            return False
        return True

    def uids(self) -> Iterator[str]:
        """The UIDs of all claims that have a file."""
        for name in self._names():
            if (uid := cdi.uid_of(name)) is not None:
                yield uid

    def remove_partial(self) -> None:
        """Take away what a run left that was killed."""
        for name in self._names():
            if name.startswith(_PARTIAL):
                (self.directory / name).unlink(missing_ok=True)

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.directory))  # noqa: PTH208 - names are all that is wanted
        except FileNotFoundError:
            return []
