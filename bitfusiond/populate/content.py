"""One regular file, copied by the cheapest way that the two filesystems allow."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator

from bitfusiond.core.copyplan import Entry
from bitfusiond.errors import Failure
from bitfusiond.populate import attributes, leftovers
from bitfusiond.populate.crew import Tally

# Ways, cheapest first. The first two take no space and always the whole file.
HARD_LINK = "hard link"
REFLINK = "reflink"
COPY_FILE_RANGE = "copy_file_range"
SENDFILE = "sendfile"
READ_WRITE = "read and write"
EMPTY = "empty"  # needs none
WAYS = (HARD_LINK, REFLINK, COPY_FILE_RANGE, SENDFILE, READ_WRITE)
SHARING = frozenset({HARD_LINK, REFLINK})

PROBE, SAMPLE = ".bitfusiond-probe", ".bitfusiond-sample"  # what a killed run may leave in a volume
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FICLONE = 0x40049409  # linux/fs.h; the fcntl module names it from Python 3.12 on
_READ = os.O_RDONLY | os.O_NOFOLLOW
# Never through what is there already: a link, or the half file of a killed run.
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_STEP = 8 << 20  # bytes that one call may copy: how long a signal or a progress line may have to wait
_BUFFER = 256 << 10
# What a filesystem, a kernel or a seccomp profile answers when it does not know a way. EXDEV is the usual one: an
# image's overlay and a volume are two filesystems, and two volumes are two mounts, across which no hard link goes.
_NOT_HERE = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENOTTY, errno.EOPNOTSUPP, errno.EMLINK}
)


class Copier:
    """Copies file after file; a way that turns out not to work here is not tried again."""

    def __init__(self, ways: tuple[str, ...] = WAYS) -> None:
        self.ways = ways
        self._stepwise = _first_stepwise(ways)

    def copy(
        self,
        entry: Entry,
        source: str,
        target: str,
        tally: Tally,
        source_fd: int | None = None,
        target_fd: int | None = None,
    ) -> None:
        """Make the file ``target`` like ``source``, of which ``entry`` was read; each may be relative to a directory.

        Raises OSError, or Failure if ``source`` is not as long as it was.
        """
        if HARD_LINK in self.ways and self.link(source, target, source_fd, target_fd):
            tally.ways[HARD_LINK] += 1
            tally.bytes += entry.size
            return
        reader = os.open(source, _READ, dir_fd=source_fd)
        try:
            writer = os.open(target, _WRITE, entry.mode & attributes.PLAIN, dir_fd=target_fd)
            try:
                tally.ways[self._content(entry, reader, writer, tally)] += 1
                attributes.carry(entry, reader, writer)
            finally:
                os.close(writer)
        finally:
            os.close(reader)

    def link(self, source: str, target: str, source_fd: int | None = None, target_fd: int | None = None) -> bool:
        """Whether ``target`` now is a further name of ``source``."""
        try:
            os.link(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
        except OSError as error:
            self._give_up(HARD_LINK, error)
            return False
        return True

    def clone(self, reader: int, writer: int) -> bool:
        """Whether ``writer`` now shares the bytes of ``reader``; each is changed without the other."""
        try:
            fcntl.ioctl(writer, _FICLONE, reader)
        except OSError as error:
            self._give_up(REFLINK, error)
            return False
        return True

    def _content(self, entry: Entry, reader: int, writer: int, tally: Tally) -> str:
        size = entry.size
        if size == 0:
            return EMPTY
        if REFLINK in self.ways and self.clone(reader, writer):
            tally.bytes += size
            return REFLINK
        if entry.allocated < size:  # sparse
            for offset, end in _extents(reader, entry):
                self._range(entry, reader, writer, offset, end, tally)
            os.ftruncate(writer, size)
        else:
            self._range(entry, reader, writer, 0, size, tally)
        return self._stepwise

    def _range(self, entry: Entry, reader: int, writer: int, offset: int, end: int, tally: Tally) -> None:
        while offset < end:
            way = self._stepwise
            try:
                count = _STEPS[way](reader, writer, offset, min(_STEP, end - offset))
            except OSError as error:
                self._give_up(way, error)
                continue
            if count == 0 and way == READ_WRITE:
                raise Failure(f"{entry.path}: the source ends after {offset} of {entry.size} bytes")
            if count == 0:
                # Some filesystems answer so instead of with an error; reading tells the difference.
                self._drop(way)
            offset += count
            tally.bytes += count
            if offset < end:
                tally.step()

    def _give_up(self, way: str, error: OSError) -> None:
        """Try ``way`` no more. Raises the error again if it says something else than that the way does not work."""
        if error.errno not in _NOT_HERE or way == READ_WRITE:
            raise error
        self._drop(way)

    def _drop(self, way: str) -> None:
        self.ways = tuple(each for each in self.ways if each != way)
        self._stepwise = _first_stepwise(self.ways)


def _first_stepwise(ways: tuple[str, ...]) -> str:
    return next(way for way in ways if way not in SHARING)


def _extents(reader: int, entry: Entry) -> Iterator[tuple[int, int]]:
    """Where a sparse file has data, as (start, end)."""
    end = 0
    while end < entry.size:
        try:
            start = os.lseek(reader, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: only a hole is left
                raise
            return
        end = min(os.lseek(reader, start, os.SEEK_HOLE), entry.size)
        yield start, end


def _copy_file_range(reader: int, writer: int, offset: int, count: int) -> int:
    return os.copy_file_range(reader, writer, count, offset, offset)


def _sendfile(reader: int, writer: int, offset: int, count: int) -> int:
    os.lseek(writer, offset, os.SEEK_SET)
    return os.sendfile(writer, reader, offset, count)


def _read_write(reader: int, writer: int, offset: int, count: int) -> int:
    return os.pwrite(writer, os.pread(reader, min(count, _BUFFER), offset), offset)


_STEPS: dict[str, Callable[[int, int, int, int], int]] = {
    COPY_FILE_RANGE: _copy_file_range,
    SENDFILE: _sendfile,
    READ_WRITE: _read_write,
}


def ways_between(sample: str, target: str, ways: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``ways`` that lead from the file ``sample`` into the directory ``target``.

    Those that take no space are tried, since whether a copy needs room must be known before it begins. What is too full
    to be tried needs room. Raises OSError if ``target`` cannot be written to.
    """
    probe = f"{target}/{PROBE}"
    copier = Copier(ways)
    try:
        if not (HARD_LINK in ways and copier.link(sample, probe)):
            with open(sample, "rb") as reader, open(probe, "xb") as writer:
                copier.clone(reader.fileno(), writer.fileno())
    except OSError as error:
        if error.errno not in FULL:
            raise
        return not_sharing(ways)
    finally:
        leftovers.remove(probe)
    return copier.ways


def not_sharing(ways: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``ways`` that take room."""
    return tuple(way for way in ways if way not in SHARING)
