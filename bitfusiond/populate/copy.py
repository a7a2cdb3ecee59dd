"""A tree copied as ``cp -a`` does: content, holes, owners, modes, times, extended attributes, names of one file."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress

from bitfusiond import logs
from bitfusiond.errors import Failure

# What is to be copied, by path; a directory comes before what is in it.
Tree = dict[str, os.stat_result]

_READ = os.O_RDONLY | os.O_NOFOLLOW
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_STEP = 8 << 20  # bytes that one call may copy: how long a signal or a progress line may have to wait
_BUFFER = 256 << 10
_LARGE = 1 << 20  # bytes
# Without CAP_CHOWN only a no-op is allowed (EPERM); in a user namespace the owner may not exist at all (EINVAL).
_NO_OWNER = frozenset({errno.EPERM, errno.EINVAL})
_NO_ATTRIBUTES = frozenset({errno.EPERM, errno.EACCES, errno.EOPNOTSUPP})
# security.* holds labels of a place (the image's would lock the workload out of its volume) and the capabilities of a
# program, which are dropped as set-id bits are; trusted.* is the bookkeeping of filesystems such as overlayfs.
_LEFT_OUT = ("security.", "trusted.", "system.nfs4_acl")
# Set-id bits are dropped: no program of the image runs as somebody whom the pod does not name.
_KEPT_BITS = stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO | stat.S_ISVTX


class Copier:
    """Copies ``tree`` from the directory ``source`` to ``target``, under the paths ``staged`` by its names at the top.

    With ``link`` a file becomes a further name of the one in ``source`` where the filesystem allows it.
    """

    def __init__(
        self, what: str, tree: Tree, source: str, target: str, staged: Mapping[str, str], *, link: bool
    ) -> None:
        self.bytes = sum(info.st_size for info in tree.values() if stat.S_ISREG(info.st_mode))
        self._what, self._tree, self._source, self._target = what, tree, source, target
        self._staged, self._link = staged, link
        self._fast = True  # copy_file_range works here; it shares the bytes where the filesystem can
        self._names: dict[tuple[int, int], str] = {}  # of each file with several: the first that was made
        self._copied = 0
        self._error: BaseException | None = None
        self._next_line = time.monotonic() + 1

    def copy(self) -> None:
        """Raises Failure for what cannot be copied, and before the first byte where there is no room for all."""
        if not self._link:
            _check_room(self._target, self._tree)
        directories: list[str] = []
        small: list[str] = []
        large: list[str] = []
        for path, info in self._tree.items():
            # A file with several names must be there before the others are made.
            is_large = info.st_size >= _LARGE and info.st_nlink == 1
            (directories if stat.S_ISDIR(info.st_mode) else large if is_large else small).append(path)
        self._for_each(self._make, directories)
        # The kernel copies large files while another thread has the interpreter; with small ones two would wait for it.
        rest = iter(large)
        helper = threading.Thread(target=self._for_each, args=(self._make, rest))
        try:
            with suppress(RuntimeError):  # no more threads are allowed: this one makes all
                helper.start()
            self._for_each(self._make, itertools.chain(small, rest))
            if helper.is_alive():
                helper.join()
        except BaseException as error:  # a signal: the process ends when the helper has heard of it
            self._error = error
            raise
        # Last, since each name made inside sets a directory's time; children first, as a directory may be closed to us.
        self._for_each(_copy_metadata, reversed(directories))
        if self._error:
            raise self._error

    def _for_each(self, step: Callable[[os.stat_result, str, str], None], paths: Iterable[str]) -> None:
        """Take ``step`` from where to where each of ``paths`` is copied; an error ends all."""
        for path in paths:
            if self._error:
                return
            try:
                top, slash, inside = path.partition("/")
                step(self._tree[path], f"{self._source}/{path}", f"{self._staged[top]}{slash}{inside}")
            except OSError as error:
                where = f"{self._source}/{path} to {self._target}/{path}"
                self._error = Failure(f"cannot copy {where}: {error.strerror}")
            except BaseException as error:  # noqa: BLE001 - of either thread: copy() raises it
                self._error = error

    def _make(self, info: os.stat_result, source: str, staged: str) -> None:
        """Make one directory, link or file under its hidden name. Raises OSError."""
        if stat.S_ISDIR(info.st_mode):
            os.mkdir(staged, stat.S_IRWXU)
        elif stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(source), staged)
            _copy_metadata(info, source, staged)
        elif not self._linked(info, source, staged):
            reader = os.open(source, _READ)
            try:
                # Its owner must be able to write attributes.
                writer = os.open(staged, _WRITE, info.st_mode & _KEPT_BITS | stat.S_IWUSR)
                try:
                    self._content(info, reader, writer)
                    _copy_metadata(info, reader, writer)
                finally:
                    os.close(writer)
            finally:
                os.close(reader)

    def _linked(self, info: os.stat_result, source: str, staged: str) -> bool:
        """Whether the file could be made as a further name of one that is there, so that no byte is copied."""
        if self._link:
            if _link(source, staged):
                return True
            self._link = False
            _check_room(self._target, self._tree)
        # Inode numbers may be there twice on overlayfs, but not those of files with several names.
        if info.st_nlink < 2:
            return False
        first = self._names.setdefault((info.st_dev, info.st_ino), staged)
        return first != staged and _link(first, staged)

    def _content(self, info: os.stat_result, reader: int, writer: int) -> None:
        """Copy the bytes of a file, its holes as holes; log ``copying`` once a second."""
        sparse = info.st_blocks * 512 < info.st_size
        for start, end in _data(reader, info.st_size) if sparse else [(0, info.st_size)]:
            at = start
            while at < end and not self._error:
                count = self._step(reader, writer, at, min(_STEP, end - at))
                if not count:
                    raise OSError(errno.EIO, f"the source ends after {at} of {info.st_size} bytes")
                at += count
                self._copied += count
                if time.monotonic() >= self._next_line:
                    self._next_line += 1
                    _log.info("copying", what=self._what, bytes=self._copied, of=self.bytes)
        if sparse:
            os.ftruncate(writer, info.st_size)

    def _step(self, reader: int, writer: int, at: int, count: int) -> int:
        """How many bytes were copied: 0 at the end of the source.

        copy_file_range has an error of its own for each filesystem that it does not know, and 0 on some: only what
        reading and writing say is believed.
        """
        if self._fast:
            try:
                if copied := os.copy_file_range(reader, writer, count, at, at):
                    return copied
            except OSError:
                pass
            self._fast = False
        return os.pwrite(writer, os.pread(reader, min(count, _BUFFER), at), at)


_log = logs.Log("populate")


def _check_room(target: str, tree: Tree) -> None:
    """Raises Failure that says what the filesystem of ``target`` lacks for ``tree``."""
    room = os.statvfs(target)
    free = room.f_bavail * room.f_frsize
    # st_blocks counts in 512 bytes whatever the block of the filesystem is.
    needed = sum(info.st_blocks * 512 // max(info.st_nlink, 1) for info in tree.values())
    problems = []
    if needed > free:
        problems.append(
            f"not enough space for {target}: {_mb(needed)} are still to be copied, {_mb(free)} are free: "
            f"make room for {_mb(needed - free)} more"
        )
    # Filesystems that make inodes as they go say 0 of 0.
    if room.f_files and len(tree) > room.f_favail:
        problems.append(
            f"not enough space for {target}: {len(tree)} files and directories are still to be made, "
            f"{room.f_favail} inodes are free"
        )
    if problems:
        raise Failure("; ".join(problems))


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _link(source: str, target: str) -> bool:
    """Whether ``target`` could be made a further name of ``source``."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another filesystem or mount, one without links, too many of them: a copy does
        return False
    return True


