"""A tree that is to appear in a volume: looked at, planned, copied under a hidden name, shown under its own.

Names with ``partial`` in them are ours: ``.NAME.partial`` beside NAME, in one directory, so that a rename is all that
makes a whole tree appear.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from bitfusiond import logs
from bitfusiond.core import copyplan
from bitfusiond.core.copyplan import Entry
from bitfusiond.errors import Failure
from bitfusiond.populate import attributes, files, leftovers, listing
from bitfusiond.populate.content import Copier
from bitfusiond.populate.crew import Tally
from bitfusiond.populate.stopping import Stop

_LONGEST = 255 - len("..partial")  # bytes
_log = logs.Log("populate")


@dataclass(frozen=True, slots=True)
class Tree:
    """What is to be in a directory of a volume; its paths count from ``source``.

    What of a path comes after ``inside`` is where it is to be in ``target``. ``plan`` covers the names at its top that
    are not there yet; ``damaged`` are those of them that are there and not whole.
    """

    what: str
    package: str
    source: str
    inside: str
    target: str
    tops: tuple[str, ...]
    damaged: tuple[str, ...]
    plan: copyplan.Plan

    @property
    def is_there(self) -> bool:
        return not self.tops

    def staged(self, path: str) -> str:
        """Where ``path`` is until its tree is whole."""
        top, slash, rest = path[len(self.inside) :].partition("/")
        return f"{self.target}/{_hidden(top)}{slash}{rest}"

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
        shown = listing.of(f"{target}/{top}", inside + top, closed=True)
        if shown:
            short = copyplan.shortfall(entries, {entry.path: entry for entry in shown})
            if short is None:
                continue
            _log.warning("incomplete tree found", what=what, path=f"{target}/{top}", reason=short)
            damaged.append(top)
        tops.append(top)
        rest += entries
        present += shown or listing.of(f"{target}/{_hidden(top)}", inside + top, closed=True)
    try:
        plan = copyplan.decide(rest, {entry.path: entry for entry in present})
    except copyplan.UncopyableError as error:
        raise Failure(f"{source}: cannot copy the {what}: {error}") from None
    return Tree(what, package, source, inside, target, tuple(tops), tuple(damaged), plan)


def clear(tree: Tree) -> None:
    """Take away what is in the way of the plan. Raises OSError."""
    for top in tree.damaged:
        staged = tree.staged(tree.inside + top)
        leftovers.remove(staged)
        os.rename(f"{tree.target}/{top}", staged)
    for entry in tree.plan.reopen:
        os.chmod(tree.staged(entry.path), stat.S_IRWXU)
    for entry in tree.plan.remove:
        # What a workload closed to us under another user may stay; were it in the way, the copy would say so.
        with contextlib.suppress(PermissionError):
            leftovers.remove(tree.staged(entry.path))


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
    _show(tree, methods.total())
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


def _by_top(wanted: Sequence[Entry], inside: str) -> dict[str, Sequence[Entry]]:
    if not inside:
        return {wanted[0].path: wanted}
    tops: dict[str, list[Entry]] = {}
    for entry in wanted:
        tops.setdefault(entry.path[len(inside) :].partition("/")[0], []).append(entry)
    return {**tops}


@cache
def _hidden(top: str) -> str:
    """Where the name itself has no room for ours (255 bytes are allowed), a digest of it stands for it."""
    if len(os.fsencode(top)) > _LONGEST:
        import hashlib  # noqa: PLC0415 - hardly ever

        top = hashlib.sha256(os.fsencode(top)).hexdigest()
    return f".{top}.partial"


def _show(tree: Tree, copied: int) -> None:
    """Rename each top to its own name, after a last look at how many files were made.

    Each file is made under a name that was not there, and its size is compared when it is whole; what is left to be
    found is a file that nobody made.
    """
    if copied != len(tree.plan.files):
        raise Failure(
            f"{tree.target}: the copy of the {tree.what} did not arrive whole: "
            f"{copied} of {len(tree.plan.files)} files were made"
        )
    for top in tree.tops:
        os.rename(tree.staged(tree.inside + top), f"{tree.target}/{top}")
