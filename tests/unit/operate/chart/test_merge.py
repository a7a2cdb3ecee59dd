"""Versions of a value, one for each choice, become one tree that says each of them again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfusiond.errors import Failure
from bitfusiond.operate.chart.conditions import ALWAYS, Chosen, Term, explain, holds
from bitfusiond.operate.chart.merge import chosen_of, merge, ordered

NONE: Chosen = frozenset()
A, B, AB = frozenset("a"), frozenset("b"), frozenset("ab")
AMONG = [NONE, A, B, AB]


@pytest.mark.parametrize(
    ("where", "formula"),
    [
        (AMONG, ALWAYS),
        ([A, AB], (Term(A),)),
        ([NONE, B], (Term(unwanted=A),)),
        ([AB], (Term(AB),)),
        ([A], (Term(A, B),)),
        ([A, B, AB], (Term(A), Term(B))),
    ],
)
def test_the_simplest_formula_is_found(where: list[Chosen], formula: tuple[Term, ...]) -> None:
    assert explain(where, AMONG) == formula


@given(st.sets(st.sampled_from(AMONG)))
def test_a_formula_holds_where_it_should_and_nowhere_else(where: set[Chosen]) -> None:
    formula = explain(where, AMONG)
    assert {each for each in AMONG if holds(formula, each)} == where


def test_what_three_choices_make_together_is_refused() -> None:
    everything = frozenset("abc")
    with pytest.raises(Failure, match="depends on three choices at once"):
        explain([everything], [NONE, A, B, AB, frozenset("c"), frozenset("ac"), frozenset("bc"), everything])


@pytest.mark.parametrize(
    "versions",
    [
        {NONE: 1, A: 1, B: 1, AB: 1},
        {NONE: 1, A: 2, B: 1, AB: 2},
        {NONE: {}, A: {"x": 1}, B: {"y": 1}, AB: {"x": 1, "y": 1}},
        {NONE: [1], A: [1, 2], B: [1, 3], AB: [1, 2, 3]},
        {NONE: [0, 9], A: [0, 2, 9], B: [0, 3, 9], AB: [0, 2, 3, 9]},
        {NONE: [{"x": 1}], A: [{"x": 2}], B: [{"x": 1, "y": 1}], AB: [{"x": 2, "y": 1}]},
        {NONE: [{"x": 1}], A: [{"x": 2}, {"x": 3}], B: [{"x": 1}], AB: [{"x": 2}, {"x": 3}]},
        {NONE: {"x": [1]}, A: {"x": {"y": 1}}, B: {"x": None}, AB: {"x": {"y": 1}}},
    ],
)
def test_the_tree_says_every_version_again(versions: dict[Chosen, Any]) -> None:
    tree = merge(versions)
    assert {chosen: chosen_of(tree, chosen) for chosen in versions} == versions


def test_an_order_is_that_of_all() -> None:
    found = ordered([["a", "d"], ["a", "c", "d"], ["a", "b", "d"], ["b", "c"]])
    assert found == ["a", "b", "c", "d"]
