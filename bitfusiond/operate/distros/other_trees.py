"""Trees of other clients: directories and wheels, copied as they are."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

from bitfusiond.errors import Failure
from bitfusiond.operate.distros import report, trees


def ensure_tree(name: str, path: Path, out: Path) -> None:
    """Make sure of the tree of another client, out of a directory or a wheel.

    It is always copied anew, and shown under its own name when it is whole. Raises Failure, OSError, shutil.Error or
    zipfile.BadZipFile.
    """
    with trees.making(out / name) as new:
        if path.is_dir():
            shutil.copytree(path, new.partial, symlinks=True)
        else:
            _unzip(path, new.partial)
        made = trees.content(new.partial)
        if made.others or not made.bytes:
            lacks = "there is nothing in it" if not made.bytes else f"{made.others[0]} is neither file nor link"
            raise Failure(f"not a client: {lacks}")
        new.partial.chmod(0o755)
        new.show()
    report.say(f"{path.name}: {name}, copied, {made.bytes / 1e6:.1f} MB")


def _unzip(path: Path, into: Path) -> None:
    """Extract a wheel; what would lead out of ``into`` is put below it. Programs stay executable."""
    with zipfile.ZipFile(path) as wheel:
        for each in wheel.infolist():
            placed = Path(wheel.extract(each, into))
            placed.chmod(0o755 if each.is_dir() or each.external_attr >> 16 & 0o111 else 0o644)
    for directory, _, _ in os.walk(into):
        Path(directory).chmod(0o755)