def _data(reader: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a sparse file has data, as (start, end): all that is left where the filesystem cannot tell."""
    end = 0
    while end < size:
        try:
            start = os.lseek(reader, end, os.SEEK_DATA)
            hole = os.lseek(reader, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: only a hole is left
                yield end, size
            return
        end = min(hole, size)
        yield start, end


def _copy_metadata(info: os.stat_result, source: int | str, target: int | str) -> None:
    """Give ``target`` what ``info`` says and the extended attributes of ``source``; each a path or a descriptor.

    What is right already stays: a look is cheaper than a change. A change of owner comes first, since it changes the
    mode, and the time last. Owners and attributes that we may not set are left out, as by ``cp -a``. Raises OSError.
    """
    follow = not stat.S_ISLNK(info.st_mode)
    made = os.stat(target, follow_symlinks=follow)
    if (made.st_uid, made.st_gid) != (info.st_uid, info.st_gid):
        try:
            os.chown(target, info.st_uid, info.st_gid, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in _NO_OWNER:
                raise
    if follow:
        _copy_attributes(source, target)
        mode = info.st_mode & _KEPT_BITS
        if stat.S_IMODE(made.st_mode) != mode:
            os.chmod(target, mode)
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=follow)


def _copy_attributes(source: int | str, target: int | str) -> None:
    """Give ``target`` the extended attributes of ``source``, but for those in _LEFT_OUT and any it cannot have."""
    try:
        names = os.listxattr(source)
    except OSError as error:
        if error.errno not in _NO_ATTRIBUTES:
            raise
        return
    for name in names:
        if name.startswith(_LEFT_OUT):
            continue
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:
            if error.errno not in _NO_ATTRIBUTES:
                raise
