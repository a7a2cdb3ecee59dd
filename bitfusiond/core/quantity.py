"""Kubernetes quantities and GPU shares, in exact arithmetic."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

from bitfusiond.core import names

MEGABYTE = 10**6
LARGEST = 2**63 - 1  # the API server stores no larger one
_LONGEST = 64  # characters; a bound on the work that one string can cause
_SHORT = 18  # digits that are below LARGEST whatever they are
_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))"
    r"(?:(?P<suffix>[KMGTPE]i|[numkMGTPE])|[eE](?P<exponent>[+-]?[0-9]{1,3}))?"
)
_SCALE = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
    "k": Fraction(10**3),
    **{letter: Fraction(10 ** (6 + 3 * power)) for power, letter in enumerate("MGTPE")},
    **{f"{letter}i": Fraction(2 ** (10 + 10 * power)) for power, letter in enumerate("KMGTPE")},
}


def parse(value: object) -> Fraction:
    """The exact value of a Kubernetes quantity: ``"8Gi"``, ``"1500m"``, ``"1e3"``, ``50``.

    Source of the grammar: k8s.io/apimachinery pkg/api/resource, Quantity. Raises ValueError for anything else, and
    for magnitudes above 2^63-1.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        exact = Fraction(value)
    elif isinstance(value, float | Decimal):
        # A number with a point in JSON or YAML: its shortest decimal form is what the user wrote.
        return parse(str(value))
    elif isinstance(value, str) and len(value) <= _LONGEST and (match := _QUANTITY.fullmatch(value)):
        exact = Fraction(match["number"])
        if match["suffix"]:
            exact *= _SCALE[match["suffix"]]
        elif match["exponent"]:
            exact *= Fraction(10) ** int(match["exponent"])
    else:
        raise ValueError("not a quantity")
    if abs(exact) > LARGEST:
        raise ValueError("too large")
    return exact


def integer(value: object) -> int:
    """A quantity that must be whole (``"50"``, ``"1k"``, ``"50.0"``). Raises ValueError where it is not."""
    # Nearly all that come, and a Fraction takes ten times as long.
    if type(value) is int and 0 <= value <= LARGEST:
        return value
    if isinstance(value, str) and len(value) <= _SHORT and value.isascii() and value.isdecimal():
        return int(value)
    exact = parse(value)
    if exact.denominator != 1:
        raise ValueError("not an integer")
    return exact.numerator


def shares_of_percent(percent: int, amount: int) -> int:
    """Shares of ``bitfusion.io/gpu`` for ``amount`` GPUs at ``percent`` of each one's memory; 100 = one GPU."""
    return percent * amount


def fitting(memory: Fraction, amount: Fraction | int, sizes: Mapping[int, int]) -> int:
    """The smallest size that has ``memory``, in its unit, and ``amount`` GPUs have; else the largest that they have.

    ``sizes`` are ascending, each with how many GPUs have it.
    """
    enough = [size for size, count in sizes.items() if count >= amount] or list(sizes)
    return next((size for size in enough if size >= memory), enough[-1])


def shares_of_memory(memory: int, total_megabytes: int, amount: int) -> int:
    """Shares for ``amount`` GPUs with ``memory`` bytes of each one's ``total_megabytes`` (10^6 bytes), rounded up."""
    total = total_megabytes * MEGABYTE
    return -(-memory * amount * names.SHARES_OF_ONE_GPU // total)
