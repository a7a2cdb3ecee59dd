"""What a file has besides its content: owner, extended attributes, mode, times."""

from __future__ import annotations

import errno
import os
import stat

from bitfusiond.core.copyplan import SET_ID, Entry
from bitfusiond.errors import Failure

# Without CAP_CHOWN only a no-op is allowed (EPERM); in a user namespace the owner may not exist at all (EINVAL).
_NOT_ALLOWED = frozenset({errno.EPERM, errno.EINVAL})
_refused: set[tuple[int, int]] = set()  # owners; whether we may give them depends on who we are alone
_NO_ATTRIBUTES = frozenset({errno.EPERM, errno.EACCES, errno.EOPNOTSUPP})
# Labels belong to a place, not to a file: a volume has the label of its pod, and the image's would lock the workload
# out. trusted.* is the bookkeeping of filesystems such as overlayfs.
_OF_THE_PLACE = ("security.selinux", "trusted.", "system.nfs4_acl")


PLAIN = stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO  # what of a mode a file may have while it is half


def carry(entry: Entry, source: int | str, target: int | str) -> None:
    """Give ``target`` what ``entry`` says and the extended attributes of ``source``; both a path or a descriptor.

    What is right already stays: most files are made with their owner and mode, and a look is cheaper than a change.
    The order matters: a change of owner takes set-id bits and file capabilities away, and the time comes last, as the
    mark of a file that is whole. Owners and extended attributes that we may not set are left out, and where the owner
    is, set-id bits too, as `cp -a` does: they would run the program as somebody whom nobody meant. Raises Failure for a
    file of another size, OSError.
    """
    made = os.stat(target)
    if made.st_size != entry.size and entry.is_file:
        raise Failure(f"{entry.path}: the copy has {made.st_size} bytes instead of {entry.size}")
    mode, wanted = stat.S_IMODE(made.st_mode), stat.S_IMODE(entry.mode)
    if made.st_uid != entry.uid or made.st_gid != entry.gid:
        if not _own(entry, target):
            wanted &= ~SET_ID
        mode &= ~SET_ID
    for name in _attribute_names(source):
        if not name.startswith(_OF_THE_PLACE):
            _attribute(name, source, target)
    if mode != wanted:
        os.chmod(target, wanted)
    os.utime(target, ns=(entry.accessed, entry.modified))


def carry_to_link(entry: Entry, target: str) -> None:
    """The same for the symbolic link ``target``, which has neither a mode nor extended attributes of its own."""
    _own(entry, target, follow=False)
    os.utime(target, ns=(entry.accessed, entry.modified), follow_symlinks=False)


def _own(entry: Entry, target: int | str, *, follow: bool = True) -> bool:
    """Whether ``target`` now has its owner and group. What was refused once is not asked for again, for speed."""
    owner = (entry.uid, entry.gid)
    if owner in _refused:
        return False
    try:
        os.chown(target, *owner, follow_symlinks=follow)
    except OSError as error:
        if error.errno not in _NOT_ALLOWED:
            raise
        _refused.add(owner)
        return False
    return True


def _attribute(name: str, source: int | str, target: int | str) -> None:
    try:
        os.setxattr(target, name, os.getxattr(source, name))
    except OSError as error:
        if error.errno not in _NO_ATTRIBUTES:
            raise


def _attribute_names(source: int | str) -> list[str]:
    try:
        return os.listxattr(source)
    except OSError as error:
        if error.errno not in _NO_ATTRIBUTES:
            raise
        return []
