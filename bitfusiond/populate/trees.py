"""A tree that is to appear in a volume: looked at, planned, copied under a hidden name, shown under its own.

Names with ``partial`` in them are ours: ``.NAME.partial`` beside NAME, in one directory, so that a rename is all that
makes a whole tree appear.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bitfusiond import logs
from bitfusiond.core import copyplan
from bitfusiond.core.copyplan import Entry
from bitfusiond.errors import Failure
from bitfusiond.populate import attributes, files, listing
from bitfusiond.populate.content import Copier
from bitfusiond.populate.crew import Tally
from bitfusiond.populate.stopping import Stop

_log = logs.Log("populate")


@dataclass(frozen=True, slots=True)
class Tree:
    """What is to be in a directory of a volume: ``wanted``, whose paths count from ``source``.

    What of a path comes after ``inside`` is where it is to be in ``target``. ``plan`` covers the names at its top that
    are not there yet; ``damaged`` are those of them that are there and not whole.
    """

    what: str
    package: str
    source: str
    inside: str
    target: str
    wanted: Sequence[Entry]
    tops: tuple[str, ...]
    damaged: tuple[str, ...]
    plan: copyplan.Plan

    @property
    def is_there(self) -> bool:
        return not self.tops

    def staged(self, path: str) -> str:
        """Where ``path`` is until its tree is whole."""
        top, slash, rest = path[len(self.inside) :].partition("/")
        return f"{self.target}/.{top}.partial{slash}{rest}"

    def route(self, path: str) -> tuple[str, str]:
        """From where to where ``path`` is copied."""
        return f"{self.source}/{path}", self.staged(path)


def look(what: str, package: str, source: str, inside: str, target: str, wanted: Sequence[Entry]) -> Tree:
    """What is there of ``wanted`` and what is to be done; nothing is changed.

    A name that is there is only believed when everything below it has its kind and its size. The rename alone does not
    prove it: the volume of a pod outlives a crash of its node, the kubelet then runs us again, and what had not
    reached the disk by then is missing or short. Looking costs milliseconds; an fsync of each file would cost every
    pod seconds. Raises OSError, or Failure for a file that cannot be copied.
    """
    rest: list[Entry] = []
    present: list[Entry] = []
    tops: list[str] = []
    damaged: list[str] = []
    for top, entries in _by_top(wanted, inside).items():
        shown = listing.of(f"{target}/{top}", inside + top)
        if shown:
            short = copyplan.shortfall(entries, {entry.path: entry for entry in shown})
            if short is None:
                continue
            _log.warning("incomplete tree found", what=what, path=f"{target}/{top}", reason=short)
            damaged.append(top)
        tops.append(top)
        rest += entries
        present += shown or listing.of(f"{target}/.{top}.partial", inside + top)
    try:
        plan = copyplan.decide(rest, {entry.path: entry for entry in present})
    except copyplan.UncopyableError as error:
        raise Failure(f"{source}: cannot copy the {what}: {error}") from None
    return Tree(what, package, source, inside, target, rest, tuple(tops), tuple(damaged), plan)


def clear(tree: Tree) -> None:
    """Take away what is in the way of the plan. Raises OSError."""
    for top in tree.damaged:
        staged = tree.staged(tree.inside + top)
        for leftover in reversed(listing.of(staged, tree.inside + top)):
            _remove(leftover, tree.staged(leftover.path))
        os.rename(f"{tree.target}/{top}", staged)
    for entry in tree.plan.reopen:
        os.chmod(tree.staged(entry.path), stat.S_IRWXU)
    for entry in tree.plan.remove:
        _remove(entry, tree.staged(entry.path))


def fill(tree: Tree, ways: tuple[str, ...], stop: Stop) -> None:
    """Carry out the plan, check the result, let it appear; logs ``copied WHAT``. Raises OSError or Failure."""
    started = time.monotonic()
    plan = tree.plan
    for entry in plan.directories:
        os.mkdir(tree.staged(entry.path), stat.S_IRWXU)
    methods = files.copy(tree.what, plan.files, tree.route, ways, stop)
    linker = Copier()  # begins with hard links; where there are none, each name gets a file of its own
    for entry, first in plan.further_names:
        linker.copy(entry, tree.staged(first.path), tree.staged(entry.path), Tally())
        stop.check()
    for entry in plan.links:
        os.symlink(entry.target, tree.staged(entry.path))
        attributes.carry_to_link(entry, tree.staged(entry.path))
    for entry in plan.finish:
        attributes.carry(entry, f"{tree.source}/{entry.path}", tree.staged(entry.path))
    stop.check()
    _show(tree)
    _log.info(
        f"copied {tree.what}",
        package=tree.package,
        path=tree.target,
        files=len(plan.files) + len(plan.further_names) + len(plan.links),
        bytes=plan.bytes,
        kept=plan.kept,
        methods=dict(methods),
        seconds=round(time.monotonic() - started, 3),
    )


def _by_top(wanted: Sequence[Entry], inside: str) -> dict[str, list[Entry]]:
    tops: dict[str, list[Entry]] = {}
    for entry in wanted:
        tops.setdefault(entry.path[len(inside) :].partition("/")[0], []).append(entry)
    return tops


def _remove(entry: Entry, location: str) -> None:
    if entry.is_directory:
        os.rmdir(location)
    else:
        os.unlink(location)


def _show(tree: Tree) -> None:
    """Rename each top to its own name, after a last look that all is there: sizes were compared file by file."""
    for top, entries in _by_top(tree.wanted, tree.inside).items():
        staged = tree.staged(tree.inside + top)
        made = listing.names(staged, tree.inside + top)
        missing = next((entry.path for entry in entries if entry.path not in made), None)
        if missing:
            raise Failure(f"{tree.target}: the copy of the {tree.what} did not arrive whole: {missing} is missing")
        os.rename(staged, f"{tree.target}/{top}")
