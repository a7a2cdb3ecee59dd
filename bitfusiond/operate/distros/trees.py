"""A tree on disk: made under a hidden name, shown under its own when it is whole; what is in it."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bitfusiond.core.clients import packages
from bitfusiond.errors import Failure


class Making:
    """``tree`` in the making, at ``partial``."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self.partial, self._old = (tree.with_name(f".{tree.name}.{kind}") for kind in ("partial", "old"))

    def show(self) -> None:
        """It is whole: put it in the place of the one before. Raises OSError."""
        if self.tree.exists():
            self.tree.rename(self._old)
        self.partial.rename(self.tree)

    def clear(self) -> None:
        """Delete what is left of this try, or of one that was killed. Raises OSError."""
        for leftover in (self.partial, self._old):
            _remove(leftover)


@contextmanager
def making(tree: Path) -> Iterator[Making]:
    """Make ``tree``: what was not shown at the end is deleted.

    Raises Failure where something that is no directory has its name, OSError.
    """
    it = Making(tree)
    it.clear()
    if tree.is_symlink() or (tree.exists() and not tree.is_dir()):
        raise Failure(f"{tree}: not a directory, and in the way of the distro: move it elsewhere")
    try:
        yield it
    finally:
        it.clear()


class Content(NamedTuple):
    """Paths relative to the tree's top; ``others`` are neither files, directories nor links.

    ``needed`` has the modes and sizes of what every client has.
    """

    needed: dict[str, tuple[int, int]]
    directories: frozenset[str]
    others: tuple[str, ...]
    bytes: int
    digest: str


def content(tree: Path) -> Content:
    """What is below ``tree``, links not followed; nothing where it is not there. Raises OSError."""
    infos = {str(path.relative_to(tree)): path.lstat() for path in _walk(tree)}
    digest = hashlib.sha256()
    total = 0
    for name, info in sorted(infos.items()):
        link = (tree / name).readlink() if stat.S_ISLNK(info.st_mode) else ""
        size = info.st_size if stat.S_ISREG(info.st_mode) else 0  # a directory's own differs between filesystems
        total += size
        digest.update(os.fsencode(f"{name}\0{info.st_mode:o} {size} {info.st_mtime_ns} {info.st_nlink}\0{link}\0"))
    kinds = {name: stat.S_IFMT(info.st_mode) for name, info in infos.items()}
    needed = {name: infos[name] for name in (packages.PROGRAM, packages.OPT) if name in infos}
    return Content(
        {name: (info.st_mode, info.st_size) for name, info in needed.items()},
        frozenset(name for name, kind in kinds.items() if kind == stat.S_IFDIR),
        tuple(sorted(name for name, kind in kinds.items() if kind not in {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK})),
        total,
        digest.hexdigest(),
    )


def _walk(directory: Path) -> Iterator[Path]:
    """All that is below ``directory``, a directory before what is in it; links are not followed."""
    if directory.is_dir():
        for path in directory.iterdir():
            yield path
            if path.is_dir() and not path.is_symlink():
                yield from _walk(path)


def _remove(path: Path) -> None:
    """Delete a tree of ours, if it is there. Raises OSError."""
    if not path.exists():
        return
    # A directory of a package may be read-only, and whoever is not root could not delete what is in it.
    path.chmod(stat.S_IRWXU)
    for directory, names, _ in os.walk(path):
        for name in names:
            below = Path(directory, name)
            if not below.is_symlink():
                below.chmod(stat.S_IRWXU)
    shutil.rmtree(path)
