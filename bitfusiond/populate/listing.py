"""A file tree, listed: symbolic links are entries of their own and never followed."""

from __future__ import annotations

import os
import stat

from bitfusiond.core.copyplan import Entry


def of(location: str, name: str) -> list[Entry]:
    """What is at ``location``, its paths beginning with ``name``; parents before what is in them; empty if nothing is.

    Raises OSError for what cannot be read.
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
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            with os.scandir(descriptor) as found:
                for each in found:
                    info = each.stat(follow_symlinks=False)
                    path = f"{prefix}/{each.name}"
                    entries.append(_entry(path, each.name, info, descriptor))
                    if stat.S_ISDIR(info.st_mode):
                        pending.append((f"{directory}/{each.name}", path))
        finally:
            os.close(descriptor)
    return entries


def names(location: str, name: str) -> set[str]:
    """The paths of all that is at ``location``, as :func:`of` lists it. Most of the time of that is the look at each.

    Raises OSError for what is not there or cannot be read.
    """
    found = {name}
    pending = [(location, name)] if stat.S_ISDIR(os.lstat(location).st_mode) else []
    while pending:
        directory, prefix = pending.pop()
        with os.scandir(directory) as inside:
            for each in inside:
                path = f"{prefix}/{each.name}"
                found.add(path)
                if each.is_dir(follow_symlinks=False):
                    pending.append((each.path, path))
    return found


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
