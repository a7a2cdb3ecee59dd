"""Quantities and shares, against values that were worked out by hand and against ``fractions``."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfusiond.core import quantity


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("0", 0),
        ("50", 50),
        (50, 50),
        (50.0, 50),
        ("50.0", 50),
        ("+5", 5),
        ("-5", -5),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("1500m", Fraction(3, 2)),
        ("100n", Fraction(1, 10**7)),
        ("3u", Fraction(3, 10**6)),
        ("8000M", 8 * 10**9),
        ("8G", 8 * 10**9),
        ("8Gi", 8 * 2**30),
        ("1Ki", 1024),
        ("1k", 1000),
        ("1E", 10**18),
        ("7Ei", 7 * 2**60),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1.5e-1", Fraction(3, 20)),
        ("8000000000", 8 * 10**9),
    ],
)
def test_a_quantity_has_its_exact_value(written: object, value: Fraction) -> None:
    assert quantity.parse(written) == value


@pytest.mark.parametrize(
    "written",
    ["", " ", "x", "1x", "1 M", " 1", "1\n", "1K", "1ki", "e3", "1e", "--1", "1e1000", "٣", "1" * 65, "nan", "inf",
     True, None, [], {}, math.inf, math.nan, "9Ei", "1e99", 2**63],
)  # fmt: skip
def test_what_is_no_quantity_is_an_error(written: object) -> None:
    with pytest.raises(ValueError, match=r"not a quantity|too large"):
        quantity.parse(written)


@pytest.mark.parametrize("written", ["0.5", "1500m", 0.5, "1n"])
def test_a_fraction_is_no_integer(written: object) -> None:
    with pytest.raises(ValueError, match="not an integer"):
        quantity.integer(written)


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_a_number_of_nano_units_is_exact(count: int) -> None:
    assert quantity.parse(f"{count}n") == Fraction(count, 10**9)


def test_the_documented_half_of_16000_megabytes_is_50_shares() -> None:
    assert quantity.shares_of_memory(8000 * 10**6, 16000, 1) == 50


@pytest.mark.parametrize(("percent", "amount", "shares"), [(50, 1, 50), (100, 2, 200), (1, 1, 1), (25, 4, 100)])
def test_percent_times_amount_is_shares(percent: int, amount: int, shares: int) -> None:
    assert quantity.shares_of_percent(percent, amount) == shares


@given(st.integers(10**6, 2**60), st.integers(1, 10**9), st.integers(1, 1000))
def test_memory_shares_equal_the_documented_formula(memory: int, total: int, amount: int) -> None:
    """[bitfusion.io/gpu] = gpu-memory / TOTAL_GPU_MEMORY * gpu-amount * 100, rounded up."""
    formula = Fraction(memory, total * 10**6) * amount * 100
    assert quantity.shares_of_memory(memory, total, amount) == math.ceil(formula)
