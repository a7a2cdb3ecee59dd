"""Names in a volume that are ours until something is whole: no workload sees one, and the next run takes all away."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

_PREFIX = ".bitfusiond-"


def name(directory: str) -> str:
    """The path of a hidden name in ``directory`` that nothing has."""
    return f"{directory}/{_PREFIX}{os.urandom(8).hex()}"


def clear(directory: str) -> None:
    """Take away what a killed run left in ``directory``. Raises OSError where it cannot be read."""
    for each in os.listdir(directory):
        if each.startswith(_PREFIX):
            remove(f"{directory}/{each}")


def remove(path: str) -> None:
    """Take away what is at ``path``, whatever it is; symbolic links are not followed.

    What another user closed to us stays, and is in nobody's way under a hidden name.
    """
    pending, directories = [path], []
    while pending:
        each = pending.pop()
        with suppress(OSError):
            if not stat.S_ISDIR(os.lstat(each).st_mode):
                os.unlink(each)
                continue
            directories.append(each)
            with suppress(OSError):  # another user's: it may be open all the same
                os.chmod(each, stat.S_IRWXU)  # closed, it would be so to its owner too
            pending += [f"{each}/{inside}" for inside in os.listdir(each)]
    for each in reversed(directories):
        with suppress(OSError):
            os.rmdir(each)
