"""What an earlier run or a workload left, taken away."""

from __future__ import annotations

import contextlib
import os
import stat


def remove(location: str) -> None:
    """Take away what is at ``location``, whatever it is; links are not followed. Raises OSError.

    A directory may be closed, even to its owner. What is in it is looked for now: an earlier listing may have been kept
    out of it.
    """
    try:
        mode = os.lstat(location).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        os.unlink(location)
        return
    pending, directories = [location], []
    while pending:
        directory = pending.pop()
        directories.append(directory)
        with contextlib.suppress(PermissionError):  # another user's: it may be open all the same
            os.chmod(directory, stat.S_IRWXU)
        with os.scandir(directory) as found:
            for each in found:
                if each.is_dir(follow_symlinks=False):
                    pending.append(each.path)
                else:
                    os.unlink(each.path)
    for directory in reversed(directories):
        os.rmdir(directory)
