"""The directory in which the demo works."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

_LONGEST = 60  # characters: the address of a unix socket has at most 107


def make() -> Path:
    """A new directory whose path is short and plain enough for sockets and for words in a shell script."""
    parent = tempfile.gettempdir()
    if len(parent) > _LONGEST or not re.fullmatch(r"[\w/.-]+", parent, re.ASCII):
        parent = "/tmp"
    return Path(tempfile.mkdtemp(prefix="bitfusiond-", dir=parent)).resolve()


def remove(directory: Path) -> None:
    """``directory`` with everything in it, also what init copied read-only."""
    for path, _, _ in os.walk(directory):
        Path(path).chmod(0o700)
    shutil.rmtree(directory)
