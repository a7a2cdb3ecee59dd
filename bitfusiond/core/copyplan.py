"""What is to be done so that a copy of a file tree is whole: decided from two listings, as values.

The listings come from elsewhere (:mod:`bitfusiond.populate.listing`); nothing here touches a filesystem.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

SET_ID = stat.S_ISUID | stat.S_ISGID
_COPYABLE = frozenset({stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK})


class UncopyableError(ValueError):
    """The tree holds something that has no place in a client: a FIFO, a socket, a device."""


class Entry(NamedTuple):
    """One name in a tree. ``path`` is relative, with ``/`` between; the kind is in ``mode``, as in ``st_mode``."""

    path: str
    mode: int
    size: int  # bytes
    allocated: int  # bytes on disk; fewer than size in a sparse file
    uid: int
    gid: int
    accessed: int  # nanoseconds
    modified: int  # nanoseconds
    inode: tuple[int, int]  # device and inode number: equal for the names of one file
    names: int  # how many names the file has on its filesystem, outside the tree too
    target: str = ""  # what a symbolic link holds

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def is_sparse(self) -> bool:
        return self.allocated < self.size


_LARGE = 1 << 20  # bytes
_AT_ONCE = 256  # files: how long a signal or a progress line may have to wait
_OVERHEAD = 64 << 10  # bytes that can be copied in the time that a file costs whatever its size
_MUCH = 32 << 20  # bytes: some ten milliseconds, several times what a process costs


@dataclass(slots=True)
class Plan:
    """Steps in the order in which they are to be taken; parents come before what is in them.

    ``remove`` is what a killed run left half done, or what does not belong: a directory goes with all that is in it.
    ``reopen`` are directories that are there, to be made writable for the time of the copy. ``finish`` are all
    directories, children before parents: owners, modes and times come last, since each name made inside sets a
    directory's time.
    """

    remove: list[Entry] = field(default_factory=list)
    reopen: list[Entry] = field(default_factory=list)
    directories: list[Entry] = field(default_factory=list)
    files: list[Entry] = field(default_factory=list)
    further_names: list[tuple[Entry, Entry]] = field(default_factory=list)  # (the name, the file's first name)
    links: list[Entry] = field(default_factory=list)
    finish: list[Entry] = field(default_factory=list)
    kept: int = 0  # files that an earlier run copied whole

    @property
    def bytes(self) -> int:
        return sum(entry.size for entry in self.files)

    def space(self, block: int) -> int:
        """Bytes that the files will take on a filesystem with blocks of ``block`` bytes."""
        return sum(
            entry.allocated if entry.is_sparse else -(-entry.size // block) * block for entry in self.files
        ) + block * len(self.directories)

    def inodes(self, *, linked: bool = False) -> int:
        """How many files, directories and links are to be made; ``linked`` files are names of some that are there."""
        return (0 if linked else len(self.files)) + len(self.directories) + len(self.links)


def decide(wanted: Sequence[Entry], present: Mapping[str, Entry]) -> Plan:
    """The plan that makes ``wanted`` out of ``present``, which an earlier run may have left.

    A file that is there with the size, mode and time of the wanted one is whole, since its time is set last. Raises
    UncopyableError that names every path which cannot be copied.
    """
    plan = Plan()
    kept: set[str] = set()
    strange: list[str] = []
    first_names: dict[tuple[int, int], Entry] = {}
    for entry in wanted:
        kind = stat.S_IFMT(entry.mode)
        if kind not in _COPYABLE:
            strange.append(f"{entry.path} is {_kind(entry.mode)}")
            continue
        if kind == stat.S_IFDIR:
            plan.finish.append(entry)
        there = present.get(entry.path)
        first = first_names.setdefault(entry.inode, entry) if kind == stat.S_IFREG and entry.names > 1 else entry
        if there is not None and _whole(entry, there) and _one_file(first, entry, present, kept):
            kept.add(entry.path)
            plan.kept += kind != stat.S_IFDIR
            if kind == stat.S_IFDIR and there.mode & stat.S_IRWXU != stat.S_IRWXU:
                plan.reopen.append(entry)
        elif kind == stat.S_IFDIR:
            plan.directories.append(entry)
        elif kind == stat.S_IFLNK:
            plan.links.append(entry)
        elif first is not entry:
            plan.further_names.append((entry, first))
        else:
            plan.files.append(entry)
    if strange:
        raise UncopyableError("; ".join(strange))
    plan.remove = [entry for path, entry in present.items() if path not in kept]
    plan.finish.reverse()
    return plan


def batches(files: Sequence[Entry]) -> list[list[Entry]]:
    """``files``, in batches that several processes can take one after the other, each of one directory.

    Each large one is a batch, the largest first, so that none is left for the end; the others stay together by
    directory, since processes that make names in one directory wait for each other.
    """
    large = sorted((each for each in files if each.size >= _LARGE), key=lambda each: each.size, reverse=True)
    directories: dict[str, list[Entry]] = {}
    for entry in files:
        if entry.size < _LARGE:
            directories.setdefault(entry.path.rpartition("/")[0], []).append(entry)
    return [[each] for each in large] + [
        inside[start : start + _AT_ONCE] for inside in directories.values() for start in range(0, len(inside), _AT_ONCE)
    ]


def is_much(entries: Sequence[Entry]) -> bool:
    """Whether it takes so long to copy ``entries`` that sharing the work is worth its while."""
    return sum(entry.size for entry in entries) + len(entries) * _OVERHEAD > _MUCH


def shortfall(wanted: Sequence[Entry], present: Mapping[str, Entry]) -> str | None:
    """The first thing by which ``present`` falls short of ``wanted``, in words; None when it is whole.

    Only kinds, sizes and link targets count: a workload may have touched the files since, or added some.
    """
    for entry in wanted:
        there = present.get(entry.path)
        if there is None:
            return f"{entry.path} is missing"
        if stat.S_IFMT(there.mode) != stat.S_IFMT(entry.mode):
            return f"{entry.path} is of another kind"
        if entry.is_file and there.size != entry.size:
            return f"{entry.path} has {there.size} bytes instead of {entry.size}"
        if entry.target != there.target:
            return f"{entry.path} points elsewhere"
    return None


def _whole(entry: Entry, there: Entry) -> bool:
    if entry.is_directory:
        return there.is_directory
    # A user who may not give a file its owner leaves set-id bits out; until the time is set they may be missing too.
    return (entry.mode | SET_ID, entry.size, entry.modified, entry.target) == (
        there.mode | SET_ID,
        there.size,
        there.modified,
        there.target,
    )


def _one_file(first: Entry, entry: Entry, present: Mapping[str, Entry], kept: set[str]) -> bool:
    """Whether two names of one file are names of one file in the copy too."""
    return first is entry or (first.path in kept and present[first.path].inode == present[entry.path].inode)


def _kind(mode: int) -> str:
    return "a FIFO" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
