"""Many versions of a value, one for each choice, as one tree that says what is there when.

Nothing is known here of Kubernetes or of Helm: a value is what JSON has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from operator import itemgetter
from typing import Any, TypeVar

from bitfusiond.operate.chart.conditions import ALWAYS, Chosen, Formula, explain, holds

KeyT = TypeVar("KeyT", bound=Hashable)
Versions = Mapping[Chosen, Any]


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same whatever is chosen."""

    value: Any


@dataclass(frozen=True, slots=True)
class Object:
    entries: tuple[tuple[Formula, str, Node], ...]


@dataclass(frozen=True, slots=True)
class List:
    items: tuple[tuple[Formula, Node], ...]


@dataclass(frozen=True, slots=True)
class Either:
    """The first whose formula holds; the last one's always does."""

    cases: tuple[tuple[Formula, Fixed], ...]


Node = Fixed | Object | List | Either


def merge(versions: Versions) -> Node:
    """Raises Failure where no formula of :func:`conditions.explain` says what differs."""
    distinct = {_text(value): value for value in versions.values()}
    if len(distinct) == 1:
        return Fixed(next(iter(distinct.values())))
    kinds = {type(value) for value in versions.values()}
    if kinds == {dict}:
        return _objects(versions)
    if kinds == {list}:
        return _lists(versions)
    return _either(versions)


def _objects(versions: Versions) -> Object:
    among = list(versions)
    entries = []
    for key in sorted(set().union(*versions.values())):
        having = {chosen: value[key] for chosen, value in versions.items() if key in value}
        entries.append((explain(list(having), among), key, merge(having)))
    return Object(tuple(entries))


def _lists(versions: Versions) -> List:
    """Elements are the same one by their names; without names in lists of one length by their places, else if equal."""
    among = list(versions)
    if (identity := _identity(versions.values())) is None:
        columns = zip(*versions.values(), strict=True)
        return List(tuple((ALWAYS, merge(dict(zip(among, column, strict=True)))) for column in columns))
    elements = {chosen: {identity(each): each for each in listed} for chosen, listed in versions.items()}
    items = []
    for key in ordered(elements.values()):
        having = {chosen: of[key] for chosen, of in elements.items() if key in of}
        items.append((explain(list(having), among), merge(having)))
    return List(tuple(items))


def _identity(lists: Iterable[list[Any]]) -> Callable[[Any], str] | None:
    """By what elements of different lists are the same; None: by their places."""
    lists = list(lists)
    elements = [each for listed in lists for each in listed]
    if all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in elements):
        return itemgetter("name")
    return None if len({len(listed) for listed in lists}) == 1 else _text


def _either(versions: Versions) -> Either:
    """The most frequent one is for all else."""
    among = list(versions)
    by_value: dict[str, list[Chosen]] = {}
    for chosen, value in versions.items():
        by_value.setdefault(_text(value), []).append(chosen)
    *rare, frequent = sorted(by_value, key=lambda each: len(by_value[each]))
    cases = [(explain(by_value[each], among), Fixed(json.loads(each))) for each in rare]
    return Either((*cases, (ALWAYS, Fixed(json.loads(frequent)))))


def ordered(sequences: Iterable[Iterable[KeyT]]) -> list[KeyT]:
    """All that is in the sequences, in an order that is that of each."""
    sorter: TopologicalSorter[KeyT] = TopologicalSorter()
    for sequence in sequences:
        before: list[KeyT] = []
        for each in sequence:
            sorter.add(each, *before)
            before = [each]
    return list(sorter.static_order())


def chosen_of(node: Node, chosen: Chosen) -> Any:
    """What the tree says for these choices: the opposite of :func:`merge`."""
    match node:
        case Fixed(value):
            return value
        case Object(entries):
            return {key: chosen_of(each, chosen) for formula, key, each in entries if holds(formula, chosen)}
        case List(items):
            return [chosen_of(each, chosen) for formula, each in items if holds(formula, chosen)]
        case Either(cases):
            return next(each.value for formula, each in cases if holds(formula, chosen))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
