"""Files that somebody else replaces: polled, as the kubelet swaps a mounted ConfigMap or Secret by a symbolic link.

inotify on such a path sees nothing: the link two directories up is what changes. A stat a second costs nothing and
works on every filesystem.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import trio

from bitfusiond import logs

POLL_SECONDS = 1.0
# A try that took long and failed is followed by a pause of so many times as long: a pool of many thousand GPUs takes
# seconds to read, and whoever asks for anything else waits meanwhile.
_LONG_SECONDS = 0.25
_PAUSES = 20

ValueT = TypeVar("ValueT")

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

        One that raises is called again at every poll, less often where it takes long: that no file descriptor was left,
        or the disk did not answer, changes no file when it is over. ``failed`` is told of it where the words are not
        those of the last time.
        """
        loaded, told, due = True, "", 0.0
        while True:
            await trio.sleep(POLL_SECONDS)
            now = self._signatures()
            if now != self._seen:
                self._seen = now
                loaded, told, due = False, "", 0.0
            if not loaded and time.monotonic() >= due:
                began = time.monotonic()
                try:
                    load()
                    loaded = True
                except Exception as error:  # noqa: BLE001 - whatever is in a file must not end the role
                    took = time.monotonic() - began
                    due = began + took * _PAUSES if took >= _LONG_SECONDS else 0.0
                    if repr(error) != told:
                        told = repr(error)
                        failed(error)

    def _signatures(self) -> list[Signature | None]:
        return [signature(path) for path in self._paths]


class Followed(Generic[ValueT]):
    """The last good value that ``load`` made of ``paths``: call it for that.

    ``taken_up`` and ``not_taken_up`` are the events of the log.
    """

    def __init__(
        self, log: logs.Log, load: Callable[[], ValueT], *paths: Path, taken_up: str, not_taken_up: str
    ) -> None:
        """Raises what ``load`` raises."""
        self._log = log
        self._load = load
        self._paths = paths
        self._taken_up = taken_up
        self._not_taken_up = not_taken_up
        self._watch = Watch(*paths)
        self._value = load()

    def __call__(self) -> ValueT:
        return self._value

    async def follow(self) -> None:
        """Take up changed files, for ever. What they hold is in force for whoever asks next."""
        await self._watch.follow(self._reload, self._not_reloaded)

    def _reload(self) -> None:
        self._value = self._load()
        self._log.info(self._taken_up, path=str(self._paths[0]))

    def _not_reloaded(self, error: Exception) -> None:
        self._log.error(self._not_taken_up, message=str(error))
