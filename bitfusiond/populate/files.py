"""Many regular files, copied a directory at a time, by several processes where there is enough to do."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from bitfusiond import logs
from bitfusiond.core import copyplan
from bitfusiond.core.copyplan import Entry
from bitfusiond.errors import Failure
from bitfusiond.populate import crew, processors
from bitfusiond.populate.content import Copier
from bitfusiond.populate.crew import Tally
from bitfusiond.populate.stopping import Stop

# From where to where a path is copied. The names of the files in one directory either all stay or all change.
Route = Callable[[str], tuple[str, str]]
_MOST = 4  # processes: what a disk and a filesystem's journal can take; each needs memory too
_log = logs.Log("populate")


def copy(what: str, entries: Sequence[Entry], route: Route, ways: tuple[str, ...], stop: Stop) -> Counter[str]:
    """Copy each file of ``entries`` from and to where ``route`` says; return how many went which way.

    Logs ``copying`` once a second. Raises Failure for what cannot be copied, and when ``stop`` was asked for.
    """
    copier = Copier(ways)
    progress = _Progress(what, sum(each.size for each in entries))

    def work(batch: Sequence[Entry], tally: Tally) -> None:
        _copy(batch, route, copier, tally)

    return crew.share(copyplan.batches(entries), work, processes(entries), stop, progress.report)


def processes(entries: Sequence[Entry]) -> int:
    """How many are to share the work on ``entries``."""
    return min(_MOST, processors.allowed()) if copyplan.is_much(entries) else 1


def _copy(batch: Sequence[Entry], route: Route, copier: Copier, tally: Tally) -> None:
    directories = [path.rpartition("/") for path in route(batch[0].path)]
    if directories[0][2] != directories[1][2]:
        for entry in batch:
            _copy_one(entry, *route(entry.path), route, copier, tally)
        return
    # Relative to an open directory the kernel does not walk down the whole path for each file.
    with _opened(directories[0][0]) as source_fd, _opened(directories[1][0]) as target_fd:
        for entry in batch:
            name = entry.path.rpartition("/")[2]
            _copy_one(entry, name, name, route, copier, tally, source_fd, target_fd)


def _copy_one(
    entry: Entry,
    source: str,
    target: str,
    route: Route,
    copier: Copier,
    tally: Tally,
    source_fd: int | None = None,
    target_fd: int | None = None,
) -> None:
    try:
        copier.copy(entry, source, target, tally, source_fd, target_fd)
    except OSError as error:
        whole = " to ".join(route(entry.path))
        raise Failure(f"cannot copy {whole}: {os.strerror(error.errno or 0)}") from None


@contextlib.contextmanager
def _opened(directory: str) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class _Progress:
    """A line in the log once a second."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._next = time.monotonic() + 1

    def report(self, copied: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 1
            _log.info("copying", what=self._what, bytes=copied, of=self._total)
