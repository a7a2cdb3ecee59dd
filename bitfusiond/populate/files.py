"""Many regular files, copied a directory at a time, by several processes where there is enough to do."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence

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
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
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
    entry = batch[0]
    source_fd = target_fd = None
    try:
        # Relative to an open directory the kernel does not walk down the whole path for each file.
        (source, _, name), (target, _, renamed) = (path.rpartition("/") for path in route(entry.path))
        if name == renamed:
            source_fd, target_fd = os.open(source, _DIRECTORY), os.open(target, _DIRECTORY)
            for entry in batch:
                name = entry.path.rpartition("/")[2]
                copier.copy(entry, name, name, tally, source_fd, target_fd)
        else:
            for entry in batch:
                copier.copy(entry, *route(entry.path), tally)
    except OSError as error:
        whole = " to ".join(route(entry.path))
        raise Failure(f"cannot copy {whole}: {os.strerror(error.errno or 0)}") from None
    finally:
        for descriptor in (source_fd, target_fd):
            if descriptor is not None:
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
