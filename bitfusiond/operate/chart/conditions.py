"""Which choices explain that something is there: a formula over the names of options, found by looking."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from bitfusiond.errors import Failure

Chosen = frozenset[str]
"""The options that somebody chose, by name; all others are as they are by default."""


@dataclass(frozen=True, slots=True)
class Term:
    """All of ``wanted`` are chosen and none of ``unwanted``."""

    wanted: frozenset[str] = frozenset()
    unwanted: frozenset[str] = frozenset()

    def holds(self, chosen: Chosen) -> bool:
        return self.wanted <= chosen and not self.unwanted & chosen

    def __and__(self, other: Term) -> Term:
        return Term(self.wanted | other.wanted, self.unwanted | other.unwanted)


Formula = tuple[Term, ...]
"""One of its terms holds. ``ALWAYS`` has a term that asks for nothing."""
ALWAYS: Formula = (Term(),)


def holds(formula: Formula, chosen: Chosen) -> bool:
    return any(term.holds(chosen) for term in formula)


def explain(where: Collection[Chosen], among: Sequence[Chosen]) -> Formula:
    """The shortest formula that holds, of ``among``, for those that are in ``where``.

    A term has two names, or one and all that take it away beside that one. Raises Failure where no such terms do.
    """
    wanted = set(where)
    if len(wanted) == len(among):
        return ALWAYS
    masks = {term: _mask(term, among) for term in (*_terms(among), *_excluding(wanted, among))}
    goal = sum(1 << place for place, each in enumerate(among) if each in wanted)
    fitting = {term: mask for term, mask in masks.items() if mask and not mask & ~goal}
    found: list[Term] = []
    left = goal
    while left:
        term = max(fitting, key=lambda each: (fitting[each] & left).bit_count(), default=None)
        if term is None or not fitting[term] & left:
            raise Failure("something of the manifests depends on three choices at once, and no formula here says it")
        found.append(term)
        left &= ~fitting[term]
    return tuple(found)


def _excluding(wanted: Collection[Chosen], among: Sequence[Chosen]) -> Iterator[Term]:
    """For nothing and for each name by itself: with none of those that, beside it, take away what is wanted."""
    for one in (each for each in among if len(each) < 2 and each in wanted):
        others = (each - one for each in among if one < each and len(each) == len(one) + 1 and each not in wanted)
        yield Term(one, frozenset().union(*others))


def _mask(term: Term, among: Sequence[Chosen]) -> int:
    return sum(1 << place for place, each in enumerate(among) if term.holds(each))


def _terms(among: Sequence[Chosen]) -> Iterator[Term]:
    """The simple ones first: of several that explain as much the first is taken."""
    names = sorted(frozenset().union(*among))
    singles = [*(Term(frozenset({each})) for each in names), *(Term(unwanted=frozenset({each})) for each in names)]
    yield from singles
    for one, other in combinations(singles, 2):
        yield one & other
