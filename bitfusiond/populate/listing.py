"""A file tree, listed: symbolic links are entries of their own and never followed."""

from __future__ import annotations

import os
import stat

from bitfusiond.core.copyplan import Entry


def of(location: str, name: str, *, closed: bool = False) -> list[Entry]:
    """What is at ``location``, its paths beginning with ``name``; parents before what is in them; empty if nothing is.

    With ``closed`` a directory that may not be read is listed as if it were empty: a workload may have made it under
    another user. Raises OSError for what cannot be read.
    """
    try:
        top = _entry(name, location, os.lstat(location))
    except FileNotFoundError:
        return []
    entries = [top]
    pending = [(location, name)] if top.is_directory else []
    while pending:
        directory, prefix = pending.pop()
        # Names relative to an open directory: the kernel then does not walk down the whole path for each.
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except PermissionError:
            if closed:
                continue
            raise
        try:
            with os.scandir(descriptor) as found:
                for each in found:
                    info = each.stat(follow_symlinks=False)
                    path = f"{prefix}/{each.name}"
                    entries.append(_entry(path, each.name, info, descriptor))
                    if stat.S_ISDIR(info.st_mode):
                        pending.append((f"{directory}/{each.name}", path))
        except PermissionError:  # its names may be read, and nothing about them
            if not closed:
                raise
        finally:
            os.close(descriptor)
    return entries


def _entry(path: str, location: str, info: os.stat_result, descriptor: int | None = None) -> Entry:
    return Entry(
        path,
        info.st_mode,
        info.st_size,
        info.st_blocks * 512,  # st_blocks counts in 512 bytes whatever the filesystem's own block is
        info.st_uid,
        info.st_gid,
        info.st_atime_ns,
        info.st_mtime_ns,
        (info.st_dev, info.st_ino),
        info.st_nlink,
        os.readlink(location, dir_fd=descriptor) if stat.S_ISLNK(info.st_mode) else "",
    )
