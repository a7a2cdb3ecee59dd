"""``opt`` as a symbolic link into the distro's copy: one name in place of thousands.

The workload mounts ``opt`` of the distro's volume as a ``subPath``. The kubelet resolves symbolic links in it, refuses
only those that lead out of the volume, and does so when the container is made: after us.
"""

from __future__ import annotations

import os
from pathlib import Path

from bitfusiond import logs
from bitfusiond.populate import leftovers

_log = logs.Log("populate")


def fits(target: Path, distro_target: Path) -> bool:
    """Whether ``target`` may be a link: it lies in the distro's directory, and is nothing yet or a link already."""
    return (
        (target.is_symlink() or not target.exists())
        and target.parent.is_dir()
        and target.parent.resolve().is_relative_to(distro_target.resolve())
    )


def make(target: Path, tree: Path) -> None:
    """Let ``target`` lead to the directory ``tree``, wherever it led; logs ``linked opt``. Raises OSError."""
    wanted = os.path.relpath(tree.resolve(), target.parent.resolve())
    if target.is_symlink() and os.readlink(target) == wanted:
        _log.info("already there", what="opt", path=str(target))
        return
    partial = target.with_name(f".{target.name}.partial")
    leftovers.remove(str(partial))
    partial.symlink_to(wanted)
    partial.rename(target)
    _log.info("linked opt", path=str(target), to=wanted)
