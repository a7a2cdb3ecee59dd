"""Files that somebody else replaces: polled, as the kubelet swaps a mounted ConfigMap or Secret by a symbolic link.

inotify on such a path sees nothing: the link two directories up is what changes. A stat a second costs nothing and
works on every filesystem.
"""

from __future__ import annotations

from collections.abc import Callable
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


class Watch:
    """Files as they were when this was made: make it before they are read, so that no change falls in between."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._seen = self._signatures()

    async def follow(self, load: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        """Call ``load()`` whenever one of the files was changed, for ever; ends by cancellation.

        One that raises is called again at every poll: that no file descriptor was left, or the disk did not answer,
        changes no file when it is over. ``failed`` is told of it where the words are not those of the last time.
        """
        loaded, told = True, ""
        while True:
            await trio.sleep(POLL_SECONDS)
            now = self._signatures()
            if now != self._seen:
                self._seen = now
                loaded, told = False, ""
            if not loaded:
                try:
                    load()
                    loaded = True
                except Exception as error:  # noqa: BLE001 - whatever is in a file must not end the role
                    if repr(error) != told:
                        told = repr(error)
                        failed(error)

    def _signatures(self) -> list[Signature | None]:
        return [signature(path) for path in self._paths]
