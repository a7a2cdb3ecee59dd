"""Whole trees: what the image has, what a volume lacks of it, and the rename that makes what was copied appear."""

from __future__ import annotations

import os
import stat
import time

from bitfusiond import logs
from bitfusiond.errors import Failure
from bitfusiond.populate import hidden
from bitfusiond.populate.copy import Copier, Tree

_STRANGE = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
_log = logs.Log("populate")


def listed(directory: str, top: str) -> Tree:
    """What there is at ``top`` in ``directory``, by path from there; empty if nothing is. Raises OSError."""
    try:
        tree = {top: os.lstat(f"{directory}/{top}")}
    except FileNotFoundError:
        return {}
    pending = [top] if stat.S_ISDIR(tree[top].st_mode) else []
    while pending:
        parent = pending.pop()
        with os.scandir(f"{directory}/{parent}") as names:
            for each in names:
                path = f"{parent}/{each.name}"
                tree[path] = info = each.stat(follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    pending.append(path)
    return tree


def uncopyable(tree: Tree) -> list[str]:
    """What has no place in a client, in words."""
    kinds = {path: stat.S_IFMT(info.st_mode) for path, info in tree.items()}
    return [f"{path} is {_STRANGE[kind]}" for path, kind in kinds.items() if kind in _STRANGE]


def place(what: str, package: str, tree: Tree, source: str, target: str, *, link: bool = False) -> None:
    """Let ``tree``, which is in ``source``, be in ``target``; each name at its top appears when all is whole.

    A name that is there and whole stays as it is, one that is not is made anew. ``link``: see :class:`Copier`. Logs
    ``already there`` or ``copied WHAT``. Raises OSError or Failure.
    """
    started = time.monotonic()
    short = _shortfalls(tree, source, target)
    if not short:
        _log.info("already there", what=what, package=package, path=target)
        return
    for top, reason in short.items():
        if os.path.lexists(f"{target}/{top}"):
            _log.warning("incomplete tree found", what=what, path=f"{target}/{top}", reason=reason)
            aside = hidden.name(target)
            os.rename(f"{target}/{top}", aside)
            hidden.remove(aside)
    staged = {top: hidden.name(target) for top in short}
    missing = {path: info for path, info in tree.items() if _top(path) in short}
    copier = Copier(what, missing, source, target, staged, link=link)
    try:
        copier.copy()
    except (Failure, OSError):
        for each in staged.values():
            hidden.remove(each)  # a volume that is full would stay so for others of the node
        raise
    for top, path in staged.items():
        os.rename(path, f"{target}/{top}")
    _log.info(
        f"copied {what}",
        package=package,
        path=target,
        files=sum(not stat.S_ISDIR(info.st_mode) for info in missing.values()),
        bytes=copier.bytes,
        seconds=round(time.monotonic() - started, 3),
    )


def _top(path: str) -> str:
    return path.partition("/")[0]


def _shortfalls(tree: Tree, source: str, target: str) -> dict[str, str]:
    """By name at the top of ``tree``: the first thing by which ``target`` falls short of it, in words.

    That a name is there does not prove that it is whole: the volume of a pod outlives a crash of its node, the kubelet
    then runs us again, and what had not reached the disk by then is missing or short. Looking costs milliseconds; an
    fsync of each file would cost every pod seconds. Only kinds, sizes and link targets count: a workload may have
    touched the files since, or added some.
    """
    short: dict[str, str] = {}
    for path, info in tree.items():
        if _top(path) not in short and (reason := _shortfall(info, f"{source}/{path}", f"{target}/{path}")):
            short[_top(path)] = f"{path} {reason}"
    return short


def _shortfall(info: os.stat_result, source: str, target: str) -> str | None:
    """How ``target`` falls short of ``source``, of which ``info`` is the lstat; None if it does not."""
    try:
        present = os.lstat(target)
    except OSError:  # not there, or the workload closed what it is in
        return "is missing"
    if stat.S_IFMT(present.st_mode) != stat.S_IFMT(info.st_mode):
        return "is of another kind"
    if stat.S_ISREG(info.st_mode) and present.st_size != info.st_size:
        return f"has {present.st_size} bytes instead of {info.st_size}"
    if stat.S_ISLNK(info.st_mode) and os.readlink(target) != os.readlink(source):
        return "points elsewhere"
    return None
