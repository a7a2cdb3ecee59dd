"""Is there room? Asked of each filesystem once, for all that will go there, before the first byte goes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from bitfusiond.core.copyplan import Plan
from bitfusiond.errors import Failure
from bitfusiond.populate import content


@dataclass(slots=True)
class _Need:
    directories: list[str] = field(default_factory=list)
    bytes: int = 0
    inodes: int = 0


def check(planned: Iterable[tuple[str, Plan, str]]) -> None:
    """``planned``: a directory, what is to be made in it, and by which way of :mod:`content` its files come.

    Raises Failure that says what is missing, of each filesystem that is too full.
    """
    needs: dict[int, _Need] = {}
    for directory, plan, way in planned:
        # Two volumes of a pod are most often two directories of one filesystem.
        need = needs.setdefault(os.stat(directory).st_dev, _Need())
        need.directories.append(directory)
        need.inodes += plan.inodes(linked=way == content.HARD_LINK)
        need.bytes += 0 if way in content.SHARING else plan.space(os.statvfs(directory).f_frsize)
    problems = [problem for need in needs.values() for problem in _problems(need)]
    if problems:
        raise Failure("; ".join(problems))


def _problems(need: _Need) -> list[str]:
    where = f"not enough space for {' and '.join(need.directories)}"
    room = os.statvfs(need.directories[0])
    free = room.f_bavail * room.f_frsize
    problems = []
    if need.bytes > free:
        problems.append(
            f"{where}: {_mb(need.bytes)} are still to be copied, {_mb(free)} are free: "
            f"make room for {_mb(need.bytes - free)} more"
        )
    # Filesystems that make inodes as they go say 0 of 0.
    if room.f_files and need.inodes > room.f_favail:
        problems.append(
            f"{where}: {need.inodes} files and directories are still to be made, {room.f_favail} inodes are free"
        )
    return problems


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
