"""Files that somebody else replaces: polled, as the kubelet swaps a mounted ConfigMap or Secret by a symbolic link.

inotify on such a path sees nothing: the link two directories up is what changes. A stat a second costs nothing and
works on every filesystem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import trio

POLL_SECONDS = 1.0

Signature = tuple[int, int, int, int, int]


def signature(path: Path) -> Signature | None:
    """What changes whenever the file does (through links); None where it cannot be seen.

    The inode alone is not enough, as a freed number is given to the next file.
    """
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_ctime_ns, stat.st_mtime_ns, stat.st_size


async def watch(paths: Iterable[Path], changed: Callable[[], None]) -> None:
    """Call ``changed()`` whenever one of ``paths`` was changed, for ever; ends by cancellation."""
    watched = tuple(paths)
    seen = [signature(path) for path in watched]
    while True:
        await trio.sleep(POLL_SECONDS)
        now = [signature(path) for path in watched]
        if now != seen:
            seen = now
            changed()
